"""`grpc.health.v1` on a plaintext port of its own, for probes that speak no TLS and know no token.

Service "" says whether the process is ready: warmed up and not draining. Service "live" says whether it is worth
keeping: the event loop answers, and the service itself does not think otherwise.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable

READY: Final = ""
"""Name of the health service that says whether calls should be sent here."""

LIVE: Final = "live"
"""Name of the health service that says whether the process should be kept."""

_SERVING: Final = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING: Final = health_pb2.HealthCheckResponse.NOT_SERVING


class HealthServicer(health.aio.HealthServicer):  # type: ignore[misc]  # grpc_health has no types
    """gRPC's own health service, except that "live" is found out when asked.

    Parameters
    ----------
    is_live
        Asked at each check of "live".
    """

    def __init__(self, is_live: Callable[[], bool]) -> None:
        super().__init__()
        self._is_live = is_live

    async def Check(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:  # noqa: N802
        """Answer a probe; see grpc.health.v1."""
        if request.service == LIVE:
            await self.set(LIVE, _SERVING if self._is_live() else _NOT_SERVING)
        return await super().Check(request, context)

    async def set_ready(self, *, ready: bool) -> None:
        """Say whether calls should be sent here."""
        await self.set(READY, _SERVING if ready else _NOT_SERVING)


async def new_health_server(is_live: Callable[[], bool]) -> tuple[grpc.aio.Server, HealthServicer]:
    """Make the server of the health port, not ready yet, not listening yet."""
    servicer = HealthServicer(is_live)
    # gRPC's servicer says SERVING from its construction on.
    await servicer.set_ready(ready=False)
    await servicer.set(LIVE, _SERVING)
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    return server, servicer
