"""Asking again while a store is away: for a while, with pauses that spread callers out, and only until told to stop.

The pauses are those of `offshelf.backoff`: threads and pods that lost a store together do not come back together.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, TypeVar

from offshelf.backoff import full_jitter
from offshelf.errors import StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

T = TypeVar("T")

logger = logging.getLogger(__name__)

_STOP: ContextVar[threading.Event | None] = ContextVar("offshelf_store_stop", default=None)

_LOOK_SECONDS = 0.1
"""How often a pause looks whether its work was asked to stop, in seconds."""

_TELL_SECONDS = 30.0
"""Least time between two lines in the log about a store that is away, in seconds."""


def end_waits_with(stop: threading.Event) -> None:
    """Let no call of a store in this context wait on once the event is set; see `contextvars`."""
    _STOP.set(stop)


@contextmanager
def waits_end_with(stop: threading.Event | None) -> Iterator[None]:
    """Let no call of a store made inside wait on once the event is set; None changes nothing."""
    if stop is None:
        yield
        return
    token = _STOP.set(stop)
    try:
        yield
    finally:
        _STOP.reset(token)


class Patience:
    """How long, and with which pauses, to ask a store again that is away.

    Parameters
    ----------
    seconds
        For how long after the first failure a call is repeated.
    first, longest
        Limits of the first pause, which each further one doubles, and of all, in seconds.
    wait
        Waits for an event for at most so many seconds, and tells whether it is set.
    clock
        Gives the time in seconds.
    """

    def __init__(
        self,
        seconds: float,
        *,
        first: float = 0.25,
        longest: float = 5.0,
        wait: Callable[[threading.Event, float], bool] = threading.Event.wait,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._first = first
        self._longest = longest
        self._wait = wait
        self._clock = clock
        self._closed = threading.Event()
        self._told = -_TELL_SECONDS

    def close(self) -> None:
        """End all pauses; from now on a call is made once and never repeated."""
        self._closed.set()

    def call(self, work: Callable[[], T]) -> T:
        """Call a function until it does not raise `StoreUnavailable`, or patience is over: its last error is raised."""
        outage = self.outage()
        while True:
            try:
                return work()
            except StoreUnavailable as error:
                outage.wait_after(error)

    def outage(self) -> Outage:
        """Make what keeps count of the failures of one call."""
        return Outage(self)

    def _pause(self, failures: int, end: float) -> bool:
        """Pause after so many failures; tell whether it is worth asking again."""
        pause = full_jitter(failures, first=self._first, longest=self._longest)
        until = min(self._clock() + pause, end)
        stop = _STOP.get()
        while not (self._closed.is_set() or (stop is not None and stop.is_set())):
            rest = until - self._clock()
            if rest <= 0:
                return self._clock() < end
            self._wait(self._closed, min(rest, _LOOK_SECONDS) if stop is not None else rest)
        return False

    def _tell(self, error: StoreUnavailable) -> None:
        now = self._clock()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            logger.warning("waiting for the store", extra={"reason": error.message, "seconds": self._seconds})


class Outage:
    """The failures of one call; `Patience.outage` makes one."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._failures = 0
        self._end = 0.0

    def is_over(self) -> None:
        """Take note that the call gets on: patience begins anew."""
        self._failures = 0

    def wait_after(self, error: StoreUnavailable) -> None:
        """Pause after a failure, or raise it if patience is over or somebody asked to stop."""
        patience = self._patience
        if not self._failures:
            self._end = patience._clock() + patience._seconds  # noqa: SLF001  two halves of one thing
        self._failures += 1
        patience._tell(error)  # noqa: SLF001
        if not patience._pause(self._failures, self._end):  # noqa: SLF001
            raise error
