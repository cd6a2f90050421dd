"""The RPCs of datasets: protobuf to domain and back. What each means stands in the contract (protos/)."""

# ruff: noqa: N802, D102  (gRPC's names; the contract documents them)

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from offshelf.datasets import Item
from offshelf.errors import InvalidInput
from offshelf.rpc.audit import name_target
from offshelf.rpc.auth import current_caller
from offshelf.services.orchestrator.holdings.incoming import Piece
from offshelf.services.orchestrator.holdings.shelf import check_number_asked
from offshelf.v1 import dataset_pb2 as pb
from offshelf.v1 import dataset_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    import grpc.aio

    from offshelf.datasets.cards import DatasetCard
    from offshelf.services.orchestrator.holdings.library import Library
    from offshelf.services.orchestrator.holdings.references import Removal
    from offshelf.services.orchestrator.holdings.uploads import Uploads

_MOST_PARTS = 4096
_MOST_ITEMS = 20_000
"""In one message: as objects of ours, a part or an item of a few bytes takes hundreds."""

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class DatasetServicer(dataset_pb2_grpc.DatasetServiceServicer):
    """Converts, calls one method, converts."""

    def __init__(self, library: Library, uploads: Uploads) -> None:
        self._library = library
        self._uploads = uploads

    async def FindMissingImages(
        self, request: pb.FindMissingImagesRequest, context: Context
    ) -> pb.FindMissingImagesResponse:
        del context
        check_number_asked(len(request.images))
        missing = await self._library.missing(current_caller().name, [image.hex() for image in request.images])
        return pb.FindMissingImagesResponse(missing=map(bytes.fromhex, missing))

    async def UploadImages(
        self, request_iterator: AsyncIterator[pb.UploadImagesRequest], context: Context
    ) -> pb.UploadImagesResponse:
        del context
        sent = _Sent()
        try:
            outcome = await self._uploads.receive(current_caller().name, _pieces(request_iterator, sent))
        finally:
            name_target(f"images: {sent.images}")
        return pb.UploadImagesResponse(
            images_stored=outcome.stored,
            refused=[
                pb.RefusedImage(image=bytes.fromhex(digest), reason=reason)
                for digest, reason in outcome.refused.items()
            ],
        )

    async def CreateDataset(
        self, request_iterator: AsyncIterator[pb.CreateDatasetRequest], context: Context
    ) -> pb.CreateDatasetResponse:
        del context
        described = _description(request_iterator)
        card = await self._library.create(current_caller().name, described, on_digest=name_target)
        return pb.CreateDatasetResponse(dataset=_dataset(card))

    async def GetDataset(self, request: pb.GetDatasetRequest, context: Context) -> pb.GetDatasetResponse:
        del context
        return pb.GetDatasetResponse(dataset=_dataset(await self._library.get(request.digest)))

    async def ListDatasets(self, request: pb.ListDatasetsRequest, context: Context) -> pb.ListDatasetsResponse:
        del context
        cards, token = await self._library.list(limit=request.page_size, token=request.page_token)
        return pb.ListDatasetsResponse(datasets=map(_dataset, cards), next_page_token=token)

    async def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Context) -> pb.DeleteDatasetResponse:
        del context
        removal = await self._library.delete(request.digest, dry_run=request.dry_run)
        return pb.DeleteDatasetResponse(removal=_removal(removal))

    async def CollectGarbage(self, request: pb.CollectGarbageRequest, context: Context) -> pb.CollectGarbageResponse:
        del context
        removal = await self._library.collect_garbage(days=request.days, dry_run=not request.delete)
        return pb.CollectGarbageResponse(removal=_removal(removal))


@dataclass(slots=True)
class _Sent:
    """What a client has begun to send, whatever becomes of it."""

    images: int = 0


async def _pieces(requests: AsyncIterator[pb.UploadImagesRequest], sent: _Sent) -> AsyncIterator[Sequence[Piece]]:
    async for request in requests:
        if len(request.parts) > _MOST_PARTS:
            raise InvalidInput(f"A message holds more than {_MOST_PARTS} parts of images: send them in several.")
        sent.images += sum(not part.offset for part in request.parts)
        yield [
            Piece(
                image=part.image.hex(),
                size=part.size,
                offset=part.offset,
                data=part.data,
                digest=part.data_digest.hex(),
            )
            for part in request.parts
        ]


async def _description(requests: AsyncIterator[pb.CreateDatasetRequest]) -> AsyncIterator[str | Sequence[Item]]:
    async for request in requests:
        match request.WhichOneof("content"):
            case "header":
                if not request.header.name:
                    raise InvalidInput("A dataset needs a name.")
                yield request.header.name
            case "items":
                if len(request.items.items) > _MOST_ITEMS:
                    raise InvalidInput(f"A message holds more than {_MOST_ITEMS} items: send them in several.")
                yield [Item(item.path, item.label, item.group, item.image.hex()) for item in request.items.items]
            case _:
                yield ()


def _dataset(card: DatasetCard) -> pb.Dataset:
    created = Timestamp()
    created.FromDatetime(card.created_at)
    return pb.Dataset(
        digest=card.digest,
        name=card.name,
        source=card.source,
        images=card.images,
        bytes=card.bytes,
        classes=card.classes,
        created_at=created,
        user=card.user,
    )


def _removal(removal: Removal) -> pb.Removal:
    return pb.Removal(
        images=removal.images,
        segments=removal.segments,
        segments_rewritten=removal.segments_rewritten,
        tables=removal.tables,
        scores=removal.scores,
        models=removal.models,
        reports=removal.reports,
        datasets=removal.datasets,
        others=removal.others,
        bytes=removal.bytes,
    )
