"""A store in an S3 bucket: any server that speaks plain S3 with signature version 4.

Only what small servers do as well is used: put, get with a range, head, delete, list, multipart. Imported only when a
store of this kind is opened, since the client costs 0.3 s.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from minio.error import MinioException

from offshelf.store.durable import new_file
from offshelf.store.objects import ObjectInfo, check_folder, check_key, check_prefix, check_range, is_key
from offshelf.store.s3_connection import DEFAULT_REGION, S3Connection
from offshelf.store.s3_errors import absent
from offshelf.store.s3_listing import in_order

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_CHUNK = 1 << 20
_SMALLEST_PART = 5 << 20


class S3Store:
    """Objects in a bucket, under a prefix.

    Parameters
    ----------
    endpoint
        Host and port of the server, without a scheme.
    bucket
        The bucket, which exists already.
    prefix
        What all keys of this store begin with in the bucket; empty for the whole bucket.
    access_key, secret_key
        Credentials; they appear in no message.
    secure
        Whether to speak TLS.
    region
        Region to sign for. Servers of one's own mostly ignore it.
    timeout
        Seconds to wait for a connection, and for each answer.
    """

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        prefix: str = "",
        *,
        access_key: str,
        secret_key: str,
        secure: bool = True,
        region: str = DEFAULT_REGION,
        timeout: float = 10.0,
    ) -> None:
        self._prefix = f"{check_key(prefix)}/" if prefix else ""
        self._connection = S3Connection(
            endpoint,
            bucket,
            prefix,
            access_key=access_key,
            secret_key=secret_key,
            secure=secure,
            region=region,
            timeout=timeout,
        )
        self._client = self._connection.client
        self._bucket = bucket
        self._asking = self._connection.asking

    def __repr__(self) -> str:
        return f"S3Store({self.url!r})"

    @property
    def url(self) -> str:
        """Bucket, prefix and endpoint, without secrets."""
        return self._connection.url

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole, in one request. Raises `StoreFull`."""
        part = max(len(data), _SMALLEST_PART)
        with self._asking("write"):
            self._client.put_object(self._bucket, self._name(key), io.BytesIO(data), len(data), part_size=part)

    def put_file(self, key: str, path: Path) -> None:
        """Write an object whole from a file, without holding it in memory. Raises `StoreFull`.

        A large file goes in parts, in order and one at a time; the object appears with the request that completes it.
        """
        self._connection.put_file(self._name(key), path)

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object, or `length` bytes of it from `offset` (fewer at its end). Raises `NotFound`."""
        check_range(offset, length)
        if length == 0:
            # No range says "no bytes".
            if self.stat(key) is None:
                raise self._connection.missing(self._name(key))
            return b""
        with self._asking():
            return self._connection.read(self._name(key), offset, length).data

    def get_file(self, key: str, path: Path) -> None:
        """Read an object into a file, without holding it in memory. Raises `NotFound`."""
        with self._asking(), self._connection.open(self._name(key)) as response, new_file(path) as target:
            for chunk in response.stream(_CHUNK, decode_content=False):
                target.write(chunk)

    def stat(self, key: str) -> ObjectInfo | None:
        """Look an object up without reading it; None if there is none."""
        with self._asking():
            try:
                found = self._client.stat_object(self._bucket, self._name(key))
            except MinioException as error:
                if absent(error):
                    return None
                raise
        modified = found.last_modified.timestamp() if found.last_modified else 0.0
        return ObjectInfo(key, found.size or 0, modified)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with the prefix, sorted by key. A prefix may end anywhere."""
        return in_order(self._fetch_list(check_prefix(prefix)), self.url)

    def children(self, prefix: str) -> Iterator[str]:
        """Yield the distinct next parts of the keys below a prefix that ends in "/" (or is empty), sorted.

        They are fetched before the first is yielded: a server sorts "a-b/" before "a/", and sends objects apart.
        """
        start = self._prefix + check_folder(prefix)
        found = self._connection.list(start, recursive=False)
        names = {(item.object_name or "").removeprefix(start).removesuffix("/") for item in found}
        return iter(sorted(name for name in names if is_key(prefix + name)))

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        with self._asking("delete"):
            try:
                self._client.remove_object(self._bucket, self._name(key))
            except MinioException as error:
                if not absent(error):
                    raise

    def close(self) -> None:
        """Do nothing: this store waits for nothing."""

    def holds_anything(self) -> bool:
        """Tell whether there is any object under the prefix that does not begin with a dot, ours or not."""
        names = ((item.object_name or "").removeprefix(self._prefix) for item in self._connection.list(self._prefix))
        return any(name and not name.startswith(".") for name in names)

    def _fetch_list(self, prefix: str) -> Iterator[ObjectInfo]:
        for item in self._connection.list(self._prefix + prefix):
            key = (item.object_name or "").removeprefix(self._prefix)
            # Left out: what others put there, and the markers "folder/" that some servers and tools make.
            if is_key(key) and key.startswith(prefix):
                modified = item.last_modified.timestamp() if item.last_modified else 0.0
                yield ObjectInfo(key, item.size or 0, modified)

    def _name(self, key: str) -> str:
        return self._prefix + check_key(key)
