"""A dataset whose images lie in the store, each under its digest."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.datasets.model import MAX_IMAGE_BYTES, Entry, ImageUnread
from offshelf.datasets.tree import too_long
from offshelf.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offshelf.datasets.model import Dataset
    from offshelf.store.objects import ObjectStore

_PIECE_BYTES = 8 * 1024 * 1024
"""How much is asked for at a time: nearly every image whole, since each question to a bucket takes a while."""


class StoreSource:
    """Images that were uploaded.

    Parameters
    ----------
    store
        Holds the images.
    dataset
        Says which image belongs to which path.
    """

    ignored = 0

    def __init__(self, store: ObjectStore, dataset: Dataset) -> None:
        self._store = store
        self._dataset = dataset
        self._digests = {item.path: item.digest for item in dataset.items}
        self.uri = f"store:{dataset.digest}"

    def entries(self) -> list[Entry]:
        """List the images, sorted by path. Their sizes are not asked for: 100,000 questions to a bucket take long."""
        return [Entry(path=item.path, label=item.label, group=item.group, size=0) for item in self._dataset.items]

    def chunks(self, path: str, limit: int = MAX_IMAGE_BYTES) -> Iterator[bytes]:
        """Yield an image's bytes; see `ImageSource`. May also raise what the store raises."""
        key = self._key(path)
        total = 0
        while True:
            # One byte beyond the limit tells that there is more.
            asked = min(_PIECE_BYTES, limit + 1 - total)
            try:
                piece = self._store.get(key, offset=total, length=asked)
            except NotFound as error:
                raise ImageUnread("does not exist") from error
            total += len(piece)
            if total > limit:
                raise too_long(limit)
            if piece:
                yield piece
            if len(piece) < asked:
                return

    def find(self, path: str) -> str:
        """Return the digest of an image that is there, without reading it. Errors as for `chunks`."""
        if self._store.stat(self._key(path)) is None:
            raise ImageUnread("does not exist")
        return self._digests[path]

    def _key(self, path: str) -> str:
        from offshelf.store import keys

        digest = self._digests.get(path)
        if digest is None:
            raise ImageUnread("does not exist")
        return keys.image(digest)

    def read(self, path: str, limit: int = MAX_IMAGE_BYTES) -> bytes:
        """Read an image whole; see `ImageSource`."""
        return b"".join(self.chunks(path, limit))

    def close(self) -> None:
        """Release nothing: the store belongs to the caller."""
