"""The whole life of a service process: three ports, warming up, serving, draining."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING, Final, NoReturn

import grpc
from grpc_reflection.v1alpha import reflection
from prometheus_client import CollectorRegistry

from offshelf import logs
from offshelf.errors import Conflict, OffshelfError
from offshelf.rpc.access import Access
from offshelf.rpc.audit import Auditor
from offshelf.rpc.authentication import access_layer
from offshelf.rpc.health import HealthServicer, new_health_server
from offshelf.rpc.interceptors import ServerShell, deadline_layer, errors_layer, request_id_layer
from offshelf.rpc.lifecycle import StopRequest, exit_at_the_latest, finish, print_line, take_stdout
from offshelf.rpc.limits import MAX_MESSAGE_BYTES
from offshelf.rpc.metrics import CallMetrics, MetricsServer, measure_process
from offshelf.rpc.service import (
    Audited,
    Drains,
    KnowsWhetherLive,
    LimitsRequests,
    Measured,
    ServesMore,
    WantsAddress,
)
from offshelf.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offshelf.digests import JSONValue
    from offshelf.rpc.interceptors import Layer
    from offshelf.rpc.service import Service

_LOG: Final = logging.getLogger(__name__)

_CLOSE_SECONDS: Final = 5.0
"""How much longer than `drain_seconds` a process may take to end before it is ended."""

_LINGER_SECONDS: Final = 2.0
"""How long a process may stay after its service was closed, for threads that do not end."""


class RunningServer:
    """A service that is ready for calls; `start` makes one.

    `address`, `health` and `metrics` say where its three ports are, each as HOST:PORT.
    """

    def __init__(
        self,
        service: Service,
        settings: Settings,
        *,
        shell: ServerShell,
        main: tuple[grpc.aio.Server, str],
        health: tuple[grpc.aio.Server, str, HealthServicer],
        metrics: tuple[MetricsServer, str],
        auditor: Auditor | None,
    ) -> None:
        self._service = service
        self._auditor = auditor
        self._drain_seconds = settings.drain_seconds
        # A short grace is not to be spent on waiting alone.
        self._settle_seconds = min(settings.settle_seconds, settings.drain_seconds / 2)
        self._shell = shell
        self._main, self.address = main
        self._health, self.health, self._health_servicer = health
        self._metrics, self.metrics = metrics

    async def drain(self, hurry: asyncio.Event | None = None) -> None:
        """Say NOT_SERVING, let calls in progress end for `drain_seconds`, then close the service and all ports.

        Parameters
        ----------
        hurry
            Once set, calls in progress are cancelled instead of waited for.
        """
        hurry = asyncio.Event() if hurry is None else hurry
        loop = asyncio.get_running_loop()
        end = loop.time() + self._drain_seconds
        await self._health_servicer.set_ready(ready=False)
        settle = self._settle_seconds
        await finish("settle", asyncio.sleep(settle), seconds=settle, hurry=hurry)
        if isinstance(self._service, Drains):
            await finish("drain", self._service.drain(), seconds=max(0.0, end - loop.time()), hurry=hurry)
        remaining = max(0.0, end - loop.time())
        await finish("stop", self._main.stop(remaining), seconds=remaining, hurry=hurry)
        # Without grace: cancels what still runs, and returns when gRPC has let go of it.
        await self._main.stop(None)
        await self._shell.settled(_CLOSE_SECONDS)
        try:
            if self._auditor is not None:
                await self._auditor.close()
            await self._service.close()
        finally:
            await self._health.stop(None)
            await self._metrics.stop()


async def start(service: Service, settings: Settings, registry: CollectorRegistry | None = None) -> RunningServer:
    """Open the ports, warm the service up, and take calls.

    Raises
    ------
    InvalidInput
        There is no way to know callers by, or its files cannot be used; or others could read what is sent.
    Conflict
        A port cannot be listened on.
    OffshelfError
        Whatever the service's `warm_up` raises. Nothing is left open then, and the service is closed.
    """
    registry = CollectorRegistry() if registry is None else registry
    undo: list[Callable[[], Awaitable[None]]] = [service.close]
    try:
        access = Access.of(service, settings)
        measure_process(registry, settings.tls)
        layers: list[Layer] = [request_id_layer, deadline_layer, CallMetrics(registry).around]
        auditor = Auditor(service.audit) if isinstance(service, Audited) else None
        if auditor is not None:
            undo.append(auditor.close)
            layers.append(auditor.around)
        shell = ServerShell([*layers, errors_layer, access_layer(access.authenticator)], access.authenticator.hears)
        if isinstance(service, Measured):
            service.measure(registry)
        is_live = service.is_live if isinstance(service, KnowsWhetherLive) else lambda: True
        health_server, health_servicer = await new_health_server(is_live)
        undo.append(lambda: health_server.stop(None))
        health_port = _listen(health_server, settings.host, settings.health_port, "OFFSHELF_HEALTH_PORT")
        await health_server.start()
        metrics = MetricsServer(registry, settings.host, settings.metrics_port)
        undo.append(metrics.stop)

        largest = service.largest_request if isinstance(service, LimitsRequests) else MAX_MESSAGE_BYTES
        names = (service.name, *(service.other_names if isinstance(service, ServesMore) else ()))
        main = grpc.aio.server(
            interceptors=[shell],
            options=[
                # Without this a second server shares the port silently.
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", largest),
                ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
                *access.options,
            ],
        )
        undo.append(lambda: main.stop(None))
        service.register(main)
        reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), main)
        # Before warming up: a port in use should not be found out minutes later.
        port = _listen(main, settings.host, settings.port, "OFFSHELF_PORT", access.credentials)
        await service.warm_up()
        await main.start()
        await health_servicer.set_ready(ready=True)
    except BaseException:
        for step in reversed(undo):
            await asyncio.shield(asyncio.ensure_future(step()))
        raise
    return RunningServer(
        service,
        settings,
        shell=shell,
        main=(main, _address(settings.host, port)),
        health=(health_server, _address(settings.host, health_port), health_servicer),
        metrics=(metrics, _address(settings.host, metrics.port)),
        auditor=auditor,
    )


async def serve(
    service: Service,
    settings: Settings,
    *,
    announce: Callable[[JSONValue], None] = print_line,
    stop: StopRequest | None = None,
    registry: CollectorRegistry | None = None,
) -> None:
    """Serve until asked to stop, then drain; the whole life of a service process.

    Parameters
    ----------
    service
        What is served.
    settings
        Ports, token, times.
    announce
        Given one value when the service is ready: `{"ready": true, "address": ..., "health": ..., "metrics": ...}`.
    stop
        What asks for the end. By default signals, and standard input if the settings say so.
    registry
        Where figures for Prometheus are kept; by default a new one.

    Raises
    ------
    OffshelfError
        The service could not be started.
    """
    stop = StopRequest.listen(parent_pipe=settings.parent_pipe) if stop is None else stop
    starting = asyncio.ensure_future(start(service, settings, registry))
    asked = asyncio.ensure_future(stop.asked.wait())
    await asyncio.wait({starting, asked}, return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        # Asked to stop while warming up: nobody waits for it.
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        return
    if starting.exception() is not None:
        asked.cancel()
    server = starting.result()
    if isinstance(service, WantsAddress):
        await service.serving(server.address)
    announce({"ready": True, "address": server.address, "health": server.health, "metrics": server.metrics})
    _LOG.info("ready", extra={"address": server.address, "health": server.health, "metrics": server.metrics})
    await asked
    await server.drain(stop.urgent)
    _LOG.info("stopped")


def run(main: Callable[[Settings], Awaitable[Service]], service_name: str) -> NoReturn:
    """Run a service process; all that a `__main__.py` has to call.

    Reads the settings, configures logs, makes the service with `main` and serves it. Standard output is kept for one
    line of JSON: that the service is ready, or why it could not be started.

    Exits 0 after draining, 2 if the service could not be started for a reason its user can mend, and 1 after a defect.

    Parameters
    ----------
    main
        Makes the service from the settings; the composition root.
    service_name
        Name of the process in the logs, for example "extractor".
    """
    announce = take_stdout()
    try:
        settings = Settings.from_environment(os.environ)
        logs.configure(service_name, settings.log_level)
        asyncio.run(_live(main, settings, announce))
    except OffshelfError as error:
        announce({"ready": False, "error": error.message, "kind": type(error).__name__})
        _fail(2, error.message)
    except Exception:  # noqa: BLE001  # the parent waits for one line, whatever went wrong
        _LOG.exception("ended by a defect")
        announce({"ready": False, "error": "internal error. The logs of the service say more.", "kind": "Internal"})
        _fail(1, "defect")
    sys.exit(0)


async def _live(
    main: Callable[[Settings], Awaitable[Service]], settings: Settings, announce: Callable[[JSONValue], None]
) -> None:
    stop = StopRequest.listen(parent_pipe=settings.parent_pipe)

    async def bound_the_end() -> None:
        await stop.asked.wait()
        exit_at_the_latest(settings.drain_seconds + _CLOSE_SECONDS, 1, "not drained in time")

    bounded = asyncio.ensure_future(bound_the_end())
    making = asyncio.ensure_future(main(settings))
    await asyncio.wait({making, bounded}, return_when=asyncio.FIRST_COMPLETED)
    if making.done():
        await serve(making.result(), settings, announce=announce, stop=stop)
    else:
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
    bounded.cancel()
    exit_at_the_latest(_LINGER_SECONDS, 0, "threads that do not end")


def _fail(code: int, reason: str) -> NoReturn:
    exit_at_the_latest(_LINGER_SECONDS, code, reason)
    sys.exit(code)


def _listen(
    server: grpc.aio.Server,
    host: str,
    port: int,
    variable: str,
    credentials: grpc.ServerCredentials | None = None,
) -> int:
    address = _address(host, port)
    try:
        return (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError:
        raise Conflict(
            f"Cannot listen on {address}: it is in use, or not an address of this machine. "
            f"Choose another port with {variable} (0 takes a free one), or another address with OFFSHELF_HOST."
        ) from None


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
