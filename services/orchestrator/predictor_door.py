"""Where predictions are served."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from offshelf.errors import Unavailable
from offshelf.services.orchestrator.fleet.replicas import Role, RoleUnavailable

if TYPE_CHECKING:
    from offshelf.services.orchestrator.fleet.replicas import Fleet

PREDICTOR = Role("predictor")

_READY_SECONDS = 25.0
"""Less than a client's usual deadline, so that the reason reaches it."""


class PredictorDoor:
    """Starts the predictor when it is first asked for, and keeps it until `close`."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._held = AsyncExitStack()
        self._locating = asyncio.Lock()
        self._is_held = False

    async def locate(self) -> str:
        """Return the address of a ready predictor. Raises `Unavailable` if none becomes ready."""
        async with self._locating:
            if not self._is_held:
                await self._held.enter_async_context(self._fleet.hold(PREDICTOR))
                self._is_held = True
        try:
            async with asyncio.timeout(_READY_SECONDS), self._fleet.pool.lease(PREDICTOR) as replica:
                return replica.address
        except TimeoutError:
            raise Unavailable(f"The predictor was not ready after {_READY_SECONDS:.0f} s. Try again.") from None
        except RoleUnavailable as error:
            await self.close()  # so that the next call tries to start it anew
            raise Unavailable(f"The predictor cannot be started: {error.message}") from None

    async def close(self) -> None:
        """Let the predictor go."""
        self._is_held = False
        await self._held.aclose()
