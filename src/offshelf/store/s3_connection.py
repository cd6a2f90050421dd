"""One bucket of an S3 server, by names as they are: what the store and a dataset's bucket have in common."""

from __future__ import annotations

import io
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from minio import Minio
from minio.error import MinioException
from urllib3.exceptions import HTTPError

from offshelf.errors import InvalidInput, NotFound
from offshelf.store.bucket import Piece
from offshelf.store.s3_errors import absent, beyond_end, s3_error
from offshelf.store.s3_native import NativeReader
from offshelf.store.s3_transport import open_pool, trusted_certificates

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from minio.datatypes import Object
    from urllib3.response import BaseHTTPResponse

    from offshelf.store.s3_errors import Doing

DEFAULT_REGION = "us-east-1"
"""Region to sign for where none is named: servers of one's own mostly ignore it."""

_PART = 16 << 20
"""Bytes of a part of a multipart upload; files up to this size are one put."""


class S3Connection:
    """A bucket, the credentials for it, and its errors in the words of the store.

    Parameters
    ----------
    endpoint
        Host and port of the server, without a scheme.
    bucket
        The bucket, which exists already.
    prefix
        What its user begins all names with; for the address and messages alone.
    access_key, secret_key
        Credentials; they appear in no message.
    secure
        Whether to speak TLS.
    region
        Region to sign for.
    timeout
        Seconds to wait for a connection, and for each answer.

    Raises
    ------
    InvalidInput
        If the endpoint cannot be one, or the bucket has a name that none can have.
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
        self.bucket = bucket
        self._start = f"{prefix}/" if prefix else ""
        place = f"{bucket}/{prefix}" if prefix else bucket
        self.url = f"s3://{place}?endpoint={'https' if secure else 'http'}://{endpoint}"
        if region != DEFAULT_REGION:
            self.url += f"&region={region}"
        self._pool = open_pool(secure=secure, timeout=timeout)
        try:
            self.client = Minio(
                endpoint,
                access_key=access_key,
                secret_key=secret_key,
                secure=secure,
                region=region,
                http_client=self._pool,
            )
            address = self._address_of_bucket()
        except ValueError as error:
            raise InvalidInput(f"{self.url} cannot be the address of an S3 store: {error}.") from error
        self._native = NativeReader(
            address,
            access_key=access_key,
            secret_key=secret_key,
            region=region,
            timeout=timeout,
            certificates=trusted_certificates() if secure else "",
        )

    @contextmanager
    def asking(self, doing: Doing = "read") -> Iterator[None]:
        """Turn what the client and the network raise inside into the store's errors; `doing` is what is refused."""
        try:
            yield
        except (MinioException, HTTPError, ParseError, ValueError) as error:
            # The last two: an answer that is no XML, or XML of something else.
            raise s3_error(error, self.url, self.bucket, doing, clock_ahead=self._pool.clock_ahead) from error

    @contextmanager
    def open(self, name: str, offset: int = 0, length: int | None = None) -> Iterator[BaseHTTPResponse]:
        """Open an object, or a part of it, for reading; inside `asking`. Raises `NotFound`."""
        try:
            response = self.client.get_object(self.bucket, name, offset=offset, length=length or 0)
        except MinioException as error:
            if absent(error):
                raise self.missing(name) from error
            raise
        with closing(response):
            yield response
            # Only a response that was read to its end gives its connection back; any other is closed with it.
            response.release_conn()

    def read(self, name: str, offset: int = 0, length: int | None = None) -> Piece:
        """Read an object, or `length` bytes of it (fewer at its end); inside `asking`. Raises `NotFound`."""
        return self._native.read(name, offset, length, lambda: self._read(name, offset, length))

    def _read(self, name: str, offset: int, length: int | None) -> Piece:
        try:
            with self.open(name, offset, length) as response:
                whole = response.headers.get("Content-Range", "").rpartition("/")[2]
                size = int(whole or response.headers.get("Content-Length") or 0)
                # As it is stored, whatever it says of its encoding.
                return Piece(response.read(decode_content=False), size, response.headers.get("ETag") or "")
        except MinioException as error:
            if beyond_end(error):
                return Piece(b"", 0, "")
            raise

    def _address_of_bucket(self) -> str:
        """Ask the client where it looks for objects: some servers have an address for each bucket."""
        found = self.client.presigned_get_object(self.bucket, "x")
        return found.partition("?")[0].removesuffix("/x")

    def list(self, prefix: str, *, recursive: bool = True) -> Iterator[Object]:
        """Yield the objects whose name begins so; if not recursive, what lies below a "/" as one."""
        with self.asking("list"):
            yield from self.client.list_objects(self.bucket, prefix=prefix, recursive=recursive)

    def put_file(self, name: str, path: Path) -> None:
        """Write an object whole from a file, without holding it in memory. Raises `StoreFull`.

        A large file goes in parts, in order and one at a time; the object appears with the request that completes it.
        """
        with path.open("rb") as source, self.asking("write"):
            size = source.seek(0, io.SEEK_END)
            source.seek(0)
            self.client.put_object(
                self.bucket,
                name,
                source,
                size,
                # S3 takes at most 10,000 parts.
                part_size=max(_PART, -(-size // 10_000)),
                num_parallel_uploads=1,
            )

    def missing(self, name: str) -> NotFound:
        """Make the error for an object that is not there."""
        return NotFound(f"There is no {name.removeprefix(self._start)!r} at {self.url}.")
