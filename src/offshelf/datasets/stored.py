"""A dataset whose images lie in the store, each under its digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.datasets.model import MAX_IMAGE_BYTES, Entry, ImageUnread
from offshelf.datasets.tree import CHUNK_BYTES, too_long
from offshelf.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offshelf.datasets.model import Dataset
    from offshelf.store.objects import ObjectStore


class StoreSource:
    """Images that were uploaded.

    Parameters
    ----------
    store
        Holds the images.
    dataset
        Says which image belongs to which path.
    """

    uri = "store:"
    ignored = 0

    def __init__(self, store: ObjectStore, dataset: Dataset) -> None:
        self._store = store
        self._dataset = dataset
        self._digests = {item.path: item.digest for item in dataset.items}

    def entries(self) -> list[Entry]:
        """List the images, sorted by path. Their sizes are not asked for: 100,000 questions to a bucket take long."""
        return [Entry(path=item.path, label=item.label, group=item.group, size=0) for item in self._dataset.items]

    def chunks(self, path: str, limit: int = MAX_IMAGE_BYTES) -> Iterator[bytes]:
        """Yield an image's bytes; see `ImageSource`. May also raise what the store raises."""
        from offshelf.store import keys

        digest = self._digests.get(path)
        info = self._store.stat(keys.image(digest)) if digest else None
        if digest is None or info is None:
            raise ImageUnread("does not exist")
        if info.size > limit:
            raise too_long(limit)
        for offset in range(0, info.size, CHUNK_BYTES):
            try:
                yield self._store.get(keys.image(digest), offset=offset, length=CHUNK_BYTES)
            except NotFound as error:
                raise ImageUnread("does not exist") from error

    def read(self, path: str, limit: int = MAX_IMAGE_BYTES) -> bytes:
        """Read an image whole; see `ImageSource`."""
        return b"".join(self.chunks(path, limit))

    def close(self) -> None:
        """Release nothing: the store belongs to the caller."""
