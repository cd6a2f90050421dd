"""What the SDK says over gRPC about images and datasets. See `gateway` for the rest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import grpc

from offshelf.client import wire
from offshelf.errors import Cancelled, Unavailable
from offshelf.rpc.limits import CHUNK_BYTES
from offshelf.v1 import dataset_pb2, dataset_pb2_grpc

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from offshelf.client.records import Dataset, Removal

ASKED_AT_ONCE = 20_000
"""Images of one question. Many at once are found by lists, which are faster than one by one."""

_FIND_SECONDS = 120.0
_LIST_SECONDS = 60.0
_CREATE_SECONDS = 600.0
"""All images are looked for once more, and a deletion that is going on is waited for."""
_REMOVE_SECONDS = 3600.0
_SILENT_SECONDS = 90.0
"""A server that takes nothing for so long counts as gone."""
_LOOK_SECONDS = 0.25
_ITEMS_A_MESSAGE = 2000


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of an image, or all of a small one."""

    image: str
    """SHA-256 of the whole image."""
    size: int
    """Bytes of the whole image."""
    offset: int
    data: bytes
    digest: str = ""
    """SHA-256 of the data; may be left out when it is the whole image."""


class Listed(Protocol):
    """An image of a dataset."""

    @property
    def path(self) -> str: ...  # noqa: D102 - said by the class

    @property
    def label(self) -> str: ...  # noqa: D102 - said by the class

    @property
    def group(self) -> str: ...  # noqa: D102 - said by the class

    @property
    def digest(self) -> str: ...  # noqa: D102 - said by the class


class DatasetGateway:
    """The part of a server that knows images and datasets.

    Parameters
    ----------
    channel
        For all but uploads.
    open_channel
        Opens one more, with a connection of its own.
    """

    def __init__(self, channel: grpc.Channel, open_channel: Callable[[], grpc.Channel]) -> None:
        self._stub = dataset_pb2_grpc.DatasetServiceStub(channel)
        self._open_channel = open_channel

    def find_missing(self, digests: Sequence[str]) -> list[str]:
        """Ask which of these images, `ASKED_AT_ONCE` at most, the server does not have."""
        request = dataset_pb2.FindMissingImagesRequest(images=map(bytes.fromhex, digests))
        answer = self._stub.FindMissingImages(request, timeout=_FIND_SECONDS)
        return [image.hex() for image in answer.missing]

    def open_line(self) -> UploadLine:
        """Open a connection for uploads; close it after use."""
        return UploadLine(self._open_channel())

    def create(self, name: str, items: Sequence[Listed]) -> Dataset:
        """Make a dataset of uploaded images."""

        def requests() -> Iterator[dataset_pb2.CreateDatasetRequest]:
            yield dataset_pb2.CreateDatasetRequest(header=dataset_pb2.DatasetHeader(name=name))
            for listed in _listings(items):
                yield dataset_pb2.CreateDatasetRequest(items=dataset_pb2.DatasetItems(items=listed))

        answer = self._stub.CreateDataset(requests(), timeout=_CREATE_SECONDS)
        return wire.dataset_record(answer.dataset)

    def get(self, digest: str) -> Dataset:
        """Show one dataset."""
        return wire.dataset_record(self._stub.GetDataset(dataset_pb2.GetDatasetRequest(digest=digest)).dataset)

    def list(self) -> Iterator[Dataset]:
        """Yield all datasets, newest first."""
        token = ""
        while True:
            request = dataset_pb2.ListDatasetsRequest(page_size=500, page_token=token)
            answer = self._stub.ListDatasets(request, timeout=_LIST_SECONDS)
            yield from map(wire.dataset_record, answer.datasets)
            token = answer.next_page_token
            if not token:
                return

    def delete(self, digest: str, *, dry_run: bool) -> Removal:
        """Delete a dataset with all that nothing else needs."""
        request = dataset_pb2.DeleteDatasetRequest(digest=digest, dry_run=dry_run)
        return wire.removal_record(self._stub.DeleteDataset(request, timeout=_REMOVE_SECONDS).removal)

    def collect_garbage(self, *, days: int, dry_run: bool) -> Removal:
        """Delete what nothing needs any more."""
        request = dataset_pb2.CollectGarbageRequest(days=days, delete=not dry_run)
        return wire.removal_record(self._stub.CollectGarbage(request, timeout=_REMOVE_SECONDS).removal)


class UploadLine:
    """A connection for uploads."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel
        self._stub = dataset_pb2_grpc.DatasetServiceStub(channel)

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def send(self, parts: Iterable[Part], stop: threading.Event) -> dict[str, str]:
        """Send images in one call; return the reason for each that the server refuses.

        Parameters
        ----------
        parts
            Read in a thread of gRPC's, as fast as the server takes them. Must not raise.
        stop
            Set it to end the call.

        Raises
        ------
        Unavailable
            If the connection is lost, or the server takes nothing more.
        Cancelled
            If `stop` was set.
        """
        alive = [time.monotonic()]

        def requests() -> Iterator[dataset_pb2.UploadImagesRequest]:
            for request in _messages(parts):
                alive[0] = time.monotonic()
                yield request
                alive[0] = time.monotonic()

        call = self._stub.UploadImages.future(requests())
        try:
            while True:
                try:
                    answer = call.result(timeout=_LOOK_SECONDS)
                except grpc.FutureTimeoutError:
                    if stop.is_set():
                        raise Cancelled("The upload was stopped.") from None
                    if time.monotonic() - alive[0] > _SILENT_SECONDS:
                        raise Unavailable("The server takes nothing more.") from None
                else:
                    return {refused.image.hex(): refused.reason for refused in answer.refused}
        finally:
            call.cancel()


def _listings(items: Iterable[Listed]) -> Iterator[list[dataset_pb2.DatasetItem]]:
    """Divide a description, so that a message stays within a MiB unless a single item does not."""
    held: list[dataset_pb2.DatasetItem] = []
    size = 0
    for item in items:
        message = dataset_pb2.DatasetItem(
            path=item.path, label=item.label, group=item.group, image=bytes.fromhex(item.digest)
        )
        bytes_ = message.ByteSize()
        if held and (len(held) == _ITEMS_A_MESSAGE or size + bytes_ > CHUNK_BYTES):
            yield held
            held, size = [], 0
        held.append(message)
        size += bytes_
    if held:
        yield held


def _messages(parts: Iterable[Part]) -> Iterator[dataset_pb2.UploadImagesRequest]:
    """Put small images together, so that a message has up to a MiB."""
    held: list[dataset_pb2.ImagePart] = []
    size = 0
    for part in parts:
        if held and size + len(part.data) > CHUNK_BYTES:
            yield dataset_pb2.UploadImagesRequest(parts=held)
            held, size = [], 0
        held.append(
            dataset_pb2.ImagePart(
                image=bytes.fromhex(part.image),
                size=part.size,
                offset=part.offset,
                data=part.data,
                data_digest=bytes.fromhex(part.digest),
            )
        )
        size += len(part.data)
    if held:
        yield dataset_pb2.UploadImagesRequest(parts=held)
