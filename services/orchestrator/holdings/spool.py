"""Room on this machine's disk for large images, and networks, on their way into the store."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from offshelf.datasets import MAX_IMAGE_BYTES
from offshelf.errors import ResourceExhausted

if TYPE_CHECKING:
    from collections.abc import Callable

SPOOL_BYTES = 768 * 1024 * 1024
"""Of all large images that are on their way at a time; in a pod, /tmp has little more."""

SPOOL_BYTES_OF_USER = MAX_IMAGE_BYTES
"""Of those of one user, who may send slowly: the largest image has to fit."""

LONGEST_SPOOLED = 15
"""Times as long as a client may be silent may pass until all has come that room was taken for: others wait for it."""

WAIT_SECONDS = 30.0
"""How long a call waits for room before its client is told to come back, which is sooner than clients give up."""


class SpoolRoom:
    """Lends room, first come, first served, and to no user more than a share.

    Parameters
    ----------
    most, most_of_user
        Bytes there are in all, and for one user. A single image may have no more.
    wait_seconds
        How long to wait for it.
    what
        What it is for, as users call it.
    """

    def __init__(
        self,
        most: int = SPOOL_BYTES,
        most_of_user: int = SPOOL_BYTES_OF_USER,
        wait_seconds: float = WAIT_SECONDS,
        *,
        what: str = "large images",
    ) -> None:
        self._what = what
        self._all = _Room(most)
        self._most_of_user = most_of_user
        self._shares: WeakValueDictionary[str, _Room] = WeakValueDictionary()
        self._wait_seconds = wait_seconds

    async def take(self, user: str, size: int) -> Callable[[], None]:
        """Wait for room for an image, all of it at once: several that each have half of theirs would wait for ever.

        Returns
        -------
        Callable[[], None]
            Gives the room back.

        Raises
        ------
        ResourceExhausted
            If there is none for too long.
        """
        share = self._shares.setdefault(user, _Room(self._most_of_user))
        whose = " of yours"
        try:
            async with asyncio.timeout(self._wait_seconds):
                # The user's own share first: who waits for that must not stand in the way of others.
                await share.take(size)
                whose = ""
                try:
                    await self._all.take(size)
                except BaseException:
                    share.give_back(size)
                    raise
        except TimeoutError:
            raise ResourceExhausted(
                f"As many {self._what}{whose} are on their way as this server has room for: try again in a moment."
            ) from None
        return partial(self._give_back, share, size)

    def _give_back(self, share: _Room, size: int) -> None:
        self._all.give_back(size)
        share.give_back(size)


class _Room:
    """So many bytes, for whoever asks first."""

    def __init__(self, free: int) -> None:
        self._free = free
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    async def take(self, size: int) -> None:
        # Who wants much would starve if others that want little went ahead. Each waits here for as long as `SpoolRoom`
        # says and no longer, so nobody stands in the way for more than that.
        async with self._turn:
            while self._free < size:
                self._returned.clear()
                await self._returned.wait()
            self._free -= size

    def give_back(self, size: int) -> None:
        self._free += size
        self._returned.set()
