"""CPU work off the event loop, in a bounded number of threads.

The event loop must go on answering probes, so a servicer hands its work here. A cancelled call (a deadline, a client
that has left) cancels a coroutine and never a thread: the work gets an event to look at, and the call ends only when
the work has.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar, overload

from offshelf import deadline
from offshelf.errors import Cancelled, ResourceExhausted, Unavailable
from offshelf.store.patience import end_waits_with

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

T = TypeVar("T")

_BUFFERED_ITEMS: Final = 16
"""Items that `iterate` holds for a slow reader before the work has to wait."""

_LOOK_SECONDS: Final = 0.1
"""How often work that waits for a slow reader looks whether it should stop, in seconds."""


class Offload:
    """Threads for blocking work, with a bounded queue before them.

    Parameters
    ----------
    threads
        How many pieces of work run at once.
    queue
        How many more may wait; any beyond that are refused.
    """

    def __init__(self, threads: int, queue: int) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="offload")
        self._capacity = threads + queue
        self._stops: set[threading.Event] = set()
        self._closed = False

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call `function(*args, stop=event, **kwargs)` in a thread.

        If this coroutine is cancelled, the event is set and the cancellation goes on once the function has returned.

        Raises
        ------
        ResourceExhausted
            The threads are busy and the queue is full.
        Unavailable
            `close` was called.
        """
        stop = threading.Event()
        work = self._submit(stop, partial(function, *args, stop=stop, **kwargs))
        try:
            return await asyncio.shield(asyncio.wrap_future(work))
        finally:
            await self._finish(stop, work)

    @overload
    def iterate(
        self, function: Callable[[Callable[[T], None], threading.Event], None], *, idle: None = None
    ) -> AsyncGenerator[T, None]: ...

    @overload
    def iterate(
        self, function: Callable[[Callable[[T], None], threading.Event], None], *, idle: float
    ) -> AsyncGenerator[T | None, None]: ...

    async def iterate(
        self, function: Callable[[Callable[[T], None], threading.Event], None], *, idle: float | None = None
    ) -> AsyncGenerator[T | None, None]:
        """Call `function(emit, stop)` in a thread and yield what it emits, in order.

        If the reader leaves or is cancelled, `stop` is set and the generator ends once the function has returned.
        `emit` waits for a slow reader, and raises `Cancelled` when there is no reader any more.

        Parameters
        ----------
        function
            The work. An exception it raises comes out of the generator after the items emitted before it.
        idle
            Yield None, as a sign of life, whenever nothing was emitted for so many seconds.

        Raises
        ------
        ResourceExhausted
            The threads are busy and the queue is full.
        Unavailable
            `close` was called.
        """
        loop = asyncio.get_running_loop()
        items: asyncio.Queue[tuple[T] | None] = asyncio.Queue()
        room = threading.Semaphore(_BUFFERED_ITEMS)
        stop = threading.Event()

        def emit(item: T) -> None:
            while not stop.is_set():
                if room.acquire(timeout=_LOOK_SECONDS):
                    loop.call_soon_threadsafe(items.put_nowait, (item,))
                    return
            raise Cancelled("Nobody waits for this work any more.")

        work = self._submit(stop, partial(function, emit, stop))
        ended = asyncio.wrap_future(work)
        ended.add_done_callback(lambda _: items.put_nowait(None))
        try:
            while True:
                try:
                    async with asyncio.timeout(idle):
                        item = await items.get()
                except TimeoutError:
                    yield None
                    continue
                if item is None:
                    break
                room.release()
                yield item[0]
            await ended
        finally:
            await self._finish(stop, work)
            if ended.done() and not ended.cancelled():
                ended.exception()

    async def close(self) -> None:
        """Ask all running work to stop, wait until it has, and refuse any more."""
        self._closed = True
        for stop in self._stops:
            stop.set()
        # Not asyncio.to_thread: its executor may be what is being waited for at the end of a process.
        done = asyncio.get_running_loop().create_future()
        loop = asyncio.get_running_loop()

        def shut_down() -> None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            loop.call_soon_threadsafe(done.set_result, None)

        threading.Thread(target=shut_down, name="offload-close", daemon=True).start()
        await asyncio.shield(done)

    def _submit(self, stop: threading.Event, work: Callable[[], T]) -> Future[T]:
        if self._closed:
            raise Unavailable("This server is stopping. Try again in a moment.")
        if len(self._stops) >= self._capacity:
            raise ResourceExhausted("This server has as much work as it takes at once. Try again in a moment.")
        self._stops.add(stop)
        # The request id must be in the log lines of the work too. Work that was stopped waits for no store, and
        # none waits for other servers longer than its client does.
        context = contextvars.copy_context()
        context.run(end_waits_with, stop)
        context.run(deadline.bind_to_call)
        return self._executor.submit(context.run, work)

    async def _finish(self, stop: threading.Event, work: Future[Any]) -> None:
        """Wait until the work has ended, even if cancelled (again) meanwhile."""
        stop.set()
        work.cancel()
        ended = asyncio.wrap_future(work)
        cancelled = False
        while not ended.done():
            try:
                await asyncio.wait({ended})
            except asyncio.CancelledError:
                cancelled = True
        self._stops.discard(stop)
        # An error of abandoned work has no reader; fetching it keeps asyncio from reporting it.
        if not ended.cancelled():
            ended.exception()
        if cancelled:
            raise asyncio.CancelledError
