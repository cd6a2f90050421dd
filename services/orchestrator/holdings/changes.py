"""Who waits for whom when datasets are made and deleted."""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from offshelf.errors import Conflict, OffshelfError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Changes:
    """Datasets are made side by side; while anything is deleted, none is made and nothing else deleted.

    What was just found must still be there when the manifest is written. Making a dataset takes many calls of the
    store, so one that is slow must not hold up all others.
    """

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._making = 0
        self._none_made = asyncio.Event()
        self._none_made.set()
        self._undisturbed = asyncio.Event()
        self._undisturbed.set()
        self.dataset_deleted = ""
        """Digest of the dataset that is being deleted; empty if none is."""
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._going_on: set[asyncio.Task[Any]] = set()

    async def to_its_end(self, change: Coroutine[Any, Any, T], *, name: str) -> T:
        """Carry out a change to its end, also if its caller leaves meanwhile; the log then says if it has failed."""
        task = asyncio.create_task(change, name=name)
        self._going_on.add(task)
        task.add_done_callback(self._going_on.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    @asynccontextmanager
    async def making(self) -> AsyncIterator[None]:
        """Make a dataset: nothing is deleted meanwhile."""
        async with self._turn:  # a deletion has it for all of its time
            self._making += 1
            self._none_made.clear()
        try:
            yield
        finally:
            self._making -= 1
            if not self._making:
                self._none_made.set()

    @asynccontextmanager
    async def deleting(self, dataset: str = "") -> AsyncIterator[None]:
        """Delete a dataset, or something else; datasets that are being made are waited for.

        Raises
        ------
        Conflict
            If something is being deleted.
        """
        self.check_nothing_is_deleted()
        self._undisturbed.clear()
        self.dataset_deleted = dataset
        try:
            async with self._turn:  # none is begun
                await self._none_made.wait()
                yield
        finally:
            self.dataset_deleted = ""
            self._undisturbed.set()

    def check_nothing_is_deleted(self) -> None:
        """Raise `Conflict` if something is."""
        if not self._undisturbed.is_set():
            raise Conflict("Something is being deleted already: try again when that has ended.")

    async def undisturbed(self) -> None:
        """Wait until nothing is being deleted. Until its caller next awaits something, no deletion begins either."""
        while not self._undisturbed.is_set():
            await self._undisturbed.wait()

    @asynccontextmanager
    async def writing(self, user: str, digest: str) -> AsyncIterator[None]:
        """Write a dataset: the only one of its user, whose quota was checked, and the only one of its digest."""
        async with AsyncExitStack() as held:
            # Always in this order. Whoever has the second waits for nothing more, so nobody waits in a circle.
            for key in (f"user {user}", f"dataset {digest}"):
                await held.enter_async_context(self._locks.setdefault(key, asyncio.Lock()))
            yield


def _log_failure(change: asyncio.Task[Any]) -> None:
    error = None if change.cancelled() else change.exception()
    if isinstance(error, OffshelfError):
        extra = {"change": change.get_name(), "reason": error.message}
        _log.warning("change failed after its caller had left", extra=extra)
    elif error is not None:
        _log.error("change failed by a defect", extra={"change": change.get_name()}, exc_info=error)
