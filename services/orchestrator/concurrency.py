"""Several things at once, of which the first failure is the failure of all."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar, cast

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

S = TypeVar("S")
T = TypeVar("T")


async def all_of(work: Iterable[Coroutine[None, None, T]]) -> list[T]:
    """Run coroutines at once and return their results in order.

    The first failure cancels the rest, waits until they have stopped, and is raised as it is (a TaskGroup would wrap
    it into an ExceptionGroup, which no error table knows).
    """
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await outlast(tasks)
        raise


async def both(first: Coroutine[None, None, S], second: Coroutine[None, None, T]) -> tuple[S, T]:
    """Run two coroutines at once that return different things, as `all_of` does."""
    results = await all_of([first, second])
    return cast("tuple[S, T]", tuple(results))


async def outlast(tasks: Iterable[asyncio.Future[T]]) -> None:
    """Wait until all have ended, whatever their outcome; a cancellation that comes meanwhile is raised afterwards."""
    tasks, cancelled = list(tasks), False
    while pending := [task for task in tasks if not task.done()]:
        try:
            await asyncio.wait(pending)
        except asyncio.CancelledError:
            cancelled = True
    if cancelled:
        raise asyncio.CancelledError
