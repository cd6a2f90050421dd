"""HTTP for the S3 client: a server that is gone is noticed in seconds, a slow line is not taken for one.

urllib3 counts the time to send a whole request body against one timeout, so that 16 MiB on a slow line look like a dead
server, and it starts over after every timeout, so that a dead server takes several of them. Both are mended here.
"""

from __future__ import annotations

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, Self

import certifi
from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager, Retry, Timeout
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import NewConnectionError
from urllib3.exceptions import TimeoutError as HTTPTimeoutError

if TYPE_CHECKING:
    from types import TracebackType

    from urllib3.connectionpool import ConnectionPool
    from urllib3.response import BaseHTTPResponse

_PIECE = 256 << 10
_CONNECTIONS = 32


class S3Pool(PoolManager):
    """An HTTP client that takes note of how its server's clock differs from this machine's."""

    clock_ahead = 0.0
    """By how many seconds this machine's clock was before the server's when it last answered; 0 if unknown."""

    def urlopen(self, method: str, url: str, redirect: bool = True, **options: Any) -> BaseHTTPResponse:  # type: ignore[override]  # noqa: FBT001, FBT002
        """Send a request."""
        response = super().urlopen(method, url, redirect=redirect, **options)
        with suppress(TypeError, ValueError):
            theirs = parsedate_to_datetime(response.headers.get("Date", ""))
            self.clock_ahead = (datetime.now(UTC) - theirs).total_seconds()
        return response


def trusted_certificates() -> str:
    """Give, in PEM, whom a server's TLS certificate may be signed by."""
    return "".join(map(ssl.DER_cert_to_PEM_cert, _context().get_ca_certs(binary_form=True)))


def _context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def open_pool(*, secure: bool, timeout: float) -> S3Pool:
    """Make the HTTP client that a `minio.Minio` is given.

    Parameters
    ----------
    secure
        Whether the server speaks TLS. It is checked against the system's certificates, those in ``SSL_CERT_FILE`` and
        those of certifi.
    timeout
        Seconds without any progress after which a server counts as gone.
    """
    settings: dict[str, Any] = {}
    if secure:
        settings["ssl_context"] = _context()
    pool = S3Pool(
        maxsize=_CONNECTIONS,
        timeout=Timeout(connect=timeout, read=timeout),
        retries=_BoundedRetry(
            total=2,
            redirect=0,
            backoff_factor=0.2,
            status_forcelist=[500, 502, 503, 504],
            # The last answer goes to the client, which knows its meaning; and no server may make us wait for hours.
            raise_on_status=False,
            respect_retry_after_header=False,
        ),
        **settings,
    )
    pool.pool_classes_by_scheme = {"http": _PiecewisePool, "https": _PiecewiseTLSPool}
    return pool


class _BoundedRetry(Retry):
    """Tries again after a refused or lost connection and after a server's error, never after a timeout."""

    def increment(
        self,
        method: str | None = None,
        url: str | None = None,
        response: BaseHTTPResponse | None = None,
        error: Exception | None = None,
        _pool: ConnectionPool | None = None,
        _stacktrace: TracebackType | None = None,
    ) -> Self:
        waited = isinstance(error, HTTPTimeoutError) and not isinstance(error, NewConnectionError)
        if error is not None and (waited or any(isinstance(cause, TimeoutError) for cause in error.args)):
            raise error
        return super().increment(method, url, response, error, _pool, _stacktrace)


class _Piecewise(HTTPConnection):
    """Sends a body in pieces, each with a timeout of its own."""

    def send(self, data: Any) -> None:
        if not isinstance(data, bytes) or len(data) <= _PIECE:
            super().send(data)
            return
        view = memoryview(data)
        for start in range(0, len(view), _PIECE):
            super().send(view[start : start + _PIECE])


class _PiecewiseTLS(_Piecewise, HTTPSConnection):
    """The same over TLS."""


class _PiecewisePool(HTTPConnectionPool):
    ConnectionCls = _Piecewise


class _PiecewiseTLSPool(HTTPSConnectionPool):
    ConnectionCls = _PiecewiseTLS
