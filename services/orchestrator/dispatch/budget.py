"""How much of the machine may be used at a time."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class CoreBudget:
    """Cores that units share, first come first served.

    In embedded mode an extraction unit takes all cores, since its process uses them all, and a scoring unit one. In a
    cluster every pod has cores of its own and the budget is unlimited (`cores` None).
    """

    def __init__(self, cores: int | None) -> None:
        self._total = cores
        self._free = cores or 0
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    @asynccontextmanager
    async def take(self, cores: int) -> AsyncIterator[None]:
        """Wait for so many cores (at most all there are) and occupy them."""
        if self._total is None:
            yield
            return
        wanted = min(cores, self._total)
        if self._waiting or self._free < wanted:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((wanted, turn))
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self._give_back(wanted)
                else:
                    with suppress(ValueError):  # somebody who gave cores back may have passed over it
                        self._waiting.remove((wanted, turn))
                    self._give_back(0)
                raise
        else:
            self._free -= wanted
        try:
            yield
        finally:
            self._give_back(wanted)

    def _give_back(self, cores: int) -> None:
        self._free += cores
        while self._waiting and self._waiting[0][0] <= self._free:
            wanted, turn = self._waiting.popleft()
            if not turn.done():  # else its waiter is cancelled and has not run yet
                self._free -= wanted
                turn.set_result(None)
