"""Many calls of a store at once: over a network, one after the other would be mostly waiting."""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import cache
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable

A = TypeVar("A")
R = TypeVar("R")

_THREADS = 16
"""Of all callers together: more would only open more connections to the same store."""

_AHEAD = 2 * _THREADS
"""Calls of one caller that may have begun, or wait for a thread."""


_READER = threading.local()
"""Tells threads of the pool, which must not wait for each other."""


def _take_note() -> None:
    _READER.reads = True


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_THREADS, thread_name_prefix="read", initializer=_take_note)


def read_each(read: Callable[[A], R], of: Iterable[A]) -> list[R]:
    """Call a function that waits for the store with each of some values; results in their order.

    The first failure is raised, in their order too, once the calls that had begun have ended. Within such a call, this
    reads one after the other.
    """
    values = list(of)
    if len(values) < 2:  # noqa: PLR2004  (nothing to do at once)
        return [read(value) for value in values]
    return list(read_ahead(read, values))


def read_ahead(read: Callable[[A], R], of: Iterable[A], *, ahead: int = _AHEAD) -> Generator[R, None, None]:
    """Yield what `read_each` returns, one by one, without holding it all.

    Parameters
    ----------
    read, of
        As for `read_each`.
    ahead
        Most results that are held, or being read, at a time, besides the one that was yielded last.
    """
    if getattr(_READER, "reads", False):
        yield from map(read, of)
        return
    under_way: deque[Future[R]] = deque()
    try:
        for value in of:
            # Not all at once: whoever else reads gets a turn before the end of a long list.
            if len(under_way) >= ahead:
                yield under_way.popleft().result()
            # Each with the request id that its log lines should carry.
            under_way.append(_readers().submit(copy_context().run, read, value))
        while under_way:
            yield under_way.popleft().result()
    finally:
        # Those that had begun end first. The others are not waited for: they may stand behind somebody else's.
        wait([call for call in under_way if not call.cancel()])
