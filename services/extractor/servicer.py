"""The extractor's RPCs: protobuf to plain values and back. What each means stands in the contract (protos/)."""

# ruff: noqa: N802  (gRPC's names)

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing
from typing import TYPE_CHECKING

from offshelf.errors import InvalidInput
from offshelf.images import ImageStatus
from offshelf.rpc.offload import Offload
from offshelf.services.extractor.segments import SegmentOutcome, SegmentRequest
from offshelf.v1 import extractor_pb2 as pb
from offshelf.v1 import extractor_pb2_grpc

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Callable

    import grpc.aio

    from offshelf.features import SegmentRow
    from offshelf.services.extractor.segments import SegmentExtractor
    from offshelf.services.extractor.serving import Serves

_CALLS = 4
"""Calls worked on at once: a unit, the next one whose images are read meanwhile, and room for encoded images."""
_QUEUED_CALLS = 16
_LIFE_SECONDS = 5.0
"""A sign of life is sent after so long without progress."""
_PROGRESS_SECONDS = 0.25
"""Progress is told no more often than this."""

_STUCK_SECONDS = 60.0
"""An inference that takes so long will never end."""

_STATUSES = {
    ImageStatus.OK: pb.IMAGE_STATUS_OK,
    ImageStatus.UNREADABLE: pb.IMAGE_STATUS_UNREADABLE,
    ImageStatus.TOO_LARGE: pb.IMAGE_STATUS_TOO_LARGE,
    ImageStatus.CRASHED: pb.IMAGE_STATUS_CRASHED,
    ImageStatus.HUNG: pb.IMAGE_STATUS_HUNG,
}


class ExtractorServicer(extractor_pb2_grpc.ExtractorServiceServicer):
    """Converts, calls one method, converts."""

    def __init__(self, extractors: Serves, segments: SegmentExtractor, offload: Offload) -> None:
        self._extractors = extractors
        self._segments = segments
        self._offload = offload

    async def Describe(
        self,
        request: pb.DescribeRequest,  # noqa: ARG002 - gRPC's form
        context: grpc.aio.ServicerContext[pb.DescribeRequest, pb.DescribeResponse],  # noqa: ARG002
    ) -> pb.DescribeResponse:
        """Say which extractor this is."""
        only = self._extractors.only
        if only is None:
            return pb.DescribeResponse()
        return pb.DescribeResponse(extractor=only.spec.name, fingerprint=only.fingerprint, dimension=only.dimension)

    async def ExtractSegment(
        self,
        request: pb.ExtractSegmentRequest,
        context: grpc.aio.ServicerContext[pb.ExtractSegmentRequest, pb.ExtractSegmentResponse],  # noqa: ARG002
    ) -> AsyncIterator[pb.ExtractSegmentResponse]:
        """Extract images of a dataset into a segment."""
        wanted = SegmentRequest(
            extractor=request.extractor,
            fingerprint=request.fingerprint,
            dataset=request.dataset,
            source=request.source,
            images=tuple(image.hex() for image in request.images),
        )

        def work(emit: Callable[[int | SegmentOutcome], None], stop: threading.Event) -> None:
            told = time.monotonic()

            def progress(done: int) -> None:
                nonlocal told
                if time.monotonic() - told >= _PROGRESS_SECONDS:
                    told = time.monotonic()
                    emit(done)

            emit(self._segments.extract(wanted, on_progress=progress, stop=stop))

        done = 0
        async with aclosing(self._offload.iterate(work, idle=_LIFE_SECONDS)) as events:
            async for event in events:
                if isinstance(event, SegmentOutcome):
                    yield pb.ExtractSegmentResponse(written=_written(event))
                else:
                    done = done if event is None else event
                    yield pb.ExtractSegmentResponse(progress=pb.ExtractionProgress(images_done=done))

    async def ExtractImages(
        self,
        request: pb.ExtractImagesRequest,
        context: grpc.aio.ServicerContext[pb.ExtractImagesRequest, pb.ExtractImagesResponse],  # noqa: ARG002
    ) -> pb.ExtractImagesResponse:
        """Extract images that came along."""
        if not request.images:
            raise InvalidInput("No image was sent.")

        def work(*, stop: threading.Event) -> list[SegmentRow]:
            with self._extractors.lease(request.extractor, request.fingerprint) as extraction:
                return extraction.extract_bytes(request.images, stop=stop)

        rows = await self._offload.run(work)
        return pb.ExtractImagesResponse(results=[_embedding(row) for row in rows])


class ExtractorService:
    """The life of an extractor: what `offshelf.rpc.server` serves."""

    name = "offshelf.v1.ExtractorService"

    def __init__(self, extractors: Serves, segments: SegmentExtractor) -> None:
        self._extractors = extractors
        self._offload = Offload(_CALLS, _QUEUED_CALLS)
        self._servicer = ExtractorServicer(extractors, segments, self._offload)

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer to the server."""
        extractor_pb2_grpc.add_ExtractorServiceServicer_to_server(self._servicer, server)

    async def warm_up(self) -> None:
        """Load what every call needs: of one extractor, its network."""
        await asyncio.to_thread(self._extractors.warm_up)

    def is_live(self) -> bool:
        """Tell whether networks still answer; decoders that hang are ended one by one and do not count."""
        return self._extractors.seconds_in_inference < _STUCK_SECONDS

    async def close(self) -> None:
        """End the work and its processes."""
        # In this order: work in its last image would wait for a decoder that is no longer there.
        await self._offload.close()
        await asyncio.to_thread(self._extractors.close)


def _written(outcome: SegmentOutcome) -> pb.SegmentWritten:
    return pb.SegmentWritten(
        key=outcome.key,
        images_extracted=outcome.extracted,
        images_quarantined=outcome.quarantined,
        dimension=outcome.dimension,
        unread=[pb.UnreadImage(image=bytes.fromhex(lost.image), reason=lost.reason) for lost in outcome.unread],
    )


def _embedding(row: SegmentRow) -> pb.ImageEmbedding:
    return pb.ImageEmbedding(
        embedding=() if row.vector is None else row.vector.tolist(), status=_STATUSES[row.status], reason=row.reason
    )
