from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import Cancelled, InvalidInput, ResourceExhausted, Unavailable
from offshelf.logs import request_id
from offshelf.rpc.offload import Offload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def offload() -> AsyncIterator[Offload]:
    """One thread, and room for one more piece of work."""
    offload = Offload(threads=1, queue=1)
    yield offload
    await offload.close()


class Work:
    """Work that says when it has started and ends when it is asked to stop."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.stopped = threading.Event()

    def __call__(self, *, stop: threading.Event) -> None:
        """Run until asked to stop."""
        self.started.set()
        stop.wait()
        self.stopped.set()

    async def begun(self) -> None:
        """Wait until a thread has taken it up."""
        await asyncio.to_thread(self.started.wait)


async def test_work_runs_in_a_thread_with_its_request_id(offload: Offload) -> None:
    """Work gives its result, off the event loop, and its log lines carry the id of the request it is for."""

    def add(first: int, *, second: int, stop: threading.Event) -> tuple[int, bool, str]:
        here = threading.current_thread() is threading.main_thread()
        return first + second + stop.is_set(), here, request_id.get()

    request_id.set("abc")
    assert await offload.run(add, 1, second=2) == (3, False, "abc")


async def test_an_error_of_the_work_is_the_callers(offload: Offload) -> None:
    """What the work raises reaches whoever asked for it."""

    def fail(*, stop: threading.Event) -> None:  # noqa: ARG001
        raise InvalidInput("bad")

    with pytest.raises(InvalidInput, match="bad"):
        await offload.run(fail)


async def test_cancelling_stops_the_thread_first(offload: Offload) -> None:
    """A cancelled call ends when its thread has ended, so nothing works on for nobody."""
    work = Work()
    call = asyncio.ensure_future(offload.run(work))
    await work.begun()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert work.stopped.is_set()


async def test_cancelling_twice_still_waits_for_the_thread(offload: Offload) -> None:
    """Not even a second cancellation leaves a thread working on its own."""
    release = threading.Event()
    ended = threading.Event()
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()

    def stubborn(*, stop: threading.Event) -> None:
        loop.call_soon_threadsafe(begun.set)
        stop.wait()
        loop.call_soon_threadsafe(asked.set)
        release.wait()
        ended.set()

    call = asyncio.ensure_future(offload.run(stubborn))
    await begun.wait()
    call.cancel()
    await asked.wait()
    call.cancel()
    await asyncio.sleep(0)
    assert not call.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert ended.is_set()


async def test_work_that_is_given_up_leaves_no_noise(offload: Offload, caplog: pytest.LogCaptureFixture) -> None:
    """An operator finds no errors in the logs for work that ended because nobody wanted it any more."""
    started = threading.Event()

    def give_up(*, stop: threading.Event) -> None:
        started.set()
        stop.wait()
        raise Cancelled("asked to stop")

    call = asyncio.ensure_future(offload.run(give_up))
    await asyncio.to_thread(started.wait)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    del call
    gc.collect()
    assert caplog.records == []


async def test_more_work_than_fits_is_refused(offload: Offload) -> None:
    """A service with too much to do says so at once instead of piling work up, and takes work again later."""
    first, second = Work(), Work()
    running = [asyncio.ensure_future(offload.run(first)), asyncio.ensure_future(offload.run(second))]
    await first.begun()
    with pytest.raises(ResourceExhausted, match="Try again in a moment"):
        await offload.run(Work())
    for call in running:
        call.cancel()
    await asyncio.gather(*running, return_exceptions=True)
    assert not second.started.is_set()
    assert await offload.run(lambda *, stop: stop.is_set()) is False


async def test_closing_stops_all_work_and_takes_no_more() -> None:
    """A service that stops asks its work to stop, waits for it, and refuses new work."""
    offload = Offload(threads=1, queue=0)
    work = Work()
    call = asyncio.ensure_future(offload.run(work))
    await work.begun()
    await offload.close()
    await call
    assert work.stopped.is_set()
    with pytest.raises(Unavailable):
        await offload.run(Work())
    with pytest.raises(Unavailable):
        [_ async for _ in offload.iterate(lambda _emit, _stop: None)]


async def test_emitted_items_come_in_order(offload: Offload) -> None:
    """Progress arrives as it is made, all of it, in order, also when there is much of it."""

    def count(emit: Callable[[int], None], stop: threading.Event) -> None:  # noqa: ARG001
        for number in range(1000):
            emit(number)

    assert [number async for number in offload.iterate(count)] == list(range(1000))


async def test_an_error_comes_after_the_items_before_it(offload: Offload) -> None:
    """Work that fails halfway shows what it did, and then why it failed."""

    def fail(emit: Callable[[int], None], stop: threading.Event) -> None:  # noqa: ARG001
        emit(1)
        raise InvalidInput("bad")

    items = offload.iterate(fail)
    assert await anext(items) == 1
    with pytest.raises(InvalidInput, match="bad"):
        await anext(items)


async def test_silent_work_gives_signs_of_life(offload: Offload) -> None:
    """Somebody who watches slow work sees that it is alive."""
    release = threading.Event()

    def slow(emit: Callable[[str], None], stop: threading.Event) -> None:  # noqa: ARG001
        release.wait()
        emit("done")

    signs = 0
    async for item in offload.iterate(slow, idle=0.01):
        if item is None:
            signs += 1
            if signs == 3:
                release.set()
        else:
            assert item == "done"
    assert signs >= 3


async def test_a_reader_that_leaves_stops_the_work(offload: Offload) -> None:
    """Work whose reader has left is asked to stop, even while it waits for that reader to take more."""
    outcomes: list[str] = []

    def endless(emit: Callable[[int], None], stop: threading.Event) -> None:
        try:
            while True:
                emit(1)
        except Cancelled:
            outcomes.append(f"cancelled, stop={stop.is_set()}")
            raise

    async with contextlib.aclosing(offload.iterate(endless)) as items:
        async for _ in items:
            break
    assert outcomes == ["cancelled, stop=True"]


async def test_a_slow_reader_slows_the_work_down(offload: Offload) -> None:
    """Work does not run far ahead of a reader that cannot keep up."""
    made = 0

    def produce(emit: Callable[[int], None], stop: threading.Event) -> None:  # noqa: ARG001
        nonlocal made
        for number in range(200):
            emit(number)
            made += 1

    taken = 0
    async for _ in offload.iterate(produce):
        taken += 1
        assert made <= taken + 20
    assert taken == 200
