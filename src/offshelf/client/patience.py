"""Trying again what failed because a server was away or busy, for a while and not all at once."""

from __future__ import annotations

import random
from itertools import chain, repeat
from typing import TYPE_CHECKING, TypeVar

from offshelf.errors import (
    Cancelled,
    DeadlineExceeded,
    QuotaExceeded,
    ResourceExhausted,
    StoreFull,
    Unavailable,
)

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from offshelf.client.tally import Tally
    from offshelf.errors import OffshelfError

T = TypeVar("T")

PAUSES = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 15.0, 15.0)
"""Seconds before each further attempt: a minute, in which a server that was moved to another machine is back."""

_BUSY_ATTEMPTS = 40
"""Further attempts, with the last of the pauses, while the server is there and has too much to do."""

RETRIED = (Unavailable, DeadlineExceeded, ResourceExhausted)
"""What may pass by itself; see `_FINAL`."""

_FINAL = (QuotaExceeded, StoreFull)


class Patience:
    """How long one upload goes on trying.

    Parameters
    ----------
    stop
        Set it to end all waiting.
    tally
        Is told why there is a pause.
    pauses
        Seconds before each further attempt.
    """

    def __init__(self, stop: threading.Event, tally: Tally, pauses: Sequence[float] = PAUSES) -> None:
        self._stop = stop
        self._tally = tally
        self._pauses = pauses

    def attempts(self) -> Attempts:
        """Begin something that may have to be tried again."""
        return Attempts(self._stop, self._tally, self._pauses)

    def insist(self, action: Callable[[], T]) -> T:
        """Try something until it succeeds, or there is no hope."""
        attempts = self.attempts()
        while True:
            try:
                return action()
            except RETRIED as error:
                attempts.wait_after(error)


class Attempts:
    """Attempts at one thing; `Patience` makes these."""

    def __init__(self, stop: threading.Event, tally: Tally, pauses: Sequence[float]) -> None:
        self._stop = stop
        self._tally = tally
        self._pauses = pauses
        self.succeed()

    def succeed(self) -> None:
        """Take note that something was reached: patience begins anew."""
        self._away = iter(self._pauses)
        self._busy = chain(self._pauses, repeat(self._pauses[-1] if self._pauses else 0.0, _BUSY_ATTEMPTS))

    def wait_after(self, error: OffshelfError) -> None:
        """Wait before the next attempt.

        Raises
        ------
        OffshelfError
            The error, if it does not pass by itself or has not for too long.
        Cancelled
            If somebody asks to stop.
        """
        busy = isinstance(error, ResourceExhausted)
        pause = None if isinstance(error, _FINAL) else next(self._busy if busy else self._away, None)
        if pause is None:
            raise type(error)(
                f"{error.message} What was uploaded is kept: the same command goes on from there."
            ) from error
        self._tally.wait(self, error.message)
        # Drawn anew each time, so that several who were turned away together do not come back together.
        if self._stop.wait(pause * random.uniform(0.5, 1.0)):
            raise Cancelled("The upload was stopped.") from error
        self._tally.wait(self, "")
