"""Things that are slow to load and large to keep: loaded once, shared by requests, and let go when not in use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from offshelf import deadline
from offshelf.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


@dataclass(eq=False, slots=True)
class _Entry(Generic[V]):
    value: Future[V] = field(default_factory=Future)
    leases: int = 0
    evicted: bool = False


class LeaseCache(Generic[K, V]):
    """Keeps what was used last; safe to use from any number of threads.

    What no longer fits is disposed of when its last lease ends. So more than the capacity is held only while more
    than the capacity is in use.

    Parameters
    ----------
    load
        Makes a value. Of several requests for the same key one loads, and the others wait for it. A failure is every
        waiting request's failure, and the next request tries again.
    dispose
        Gives a value back.
    capacity
        How many values are kept.
    """

    def __init__(self, load: Callable[[K], V], dispose: Callable[[V], None], *, capacity: int) -> None:
        self._load = load
        self._dispose = dispose
        self._capacity = capacity
        self._lock = threading.Lock()
        self._entries: OrderedDict[K, _Entry[V]] = OrderedDict()
        self._closed = False

    @contextmanager
    def lease(self, key: K) -> Iterator[V]:
        """Use a value; it is not disposed of before the context ends.

        Raises
        ------
        Unavailable
            `close` was called.
        OffshelfError
            Whatever `load` raises.
        """
        entry, is_new, unused = self._take(key)
        try:
            for each in unused:
                self._dispose_of(each)
            if is_new:
                self._fill(key, entry)
            yield entry.value.result()
        finally:
            with self._lock:
                entry.leases -= 1
                was_last = entry.evicted and not entry.leases
            if was_last:
                self._dispose_of(entry)

    def values(self) -> list[V]:
        """Return what is loaded, in use or not."""
        with self._lock:
            loaded = [entry.value for entry in self._entries.values() if entry.value.done()]
        return [value.result() for value in loaded if value.exception() is None]

    def forget(self, key: K) -> None:
        """Keep a value no longer; the next request for it loads it anew."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is None:
                return
            entry.evicted = True
            in_use = entry.leases > 0
        if not in_use:
            self._dispose_of(entry)

    def close(self) -> None:
        """Dispose of all values; of those in use when their last lease ends."""
        with self._lock:
            self._closed = True
            unused = self._evict(0)
        for entry in unused:
            self._dispose_of(entry)

    def _take(self, key: K) -> tuple[_Entry[V], bool, list[_Entry[V]]]:
        with self._lock:
            if self._closed:
                raise Unavailable("This server is stopping. Try again in a moment.")
            is_new = key not in self._entries
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            entry.leases += 1
            return entry, is_new, self._evict(self._capacity)

    def _evict(self, keep: int) -> list[_Entry[V]]:
        """Forget what was used longest ago; returns what can be disposed of at once. Called with the lock held."""
        unused = []
        while len(self._entries) > keep:
            _, entry = self._entries.popitem(last=False)
            entry.evicted = True
            if not entry.leases:
                unused.append(entry)
        return unused

    def _fill(self, key: K, entry: _Entry[V]) -> None:
        try:
            # All who ask meanwhile wait for it, and whoever came first may be the one in the greatest hurry.
            entry.value.set_result(deadline.unbound(self._load, key))
        except BaseException as error:
            with self._lock:
                if self._entries.get(key) is entry:
                    del self._entries[key]
            entry.value.set_exception(error)
            raise

    def _dispose_of(self, entry: _Entry[V]) -> None:
        if entry.value.exception() is None:
            self._dispose(entry.value.result())
