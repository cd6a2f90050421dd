"""What the parts of a run share: the tools to work with, and the one place that its changes of state go to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offshelf.services.orchestrator.concurrency import outlast

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.services.orchestrator.catalog import ExtractorCatalog
    from offshelf.services.orchestrator.dispatch.dispatcher import Dispatcher
    from offshelf.services.orchestrator.fleet.replicas import Fleet
    from offshelf.services.orchestrator.runs.runlog import RunLog
    from offshelf.services.orchestrator.runs.status import RunStatus
    from offshelf.store import ObjectStore


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


class Journal:
    """A run's status and the log behind it. Events are written one at a time, in the order of the calls."""

    def __init__(self, status: RunStatus, log: RunLog) -> None:
        self.status = status
        self._log = log
        self._writing = asyncio.Lock()

    async def append(self, kind: str, **data: Any) -> None:
        """Write an event to the store, then show it. A write that has begun is finished even when cancelled."""
        async with self._writing:
            write = asyncio.ensure_future(asyncio.to_thread(self._log.append, self.status.history, kind, **data))
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
