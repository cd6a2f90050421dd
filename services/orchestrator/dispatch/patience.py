"""Waiting: between attempts, and for what is away but may come back."""

from __future__ import annotations

import asyncio
import math
import time
from typing import TYPE_CHECKING, TypeVar

from offshelf.backoff import full_jitter
from offshelf.errors import StoreUnavailable
from offshelf.services.orchestrator.fleet.replicas import keep_quiet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offshelf.errors import OffshelfError

T = TypeVar("T")

AWAY_SECONDS = 300.0
"""So long without a break may the store, or a role's replicas, be out of reach before work that needs them gives up."""

MOST_ABSENCES = 100
"""Times that one piece of work waits for a store which is there for others: it may never be for this one."""

_FIRST_SECONDS = 0.5
_LONGEST_SECONDS = 15.0


class Outage:
    """Something that is away, for all pieces of work that need it: since when, and who waits for it.

    One piece of work alone cannot tell whether there was a break. Between two of its attempts it may stand in line for
    minutes, behind others that get on well.

    Parameters
    ----------
    quiet_seconds
        After so long without a failure it has been there, whether somebody said so or not.
    clock
        Gives the time in seconds.
    """

    def __init__(self, *, quiet_seconds: float = math.inf, clock: Callable[[], float] = time.monotonic) -> None:
        self._quiet_seconds = quiet_seconds
        self._clock = clock
        self._since = self._last = 0.0
        self._waiting: set[Patience] = set()

    def begin(self, patience: Patience) -> float:
        """Take note of a failure, and of who waits now; returns for how many seconds there was nothing but failures."""
        now = self._clock()
        if not self._waiting or now - self._last >= self._quiet_seconds:
            self._since = now
        self._last = now
        self._waiting.add(patience)
        return now - self._since

    def is_over(self) -> None:
        """Take note that it is there: nothing is in the way of those that wait any more."""
        while self._waiting:
            self._waiting.pop().over()

    def leave(self, patience: Patience) -> None:
        """Forget somebody who waits."""
        self._waiting.discard(patience)


class Patience:
    """How one piece of work waits for something that is away.

    Parameters
    ----------
    tell
        Called with a line that says what is waited for, and with "" when that is over.
    """

    def __init__(self, tell: Callable[[str], None] = keep_quiet) -> None:
        self._tell = tell
        self._outage: Outage | None = None
        self._failures = 0
        self._absences = 0

    def next_pause(self, error: OffshelfError, line: str, outage: Outage | None = None) -> float:
        """Say what is in the way, and return how long to wait before the next attempt, in seconds.

        Parameters
        ----------
        error, line
            What is in the way, and how to say it.
        outage
            What all know of it that need the same; without one, nobody else does.

        Raises
        ------
        OffshelfError
            The error itself, once this has gone on for `AWAY_SECONDS`.
        """
        outage = outage or self._outage or Outage()
        if self._outage is not None and self._outage is not outage:
            self._outage.leave(self)
        self._outage = outage
        if outage.begin(self) >= AWAY_SECONDS:
            raise error
        self._failures += 1
        self._tell(line)
        return full_jitter(self._failures, first=_FIRST_SECONDS, longest=_LONGEST_SECONDS)

    async def wait_for_store(self, error: StoreUnavailable, outage: Outage | None = None) -> None:
        """Wait a little for a store that does not answer. Raises `error` once it has been away for too long."""
        self._absences += 1
        if self._absences > MOST_ABSENCES:
            raise error
        await asyncio.sleep(self.next_pause(error, f"The store does not answer: {error.message}", outage))

    def over(self) -> None:
        """Take note that the wait is over, however it ended."""
        if self._outage is not None:
            self._outage.leave(self)
            self._outage, self._failures = None, 0
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
