"""Waiting: between attempts, and for what is away but may come back."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, TypeVar

from offshelf.errors import StoreUnavailable
from offshelf.services.orchestrator.fleet.replicas import keep_quiet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offshelf.errors import OffshelfError

T = TypeVar("T")

AWAY_SECONDS = 300.0
"""So long without a break may the store, or a role's replicas, be out of reach before work that needs them gives up."""

_FIRST_SECONDS = 0.5
_LONGEST_SECONDS = 15.0


def back_off(failures: int, *, first: float, longest: float) -> float:
    """Draw how long to wait after so many failures in a row, in seconds.

    "Full jitter": anything from nothing to a bound that doubles each time, so that what failed together does not come
    back together (Brooker, "Exponential Backoff and Jitter", AWS Architecture Blog, 2015).
    """
    return random.uniform(0.0, min(longest, first * 2.0 ** min(failures - 1, 30)))


class Patience:
    """How one piece of work waits for something that is away.

    Parameters
    ----------
    tell
        Called with a line that says what is waited for, and with "" when that is over.
    """

    def __init__(self, tell: Callable[[str], None] = keep_quiet) -> None:
        self._tell = tell
        self._since: float | None = None
        self._failures = 0

    def next_pause(self, error: OffshelfError, line: str) -> float:
        """Say what is in the way, and return how long to wait before the next attempt, in seconds.

        Raises
        ------
        OffshelfError
            The error itself, once this has gone on for `AWAY_SECONDS`.
        """
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= AWAY_SECONDS:
            raise error
        self._failures += 1
        self._tell(line)
        return back_off(self._failures, first=_FIRST_SECONDS, longest=_LONGEST_SECONDS)

    async def wait_for_store(self, error: StoreUnavailable) -> None:
        """Wait a little for a store that does not answer. Raises `error` once it has been away for too long."""
        await asyncio.sleep(self.next_pause(error, f"The store does not answer: {error.message}"))

    def over(self) -> None:
        """Take note that the wait is over, however it ended."""
        if self._since is not None:
            self._since, self._failures = None, 0
            self._tell("")


async def outwait_store(work: Callable[[], Awaitable[T]], tell: Callable[[str], None]) -> T:
    """Do something that needs the store, again and again while it does not answer.

    Parameters
    ----------
    work
        May be done any number of times.
    tell
        As for `Patience`.

    Raises
    ------
    StoreUnavailable
        If the store is away for too long.
    """
    patience = Patience(tell)
    try:
        while True:
            try:
                return await work()
            except StoreUnavailable as error:
                await patience.wait_for_store(error)
    finally:
        patience.over()
