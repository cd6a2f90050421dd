"""A store, or a bucket, that is asked again while it is away.

Safe since every call may be repeated: objects are immutable, a second `put` of the same bytes changes nothing, and a
file is read or written from its beginning. What can only be mended by a person (wrong keys, a full or read-only store)
is not repeated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf.store.bucket import Piece, WritableBucket
    from offshelf.store.objects import ObjectInfo, ObjectStore
    from offshelf.store.patience import Patience


class PatientStore:
    """An `ObjectStore` around another.

    Parameters
    ----------
    store
        The other one.
    patience
        How long to ask it again.
    """

    def __init__(self, store: ObjectStore, patience: Patience) -> None:
        self._store = store
        self._patience = patience

    def __repr__(self) -> str:
        return f"PatientStore({self._store!r})"

    @property
    def url(self) -> str:
        """Where the store is, without secrets."""
        return self._store.url

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole. Raises `StoreFull`."""
        self._patience.call(lambda: self._store.put(key, data))

    def put_file(self, key: str, path: Path) -> None:
        """Write an object whole from a file, without holding it in memory. Raises `StoreFull`."""
        self._patience.call(lambda: self._store.put_file(key, path))

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object, or `length` bytes of it from `offset` (fewer at its end). Raises `NotFound`."""
        return self._patience.call(lambda: self._store.get(key, offset=offset, length=length))

    def get_file(self, key: str, path: Path) -> None:
        """Read an object into a file, without holding it in memory. Raises `NotFound`."""
        self._patience.call(lambda: self._store.get_file(key, path))

    def stat(self, key: str) -> ObjectInfo | None:
        """Look an object up without reading it; None if there is none."""
        return self._patience.call(lambda: self._store.stat(key))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with the prefix, sorted by key. A prefix may end anywhere.

        A list that breaks off is asked for again, and goes on after the last key that was yielded.
        """
        last = ""
        outage = self._patience.outage()
        while True:
            try:
                for info in self._store.list(prefix):
                    if info.key > last:
                        outage.is_over()
                        last = info.key
                        yield info
            except StoreUnavailable as error:
                outage.wait_after(error)
            else:
                return

    def children(self, prefix: str) -> Iterator[str]:
        """Yield the distinct next parts of the keys below a prefix that ends in "/" (or is empty), sorted."""
        return iter(self._patience.call(lambda: [*self._store.children(prefix)]))

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        self._patience.call(lambda: self._store.delete(key))

    def close(self) -> None:
        """Wait for an absent store no longer: calls that do end with `StoreUnavailable`."""
        self._patience.close()
        self._store.close()


class PatientBucket:
    """A `Bucket` around another.

    Parameters
    ----------
    bucket
        The other one.
    patience
        How long to ask it again.
    """

    def __init__(self, bucket: WritableBucket, patience: Patience) -> None:
        self._bucket = bucket
        self._patience = patience

    @property
    def url(self) -> str:
        """Where the bucket is, without secrets."""
        return self._bucket.url

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield name and size, in bytes, of the objects whose name begins so."""
        seen: set[str] = set()  # not the last name alone: a bucket of somebody else's may list in any order
        outage = self._patience.outage()
        while True:
            try:
                for name, size in self._bucket.list(prefix):
                    if name not in seen:
                        outage.is_over()
                        seen.add(name)
                        yield name, size
            except StoreUnavailable as error:
                outage.wait_after(error)
            else:
                return

    def put_file(self, name: str, path: Path) -> None:
        """Write an object whole from a file; see `WritableBucket`."""
        self._patience.call(lambda: self._bucket.put_file(name, path))

    def size(self, name: str) -> int | None:
        """Look up how many bytes an object has, without reading it; None if there is none."""
        return self._patience.call(lambda: self._bucket.size(name))

    def read(self, name: str, *, offset: int = 0, length: int) -> Piece:
        """Read some bytes of an object, fewer at its end; see `Bucket`."""
        return self._patience.call(lambda: self._bucket.read(name, offset=offset, length=length))
