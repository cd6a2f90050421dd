"""Trying again what failed because a server was away or busy: for a while, and not all clients at one moment."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from offshelf.backoff import full_jitter
from offshelf.errors import (
    DeadlineExceeded,
    QuotaExceeded,
    ResourceExhausted,
    StoreFull,
    Unavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.errors import OffshelfError

T = TypeVar("T")

PASSING = (Unavailable, DeadlineExceeded, ResourceExhausted)
"""What may pass by itself; see `_FINAL`."""

_FINAL = (QuotaExceeded, StoreFull)


@dataclass(frozen=True, slots=True)
class Pauses:
    """How often to try again, and how long to wait before."""

    attempts: int
    """Further attempts in a row while the server is away."""
    first: float
    longest: float
    """See `offshelf.backoff.full_jitter`, in seconds; on average a pause is half as long."""
    attempts_if_busy: int = 0
    """More of them, while the server is there and has too much to do."""


NONE = Pauses(attempts=0, first=0.0, longest=0.0)


def _sleep(pause: float, _: OffshelfError) -> None:
    time.sleep(pause)


class Attempts:
    """Attempts at one thing.

    Parameters
    ----------
    pauses
        Says how often.
    wait
        Waits so many seconds because of an error, or raises to wait no longer.
    """

    def __init__(self, pauses: Pauses, wait: Callable[[float, OffshelfError], None] = _sleep) -> None:
        self._pauses = pauses
        self._wait = wait
        self.succeed()

    def succeed(self) -> None:
        """Take note that something was reached: patience begins anew."""
        self._away = self._busy = 0

    def next_pause(self, error: OffshelfError) -> float | None:
        """Draw how long to wait after a failure, in seconds; None if it does not pass by itself or has not for long."""
        if isinstance(error, _FINAL):
            return None
        pauses = self._pauses
        if isinstance(error, ResourceExhausted):
            self._busy += 1
            failures, most = self._busy, pauses.attempts + pauses.attempts_if_busy
        else:
            self._away += 1
            failures, most = self._away, pauses.attempts
        return full_jitter(failures, first=pauses.first, longest=pauses.longest) if failures <= most else None

    def wait_after(self, error: OffshelfError) -> None:
        """Wait before the next attempt; raises the error when it was the last."""
        pause = self.next_pause(error)
        if pause is None:
            raise error
        self._wait(pause, error)

    def insist(self, action: Callable[[], T], *, on: tuple[type[OffshelfError], ...]) -> T:
        """Do something that may be done twice, again after some errors, until it succeeds or there is no hope."""
        while True:
            try:
                return action()
            except on as error:
                self.wait_after(error)
