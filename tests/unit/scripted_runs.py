"""Orchestrators over fakes, whose runs do what a test says."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING

from offshelf.access import Caller, Role
from offshelf.errors import StoreFull, StoreUnavailable
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.intake import Intake, Request
from offshelf.services.orchestrator.runs.orchestration import Orchestrator
from offshelf.services.orchestrator.runs.runlog import RunLog
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from offshelf.services.orchestrator.figures import Figures
    from offshelf.services.orchestrator.runs.journal import Journal
    from offshelf.services.orchestrator.runs.status import RunStatus


ANN = Caller.user("ann", Role.RUNNER)


class FragileStore(MemoryStore):
    """A store that is full or away when told to, and slow to write when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.full = self.away = False
        self.pause = 0.0
        self.refused = 0

    def put(self, key: str, data: bytes) -> None:
        """Write an object, late or not at all."""
        import time

        time.sleep(self.pause)
        if self.full or self.away:
            self.refused += 1
            raise StoreFull("the store is full") if self.full else StoreUnavailable("the store is away")
        super().put(key, data)


class Catalog:
    """Knows one extractor."""

    names = ("hog",)

    def find(self, name: str) -> SimpleNamespace:
        """Find anything."""
        return SimpleNamespace(name=name)

    def availability(self, _name: str) -> str:
        """Say that it is available."""
        return ""


class ScriptedExecution:
    """An execution that does what a test says."""

    def __init__(self, journal: Journal, work: Callable[[Journal], Awaitable[None]]) -> None:
        self._journal = journal
        self._work = work

    async def run(self) -> None:
        """Do it."""
        await self._work(self._journal)


async def for_ever(journal: Journal) -> None:
    """Work that does not end."""
    await journal.append(runlog.DATASET_READ, dataset="d", images=2)
    await asyncio.Event().wait()


def orchestrator(
    store: MemoryStore,
    *,
    epoch: int = 1,
    take_up: bool = False,
    work: Callable[[Journal], Awaitable[None]] = for_ever,
    catalog: Catalog | None = None,
    quota_runs: int = 0,
    deleting: Callable[[], str] = lambda: "",
    figures: Figures | None = None,
) -> Orchestrator:
    """Make an orchestrator over fakes."""
    return Orchestrator(
        store=store,
        log=RunLog(store, epoch),
        intake=Intake(store, catalog or Catalog(), roots=None),  # type: ignore[arg-type]
        execute=lambda journal: ScriptedExecution(journal, work),  # type: ignore[arg-type, return-value]
        take_up=take_up,
        quota_runs=quota_runs,
        deleting=deleting,
        figures=figures,
    )


def folder_of_pets(root: Path) -> str:
    """Make a folder with two classes of two images each, by name."""
    for label in ("cat", "dog"):
        (root / label).mkdir()
        for number in range(2):
            (root / label / f"{number}.png").write_bytes(b"")
    return str(root)


async def create(
    runs: Orchestrator, dataset: str, *, request: str = "r1", seed: int = 0, user: str = "ann"
) -> tuple[RunStatus, bool]:
    """Ask for a run."""
    wanted = Request(dataset=dataset, classifiers=["LR"], folds=2, seed=seed)
    return await runs.create(wanted, request_id=request, user=user)


async def kill(runs: Orchestrator) -> None:
    """End all work without a word in the log, as kill -9 does."""
    for task in list(runs._ongoing._tasks.values()):
        task.cancel()
    await asyncio.sleep(0.05)


def kinds(store: MemoryStore, run_id: str) -> list[str]:
    """What the log says of a run."""
    return [event.kind for event in RunLog(store, epoch=99).replay(run_id).events]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something to come true."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (of whatever kind)
            await asyncio.sleep(0.005)
