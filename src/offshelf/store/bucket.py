"""A bucket that belongs to somebody else: any names, nothing of our layout. It is read, and hardly ever written to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class Piece:
    """Some bytes of an object, and of which version of it."""

    data: bytes
    size: int
    """Bytes of the whole object."""
    version: str
    """Changes with the object's content (its ETag)."""


class Bucket(Protocol):
    """Names, perhaps below a prefix, and bytes. Methods block, and may raise `StoreUnavailable` or `StoreDenied`."""

    @property
    def url(self) -> str:
        """Where the bucket is, without secrets."""
        ...

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield name and size, in bytes, of the objects whose name begins so, in any order."""
        ...

    def size(self, name: str) -> int | None:
        """Look up how many bytes an object has, without reading it; None if there is none."""
        ...

    def read(self, name: str, *, offset: int = 0, length: int) -> Piece:
        """Read some bytes of an object, fewer at its end.

        Raises
        ------
        NotFound
            If there is no such object.
        PermissionDenied
            If this object may not be read, though the bucket may.
        """
        ...


class WritableBucket(Bucket, Protocol):
    """One that its operator lets us put files into."""

    def put_file(self, name: str, path: Path) -> None:
        """Write an object whole from a file; it appears when it is complete. Raises `StoreFull` too."""
        ...
