"""What a client does while a server that it has spoken to is away: moved to another machine, updated, cut off."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from offshelf.client.patience import NONE, Attempts, Pauses
from offshelf.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

REMOTE_PAUSES = Pauses(attempts=78, first=0.25, longest=8.0)
"""About five minutes, in which a cluster has moved what ran on a lost machine."""

LOCAL_PAUSES = Pauses(attempts=7, first=0.25, longest=4.0)
"""Some seconds: services on this machine are started again at once or not at all."""


class Absence:
    """Waits for a server that was there before. The first contact fails at once if there is nobody.

    Parameters
    ----------
    pauses
        Says for how long.
    """

    def __init__(self, pauses: Pauses) -> None:
        self.pauses = pauses
        self._met = False

    def meet(self) -> None:
        """Take note that the server was spoken to."""
        self._met = True

    def attempts(self) -> Attempts:
        """Begin something that may have to be done again."""
        return Attempts(self.pauses if self._met else NONE)

    def outlast(self, action: Callable[[], T], *, on: type[Unavailable] = Unavailable) -> T:
        """Do something that may be done twice, again if the server is away. Raises the last `Unavailable`.

        With `Unreachable`, what a server that is there cannot do at the moment is not tried again.
        """
        result = self.attempts().insist(action, on=(on,))
        self.meet()
        return result
