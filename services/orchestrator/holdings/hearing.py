"""Listening to a client that sends a stream: not for ever, and not beyond the end of this server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from offshelf.errors import DeadlineExceeded, Unavailable
from offshelf.services.orchestrator.concurrency import outlast

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable

T = TypeVar("T")

IDLE_SECONDS = 60.0
"""How long a client may send nothing, or too little, before its call is ended."""


class Hearing:
    """Hears clients out.

    Parameters
    ----------
    idle_seconds
        How long a client may take to bring something. The time that its messages are being dealt with does not count.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._closing = asyncio.Event()

    def close(self) -> None:
        """End all streams, and any that begins from now on."""
        self._closing.set()

    async def of(
        self, messages: AsyncIterator[T], brings: Callable[[T], int], *, least: Callable[[], int]
    ) -> AsyncGenerator[T, None]:
        """Yield what a client sends.

        Parameters
        ----------
        messages
            The client's stream.
        brings
            Says how much a message brings; 0 if it only keeps the stream open.
        least
            Says how much has to come in time. Who sends a byte now and then would else keep a place for days. Asked
            before and after each message, of which the lesser counts: what begins or ends something that calls for
            more has its time before or behind it.

        Raises
        ------
        DeadlineExceeded
            If nothing comes for too long, or too little.
        Unavailable
            If this server is stopping.
        """
        loop = asyncio.get_running_loop()
        source = aiter(messages)
        closing = asyncio.ensure_future(self._closing.wait())
        coming: asyncio.Future[T] | None = None
        deadline, brought = loop.time() + self._idle_seconds, 0
        try:
            while True:
                coming = asyncio.ensure_future(source.__anext__())
                await asyncio.wait(
                    {coming, closing}, timeout=deadline - loop.time(), return_when=asyncio.FIRST_COMPLETED
                )
                if self._closing.is_set():
                    raise Unavailable("This server is stopping. What it has is kept: send the rest when it is back.")
                if not coming.done():
                    little = "Too little" if brought else "Nothing"
                    raise DeadlineExceeded(
                        f"{little} came for {self._idle_seconds:g} seconds, so the upload was ended. What came before "
                        "is kept: send the rest."
                    )
                try:
                    message = coming.result()
                except StopAsyncIteration:
                    return
                came, needed = loop.time(), least()
                yield message
                deadline += loop.time() - came
                brought += brings(message)
                if brought >= min(needed, least()):
                    deadline, brought = loop.time() + self._idle_seconds, 0
        finally:
            waiting: list[asyncio.Future[Any]] = [future for future in (coming, closing) if future is not None]
            for future in waiting:
                future.cancel()
            await outlast(waiting)
            for future in waiting:
                if not future.cancelled():
                    future.exception()  # or asyncio reports an error that nobody wants to know
