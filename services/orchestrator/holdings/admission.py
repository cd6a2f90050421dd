"""At most so many at a time, and no user takes all of them."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from offshelf.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Iterator


class Admission:
    """Counts what is going on.

    Parameters
    ----------
    most
        At a time, of all users together.
    most_of_user
        At a time, of one user.
    what
        What is counted, as users call it.
    """

    def __init__(self, *, most: int, most_of_user: int, what: str = "uploads") -> None:
        self._what = what
        self._most = most
        self._most_of_user = most_of_user
        self._going_on: Counter[str] = Counter()
        self._aside = 0
        """Of those, how many wait for a client that does nothing."""

    @contextmanager
    def admitted(self, user: str) -> Iterator[None]:
        """Let a user in for the time of a block.

        Raises
        ------
        ResourceExhausted
            If there are as many as there may be.
        """
        if self._going_on[user] >= self._most_of_user:
            raise ResourceExhausted(
                f"{self._most_of_user} {self._what} of yours are going on, which is as many as this server takes of "
                "one user: try again in a moment."
            )
        self._check_room()
        self._going_on[user] += 1
        try:
            yield
        finally:
            self._going_on[user] -= 1
            self._going_on += Counter()  # drops users with nothing going on

    @contextmanager
    def set_aside_after(self, seconds: float) -> Iterator[None]:
        """Wait for the client of something that was admitted; after so long, it takes no place from other users.

        It still counts for its own user: gRPC ends no call whose client does not read, so it goes on to cost memory.

        Raises
        ------
        ResourceExhausted
            At the end of the block, if others have taken its place meanwhile.
        """
        is_aside = False

        def set_aside() -> None:
            nonlocal is_aside
            is_aside = True
            self._aside += 1

        timer = asyncio.get_running_loop().call_later(seconds, set_aside)
        try:
            yield
            if is_aside:
                self._check_room()
        finally:
            timer.cancel()
            self._aside -= is_aside

    def _check_room(self) -> None:
        if self._going_on.total() - self._aside >= self._most:
            raise ResourceExhausted(
                f"{self._most} {self._what} are going on, which is as many as this server takes: try again in a moment."
            )
