"""Room on this machine's disk for large images on their way into the store."""

from __future__ import annotations

import asyncio

from offshelf.errors import ResourceExhausted

SPOOL_BYTES = 768 * 1024 * 1024
"""Of all large images that are on their way at a time; in a pod, /tmp has little more."""

WAIT_SECONDS = 30.0
"""How long a call waits for room before its client is told to come back, which is sooner than clients give up."""


class SpoolRoom:
    """Lends room, first come, first served.

    Parameters
    ----------
    most
        Bytes there are in all. A single image may have no more.
    wait_seconds
        How long to wait for it.
    """

    def __init__(self, most: int = SPOOL_BYTES, wait_seconds: float = WAIT_SECONDS) -> None:
        self._free = most
        self._wait_seconds = wait_seconds
        self._turn = asyncio.Lock()
        self._returned = asyncio.Event()

    async def take(self, size: int) -> None:
        """Wait for room for an image, all of it at once: several that each have half of theirs would wait for ever.

        Raises
        ------
        ResourceExhausted
            If there is none for too long.
        """
        try:
            async with asyncio.timeout(self._wait_seconds), self._turn:
                while self._free < size:
                    self._returned.clear()
                    await self._returned.wait()
                self._free -= size
        except TimeoutError:
            raise ResourceExhausted(
                "As many large images are on their way as this server has room for: try again in a moment."
            ) from None

    def give_back(self, size: int) -> None:
        """Return the room of an image."""
        self._free += size
        self._returned.set()
