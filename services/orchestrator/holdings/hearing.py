"""Listening to a client that sends a stream: not for ever, and not beyond the end of this server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

from offshelf.errors import DeadlineExceeded, Unavailable
from offshelf.services.orchestrator.concurrency import outlast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

T = TypeVar("T")

IDLE_SECONDS = 60.0
"""How long a client may send nothing before its call is ended."""


class Hearing:
    """Hears clients out.

    Parameters
    ----------
    idle_seconds
        How long a client may be silent. The time that its messages are being dealt with does not count.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all streams, and any that begins from now on."""
        self._closing.set()

    async def of(self, messages: AsyncIterator[T], says_something: Callable[[T], bool]) -> AsyncGenerator[T, None]:
        """Yield what a client sends.

        Parameters
        ----------
        messages
            The client's stream.
        says_something
            Tells a message that brings something from one that only keeps the stream open.

        Raises
        ------
        DeadlineExceeded
            If nothing comes for too long.
        Unavailable
            If this server is stopping.
        """
        loop = asyncio.get_running_loop()
        source = aiter(messages)
        closing = asyncio.ensure_future(self._closing.wait())
        coming: asyncio.Future[T] | None = None
        deadline = loop.time() + self._idle_seconds
        try:
            while True:
                coming = asyncio.ensure_future(source.__anext__())
                await asyncio.wait(
                    {coming, closing}, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED
                )
                if self._closing.is_set():
                    raise Unavailable("This server is stopping. What it has is kept: send the rest when it is back.")
                if not coming.done():
                    raise DeadlineExceeded(
                        f"Nothing came for {self._idle_seconds:g} seconds, so the upload was ended. What came before "
                        "is kept: send the rest."
                    )
                try:
                    message = coming.result()
                except StopAsyncIteration:
                    return
                yield message
                if says_something(message):
                    deadline = loop.time() + self._idle_seconds
        finally:
            waiting = [future for future in (coming, closing) if future is not None]
            for future in waiting:
                future.cancel()
            await outlast(waiting)
            for future in waiting:
                if not future.cancelled():
                    future.exception()  # or asyncio reports an error that nobody wants to know
