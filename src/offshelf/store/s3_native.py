"""Whole objects, read by a client in native code (libcurl), which takes half the processor's time of one in Python.

It is for the one call that is made a million times: a photo that is there, and is given. Everything else is left to the
other client (`offshelf.store.s3_connection`), which is asked again after any failure here and knows what to make of it.
"""

from __future__ import annotations

import io
import logging
import math
import time
from collections import deque
from typing import TYPE_CHECKING
from urllib.parse import quote

import pycurl
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

from offshelf.store.bucket import Piece

if TYPE_CHECKING:
    from collections.abc import Callable

logger = logging.getLogger(__name__)

_FAILURES = 3
"""So often in a row the other client may succeed where this one failed; then this one has a rest."""

_REST_SECONDS = 60.0

_OK = 200
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of no bytes: what a request carries that only asks."""

_BUFFER = 256 << 10
"""Bytes that are taken over from libcurl at a time, at most."""


class _NotGiven(Exception):
    """The object was not given; for whatever reason, the other client knows it better."""


class NativeReader:
    """Reads whole objects of a bucket; used by any number of threads.

    Parameters
    ----------
    endpoint, bucket, access_key, secret_key, region, timeout
        As for `S3Connection`.
    certificates
        Whom to trust, in PEM; None for a server without TLS.
    """

    def __init__(
        self,
        endpoint: str,
        bucket: str,
        *,
        access_key: str,
        secret_key: str,
        region: str,
        timeout: float,
        certificates: str | None,
    ) -> None:
        self._url = f"{'http' if certificates is None else 'https'}://{endpoint}/{bucket}"
        # Redirects are not followed (libcurl's default), and neither proxies nor .netrc of the environment are used.
        self._options = {
            pycurl.AWS_SIGV4: f"aws:amz:{region}:s3",
            pycurl.USERNAME: access_key,
            pycurl.PASSWORD: secret_key,
            pycurl.HTTPHEADER: [f"x-amz-content-sha256: {_EMPTY}"],
            pycurl.PROTOCOLS: pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS,
            pycurl.HTTP_VERSION: pycurl.CURL_HTTP_VERSION_1_1,
            pycurl.PROXY: "",
            pycurl.CONNECTTIMEOUT_MS: math.ceil(timeout * 1000),
            # A server counts as gone after so many seconds without a byte.
            pycurl.LOW_SPEED_LIMIT: 1,
            pycurl.LOW_SPEED_TIME: math.ceil(timeout),
            pycurl.BUFFERSIZE: _BUFFER,
            pycurl.NOSIGNAL: 1,  # signals belong to the main thread
            **({pycurl.CAINFO_BLOB: certificates} if certificates else {}),
        }
        self._idle: deque[pycurl.Curl] = deque()
        self._failures = 0
        self._rests_until = 0.0

    def read(self, name: str, most: int | None, otherwise: Callable[[], Piece]) -> Piece:
        """Read an object.

        Parameters
        ----------
        name
            Its name in the bucket.
        most
            Bytes it may have to be read here; None for any number.
        otherwise
            Reads it, or the first so many bytes of it, with the other client.

        Raises
        ------
        urllib3.exceptions.HTTPError
            If the server is silent: asking again would only take as long once more.
        Exception
            What `otherwise` raises.
        """
        # libcurl goes up and down the paths of addresses, for which objects' names are no reason.
        if time.monotonic() < self._rests_until or not {".", ".."}.isdisjoint(name.split("/")):
            return otherwise()
        try:
            piece = self._get(name, most)
        except _NotGiven as error:
            piece = otherwise()
            self._take_note(error)
            return piece
        self._failures = 0
        return piece or otherwise()

    def _get(self, name: str, most: int | None) -> Piece | None:
        """Read an object; None if it is too large."""
        body, version = io.BytesIO(), ""

        def take_header(line: bytes) -> None:
            nonlocal version
            field, _, value = line.partition(b":")
            if field.lower() == b"etag":
                version = value.strip().decode("latin-1")

        try:
            handle = self._idle.pop()
        except IndexError:
            handle = self._new_handle()
        try:
            handle.setopt(pycurl.URL, f"{self._url}/{quote(name, safe='/~')}")
            handle.setopt(pycurl.MAXFILESIZE_LARGE, most or 0)
            handle.setopt(pycurl.HEADERFUNCTION, take_header)
            handle.setopt(pycurl.WRITEDATA, body)
            handle.perform()
            status = handle.getinfo(pycurl.RESPONSE_CODE)
        except pycurl.error as error:
            code = error.args[0]
            if code == pycurl.E_FILESIZE_EXCEEDED:
                return None
            if code == pycurl.E_OPERATION_TIMEDOUT:
                raise HTTPTimeoutError("silent") from error
            raise _NotGiven(f"libcurl's error {code}") from error
        finally:
            # With its connection, if that is still good.
            self._idle.append(handle)
        if status != _OK:
            raise _NotGiven(f"HTTP status {status}")
        data = body.getvalue()
        return Piece(data, len(data), version)

    def _take_note(self, failure: _NotGiven) -> None:
        self._failures += 1
        if self._failures >= _FAILURES:
            self._failures = 0
            self._rests_until = time.monotonic() + _REST_SECONDS
            logger.warning(
                "for a minute the store is read by the slower of two clients: the other one does not get on with it",
                extra={"reason": str(failure)},
            )

    def _new_handle(self) -> pycurl.Curl:
        handle = pycurl.Curl()
        for option, value in self._options.items():
            handle.setopt(option, value)
        return handle
