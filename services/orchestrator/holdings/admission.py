"""At most so many at a time, and no user takes all of them."""

from __future__ import annotations

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
        if self._going_on.total() >= self._most:
            raise ResourceExhausted(
                f"{self._most} {self._what} are going on, which is as many as this server takes: try again in a moment."
            )
        self._going_on[user] += 1
        try:
            yield
        finally:
            self._going_on[user] -= 1
            self._going_on += Counter()  # drops users with nothing going on
