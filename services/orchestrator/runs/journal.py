"""What the parts of a run share: the tools to work with, and the one place that its changes of state go to."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from offshelf.runs import RunState
from offshelf.services.orchestrator.concurrency import outlast
from offshelf.services.orchestrator.dispatch.patience import outwait_store
from offshelf.services.orchestrator.figures import Figures, NoFigures
from offshelf.services.orchestrator.runs import runlog

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from offshelf.services.orchestrator.catalog import ExtractorCatalog
    from offshelf.services.orchestrator.dispatch.dispatcher import Dispatcher
    from offshelf.services.orchestrator.downloads import Downloads
    from offshelf.services.orchestrator.fleet.replicas import Fleet, Role
    from offshelf.services.orchestrator.runs.runlog import Event, RunLog
    from offshelf.services.orchestrator.runs.status import RunStatus
    from offshelf.store import ObjectStore

P = ParamSpec("P")
T = TypeVar("T")


async def _nothing_is_deleted() -> None:
    return


@dataclass(frozen=True, slots=True)
class Workbench:
    """What every run works with."""

    store: ObjectStore
    catalog: ExtractorCatalog
    fleet: Fleet
    dispatcher: Dispatcher
    roots: tuple[Path, ...] | None
    """Folders that datasets may lie in; None for any."""
    unit_seconds: float
    """Work in a unit, in CPU seconds."""
    max_pixels: int
    """Images with more are not used."""
    buckets: tuple[str, ...] = ()
    """Buckets that datasets may be read from."""
    undisturbed: Callable[[], Awaitable[None]] = _nothing_is_deleted
    """Waits until nothing is being deleted."""
    figures: Figures = field(default_factory=NoFigures)
    scratch: Path | None = None
    """Folder for large files that are needed for a while; None for the system's."""
    scratch_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held by the run that uses it: it may have room for one."""
    downloads: Downloads | None = None
    """Downloads weights for the other services, where they are on this machine."""
    extractors_at_a_time: int = 0
    """Extractors that one run has in use; 0 for all that it names."""

    def extraction_turns(self) -> AbstractAsyncContextManager[object]:
        """Make what the extractors of one run wait in for their turn."""
        return asyncio.Semaphore(self.extractors_at_a_time) if self.extractors_at_a_time else nullcontext()


class Journal:
    """A run's status and the log behind it. Events are written one at a time, in the order of the calls."""

    def __init__(self, status: RunStatus, log: RunLog) -> None:
        self.status = status
        self._log = log
        self._writing = asyncio.Lock()

    async def append(self, kind: str, **data: Any) -> None:
        """Write an event to the store, then show it; wait for a store that does not answer.

        A write that has begun is finished even when cancelled.
        """
        with self.status.notices.topic() as tell:
            await outwait_store(lambda: self.append_at_once(kind, **data), tell)

    async def append_at_once(self, kind: str, **data: Any) -> None:
        """Write an event as `append` does, but fail if the store does not answer."""
        async with self._writing:
            await self._write(kind, **data)

    @property
    def owes_failure(self) -> bool:
        """Whether the run shows as failed, and its log does not say so."""
        return self.status.state is RunState.FAILED and not self.status.history.ended

    async def write_failure(self) -> bool:
        """Write the failure that is owed; tells whether there was one. The run may have been gone on with meanwhile."""
        async with self._writing:
            owed = self.owes_failure
            if owed:
                await self._write(runlog.FAILED, error=self.status.error)
            return owed

    async def take_over(self) -> bool:
        """Write that somebody asked for the run again; False if it has an ending by now, which nothing may follow."""
        async with self._writing:
            ended = self.status.history.ended
            if not ended:
                await self._write(runlog.TAKEN_OVER, asked=True)
            return not ended

    async def with_store(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call, in a thread, what needs the store; again and again while the store does not answer.

        Raises
        ------
        StoreUnavailable
            If it is away for too long.
        """
        with self.status.notices.topic() as tell:
            return await outwait_store(lambda: asyncio.to_thread(work, *args, **kwargs), tell)

    @asynccontextmanager
    async def hold(self, fleet: Fleet, role: Role, *, units: int) -> AsyncIterator[None]:
        """Keep replicas of a role running while inside, and show what is in their way."""
        with self.status.notices.topic() as tell:
            async with fleet.hold(role, units=units, tell=tell):
                yield

    async def _write(self, kind: str, **data: Any) -> None:
        write: asyncio.Future[Event] = asyncio.ensure_future(
            asyncio.to_thread(self._log.append, self.status.history, kind, **data)
        )
        try:
            # The thread cannot be stopped: what comes after must find its event in the history.
            await outlast([write])
        finally:
            if write.exception() is None:
                self.status.apply(write.result())
        await write

    def say(self, activity: str) -> None:
        """Show what is being done; this is not kept."""
        self.status.activity = activity
        self.status.touch()
