"""Objects, read by a client in native code (libcurl), which takes a third of the processor's time of one in Python.

It is for the one call that is made a million times: a photo that is there, and is given. Everything else is left to the
other client (`offshelf.store.s3_connection`), which is asked again after any failure here and knows what to make of it.
"""

from __future__ import annotations

import io
import logging
import math
import re
import ssl
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
_PARTIAL = 206
_BEYOND_END = 416
_PART = re.compile(r"bytes (\d+)-\d+/(\d+)")
_EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
"""SHA-256 of no bytes: what a request carries that only asks."""

_BUFFER = 256 << 10
"""Bytes that are taken over from libcurl at a time, at most."""


class _NotGiven(Exception):
    """The object was not given; for whatever reason, the other client knows it better."""


class NativeReader:
    """Reads objects of a bucket; used by any number of threads.

    Parameters
    ----------
    url
        Of the bucket, without a slash at its end; an object's is below it.
    access_key, secret_key, region, timeout
        As for `S3Connection`.
    certificates
        Whom to trust, in PEM, besides the system's folder of certificates.
    """

    def __init__(
        self,
        url: str,
        *,
        access_key: str,
        secret_key: str,
        region: str,
        timeout: float,
        certificates: str,
    ) -> None:
        self._url = url
        folder = ssl.get_default_verify_paths().capath
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
            # A server counts as gone after about so many seconds without a byte.
            pycurl.LOW_SPEED_LIMIT: 1,
            pycurl.LOW_SPEED_TIME: math.ceil(timeout),
            pycurl.BUFFERSIZE: _BUFFER,
            pycurl.NOSIGNAL: 1,  # signals belong to the main thread
            **({pycurl.CAINFO_BLOB: certificates} if certificates else {}),
            **({pycurl.CAPATH: folder} if folder else {}),
        }
        self._idle: deque[pycurl.Curl] = deque()
        self._failures = 0
        self._rests_until = 0.0
        self._has_rested = False

    def read(self, name: str, offset: int, length: int | None, otherwise: Callable[[], Piece]) -> Piece:
        """Read an object or a part of it.

        Parameters
        ----------
        name
            Its name in the bucket.
        offset, length
            Of the part, in bytes; up to the end if `length` is None.
        otherwise
            Reads the same with the other client.

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
            piece = self._get(name, offset, length)
        except _NotGiven as error:
            piece = otherwise()
            self._take_note(error)
            return piece
        self._failures = 0
        return piece or otherwise()

    def _get(self, name: str, offset: int, length: int | None) -> Piece | None:
        """Read an object or a part of it; None if it ends before that."""
        body = io.BytesIO()
        headers: dict[bytes, str] = {}

        def take_header(line: bytes) -> None:
            field, _, value = line.partition(b":")
            headers[field.lower()] = value.strip().decode("latin-1")

        is_part = bool(offset) or length is not None
        last = "" if length is None else offset + length - 1
        try:
            handle = self._idle.pop()
        except IndexError:
            handle = self._new_handle()
        try:
            handle.setopt(pycurl.URL, f"{self._url}/{quote(name, safe='/~')}")
            handle.setopt(pycurl.RANGE, f"{offset}-{last}" if is_part else None)
            # For servers that know no parts.
            handle.setopt(pycurl.MAXFILESIZE_LARGE, length or 0)
            handle.setopt(pycurl.HEADERFUNCTION, take_header)
            handle.setopt(pycurl.WRITEFUNCTION, body.write)
            handle.perform()
            status = handle.getinfo(pycurl.RESPONSE_CODE)
        except pycurl.error as error:
            code = error.args[0]
            if code == pycurl.E_OPERATION_TIMEDOUT:
                raise HTTPTimeoutError("silent") from error
            raise _NotGiven(f"libcurl's error {code}") from error
        finally:
            # Kept with its connection, if that is still good, and without what it has read.
            handle.setopt(pycurl.HEADERFUNCTION, len)
            handle.setopt(pycurl.WRITEFUNCTION, len)
            self._idle.append(handle)
        if status == _BEYOND_END:
            return None
        part = _PART.fullmatch(headers.get(b"content-range", ""))
        begin, whole = (int(part[1]), int(part[2])) if part else (0, body.tell())
        # Some servers, rclone among them, send a part with the status of a whole.
        if begin != offset or not (status == _OK or (status == _PARTIAL and part)):
            raise _NotGiven(f"HTTP status {status}")
        return Piece(body.getvalue(), whole, headers.get(b"etag", ""))

    def _take_note(self, failure: _NotGiven) -> None:
        self._failures += 1
        if self._failures < _FAILURES:
            return
        self._failures = 0
        self._rests_until = time.monotonic() + _REST_SECONDS
        if not self._has_rested:
            self._has_rested = True
            logger.warning(
                "for a minute, and whenever this happens again, the store is read by the slower of two clients: the "
                "other one does not get on with it",
                extra={"reason": str(failure)},
            )

    def _new_handle(self) -> pycurl.Curl:
        handle = pycurl.Curl()
        for option, value in self._options.items():
            handle.setopt(option, value)
        return handle
