"""What a client does while a server that it has spoken to is away: moved to another machine, updated, cut off."""

from __future__ import annotations

import random
import time
from typing import TYPE_CHECKING, TypeVar

from offshelf.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from offshelf.errors import OffshelfError

T = TypeVar("T")

REMOTE_PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0, *([8.0] * 36))
"""Seconds before each further attempt: about five minutes, in which a cluster has moved what ran on a lost machine."""

LOCAL_PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0)
"""The same for services on this machine, which somebody starts again at once or not at all."""


class Absence:
    """Waits for a server that was there before. The first contact fails at once if there is nobody.

    Parameters
    ----------
    pauses
        Seconds before each further attempt.
    """

    def __init__(self, pauses: Sequence[float]) -> None:
        self.pauses = tuple(pauses)
        self._met = False

    def meet(self) -> None:
        """Take note that the server was spoken to."""
        self._met = True

    def attempts(self) -> Attempts:
        """Begin something that may have to be done again."""
        return Attempts(self.pauses if self._met else ())

    def outlast(self, action: Callable[[], T]) -> T:
        """Do something that may be done twice, again if the server is away. Raises the last `Unavailable`."""
        attempts = self.attempts()
        while True:
            try:
                result = action()
            except Unavailable as error:
                attempts.wait_after(error)
            else:
                self.meet()
                return result


class Attempts:
    """Attempts at one thing; `Absence` makes these."""

    def __init__(self, pauses: Sequence[float]) -> None:
        self._pauses = iter(pauses)

    def wait_after(self, error: OffshelfError) -> None:
        """Wait before the next attempt; raises the error when it was the last."""
        pause = next(self._pauses, None)
        if pause is None:
            raise error
        # Drawn anew each time, so that clients that were cut off together do not come back together.
        time.sleep(pause * random.uniform(0.5, 1.0))
