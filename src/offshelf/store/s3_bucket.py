"""A bucket of somebody else's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from minio.error import MinioException

from offshelf.errors import PermissionDenied
from offshelf.store.s3_connection import S3Connection
from offshelf.store.s3_errors import absent, refused_alone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf.store.bucket import Piece


class S3Bucket:
    """A bucket as it is, or what lies below a prefix of it, whatever names its objects have; see `Bucket`.

    Parameters
    ----------
    endpoint, bucket, prefix, options
        As for `S3Connection`.
    """

    def __init__(self, endpoint: str, bucket: str, prefix: str = "", **options: Any) -> None:
        self._connection = S3Connection(endpoint, bucket, prefix, **options)
        self._start = f"{prefix}/" if prefix else ""

    def __repr__(self) -> str:
        return f"S3Bucket({self.url!r})"

    @property
    def url(self) -> str:
        """Bucket, prefix and endpoint, without secrets."""
        return self._connection.url

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield name and size, in bytes, of the objects whose name begins so."""
        for item in self._connection.list(self._start + prefix):
            yield (item.object_name or "").removeprefix(self._start), item.size or 0

    def size(self, name: str) -> int | None:
        """Look up how many bytes an object has, without reading it; None if there is none."""
        with self._connection.asking():
            try:
                return self._connection.client.stat_object(self._connection.bucket, self._start + name).size or 0
            except MinioException as error:
                if absent(error):
                    return None
                raise

    def put_file(self, name: str, path: Path) -> None:
        """Write an object whole from a file; see `WritableBucket`."""
        self._connection.put_file(self._start + name, path)

    def read(self, name: str, *, offset: int = 0, length: int) -> Piece:
        """Read some bytes of an object, fewer at its end; see `Bucket`."""
        with self._connection.asking():
            try:
                return self._connection.read(self._start + name, offset, length)
            except MinioException as error:
                if refused_alone(error):
                    raise PermissionDenied(f"{name!r} at {self.url} may not be read: allow it.") from error
                raise
