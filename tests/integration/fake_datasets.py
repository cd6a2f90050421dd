"""A service of datasets that only pretends, beside the pretended orchestrator."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from offshelf.errors import NotFound, ResourceExhausted
from offshelf.v1 import dataset_pb2 as pb
from offshelf.v1 import dataset_pb2_grpc
from tests.integration.fake_orchestrator import check_token, fail

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class FakeDatasets(dataset_pb2_grpc.DatasetServiceServicer):
    """Holds images and datasets in dictionaries."""

    images: dict[bytes, bytes] = field(default_factory=dict)
    datasets: dict[str, pb.Dataset] = field(default_factory=dict)
    busy: int = 0
    """So many uploads are turned away."""
    refuses: int = 0
    """So many images are refused."""
    sent: int = 0
    """Parts that came."""
    stuck: bool = False
    """Uploads are never answered."""
    uploading: threading.Event = field(default_factory=threading.Event)
    removals: list[str] = field(default_factory=list)
    """What was asked to go: a digest, or days; with "?" for dry runs."""

    def FindMissingImages(  # noqa: N802
        self, request: pb.FindMissingImagesRequest, context: Any
    ) -> pb.FindMissingImagesResponse:
        """Say what is not there."""
        check_token(context)
        return pb.FindMissingImagesResponse(missing=[image for image in request.images if image not in self.images])

    def UploadImages(  # noqa: N802
        self, request_iterator: Iterator[pb.UploadImagesRequest], context: Any
    ) -> pb.UploadImagesResponse:
        """Take images that come in one part each."""
        check_token(context)
        if self.busy > 0:
            self.busy -= 1
            fail(context, ResourceExhausted("Too many uploads are going on: try again in a moment."))
        refused = []
        for request in request_iterator:
            for part in request.parts:
                self.sent += 1
                if self.refuses:
                    self.refuses -= 1
                    refused.append(pb.RefusedImage(image=part.image, reason="arrived damaged"))
                else:
                    assert hashlib.sha256(part.data).digest() == part.image
                    self.images[part.image] = part.data
        self.uploading.set()
        if self.stuck:
            left = threading.Event()
            context.add_callback(left.set)
            left.wait()
        return pb.UploadImagesResponse(refused=refused)

    def CreateDataset(  # noqa: N802
        self, request_iterator: Iterator[pb.CreateDatasetRequest], context: Any
    ) -> pb.CreateDatasetResponse:
        """Name a dataset after its paths."""
        check_token(context)
        header, *parts = request_iterator
        items = [item for part in parts for item in part.items.items]
        assert all(item.image in self.images for item in items)
        digest = hashlib.sha256("\n".join(sorted(item.path for item in items)).encode()).hexdigest()
        made = pb.Dataset(
            digest=digest,
            name=header.header.name,
            source=f"store:{digest}",
            images=len(items),
            bytes=sum(len(self.images[item.image]) for item in items),
            classes=sorted({item.label for item in items}),
            user="ada",
        )
        made.created_at.GetCurrentTime()
        self.datasets[digest] = made
        return pb.CreateDatasetResponse(dataset=made)

    def GetDataset(self, request: pb.GetDatasetRequest, context: Any) -> pb.GetDatasetResponse:  # noqa: N802
        """Show a dataset."""
        check_token(context)
        return pb.GetDatasetResponse(dataset=self._find(request.digest, context))

    def ListDatasets(self, request: pb.ListDatasetsRequest, context: Any) -> pb.ListDatasetsResponse:  # noqa: N802
        """List all, one a page."""
        check_token(context)
        number = int(request.page_token or 0)
        page = list(reversed(self.datasets.values()))[number : number + 1]
        more = number + 1 < len(self.datasets)
        return pb.ListDatasetsResponse(datasets=page, next_page_token=str(number + 1) if more else "")

    def DeleteDataset(self, request: pb.DeleteDatasetRequest, context: Any) -> pb.DeleteDatasetResponse:  # noqa: N802
        """Delete a dataset and nothing else."""
        check_token(context)
        self._find(request.digest, context)
        self.removals.append(f"{request.digest}{'?' * request.dry_run}")
        if not request.dry_run:
            del self.datasets[request.digest]
        return pb.DeleteDatasetResponse(removal=pb.Removal(datasets=1, images=2, segments_rewritten=1, bytes=3 << 20))

    def CollectGarbage(  # noqa: N802
        self, request: pb.CollectGarbageRequest, context: Any
    ) -> pb.CollectGarbageResponse:
        """Find one segment."""
        check_token(context)
        self.removals.append(f"{request.days} days{'?' * (not request.delete)}")
        return pb.CollectGarbageResponse(removal=pb.Removal(segments=1, bytes=1000))

    def _find(self, digest: str, context: Any) -> pb.Dataset:
        if digest not in self.datasets:
            fail(context, NotFound(f"There is no dataset {digest!r}."))
        return self.datasets[digest]
