"""Figures about calls and the process, and the HTTP port that Prometheus reads them from."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any, Final
from wsgiref.simple_server import WSGIRequestHandler

import grpc
from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily

from offshelf.errors import Conflict
from offshelf.rpc.identity import identity_in

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from offshelf.rpc.interceptors import Call

_SECONDS_BUCKETS: Final = (0.005, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

_IDLE_SECONDS: Final = 10.0


def measure_process(registry: CollectorRegistry, tls: Path | None) -> None:
    """Let Prometheus read memory, processor time and open files, and until when the certificate in a folder is valid.

    Raises
    ------
    InvalidInput
        The certificate cannot be used.
    """
    ProcessCollector(registry=registry)
    if tls is not None:
        registry.register(_CertificateExpiry(tls))


class _CertificateExpiry:
    """Looks at each reading: certificates are exchanged without a restart."""

    def __init__(self, folder: Path) -> None:
        self._identity = identity_in(folder)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        yield GaugeMetricFamily(
            "offshelf_certificate_expiry_timestamp_seconds",
            "When the certificate of this service expires, in seconds since 1970.",
            value=self._identity.value().ends.timestamp(),
        )


class CallMetrics:
    """Counts calls by method and status, and times them; `around` is the layer that does so.

    Parameters
    ----------
    registry
        Where the figures are kept; one a process.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._requests = Counter(
            "offshelf_rpc_requests", "Calls that have ended.", ["method", "code"], registry=registry
        )
        self._seconds = Histogram(
            "offshelf_rpc_seconds",
            "Time from the start of a call to its end, in seconds.",
            ["method"],
            buckets=_SECONDS_BUCKETS,
            registry=registry,
        )

    @contextlib.asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Measure one call."""
        # One label for all that do not exist: a client must not be able to fill the memory with names.
        method = call.method if call.known else "unknown"
        code = "UNKNOWN"
        start = time.perf_counter()
        try:
            yield
            code = status_name(call)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED.name
            raise
        except grpc.aio.AbortError:
            code = status_name(call)
            raise
        finally:
            self._seconds.labels(method).observe(time.perf_counter() - start)
            self._requests.labels(method, code).inc()


def status_name(call: Call) -> str:
    """Give gRPC's name of the status that a call has so far."""
    # None while nothing was set, whatever its type says.
    code: Any = call.context.code()
    return str((code or grpc.StatusCode.OK).name)


class _Handler(WSGIRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):  # of a client that sends nothing, or has left
            super().handle()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name in the library
        pass


class MetricsServer:
    """The metrics as a web page, on a port of their own.

    Parameters
    ----------
    idle_seconds
        A connection on which nothing comes for so long is ended: each has a thread.

    Raises
    ------
    Conflict
        The port cannot be listened on.
    """

    def __init__(
        self, registry: CollectorRegistry, host: str, port: int, *, idle_seconds: float = _IDLE_SECONDS
    ) -> None:
        try:
            self._server, self._thread = start_http_server(port, addr=host, registry=registry)
        except OSError as error:
            raise Conflict(
                f"Metrics cannot be served on {host}:{port}: {error.strerror}. "
                "Choose another port with OFFSHELF_METRICS_PORT (0 takes a free one)."
            ) from None
        self._server.RequestHandlerClass = type("Handler", (_Handler,), {"timeout": idle_seconds})

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._server.server_port

    async def stop(self) -> None:
        """Stop listening."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()
        self._thread.join()
