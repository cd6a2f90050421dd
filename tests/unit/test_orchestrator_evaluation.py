"""One extractor's part of a run: what may be left out, and what ends the run."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offshelf import features
from offshelf.datasets import Dataset, Item
from offshelf.digests import digest_of
from offshelf.errors import InvalidDataset, Unavailable
from offshelf.features import FeatureTable, ImageOutcome, SegmentRow
from offshelf.images import ImageStatus
from offshelf.runs import RunState
from offshelf.services.orchestrator.dispatch import dispatcher as dispatch
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.dispatcher import Dispatcher
from offshelf.services.orchestrator.dispatch.units import FoldResult
from offshelf.services.orchestrator.fleet.replicas import Replica, ReplicaPool, Role, RoleUnavailable
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.evaluation import Evaluation
from offshelf.services.orchestrator.runs.execution import Execution
from offshelf.services.orchestrator.runs.journal import Journal, Workbench
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.runs.specification import RunSpec
from offshelf.services.orchestrator.runs.status import RunStatus
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from offshelf.services.orchestrator.dispatch.units import ScoringUnit

FINGERPRINT = digest_of("hog")
MAX_PIXELS = 1000
PETS = Dataset.of(
    Item(f"{label}/{n}.png", label, "", digest_of([label, n])) for label in ("cat", "dog") for n in (0, 1)
)


class Fleet:
    """A fleet in which some roles cannot be started."""

    def __init__(self, *refused: str) -> None:
        self.pool = ReplicaPool(lambda _: 4)
        self._refused = refused

    @asynccontextmanager
    async def hold(self, role: Role) -> AsyncIterator[None]:
        """Have a replica ready, or a refusal."""
        if role.service in self._refused:
            self.pool.refuse(role, Unavailable(f"{role} ended 3 times"))
        else:
            self.pool.add(Replica(role, "only", "127.0.0.1:1"))
        yield

    async def close(self) -> None:
        """Stop nothing."""
        return


class Peers:
    """Services that lose their worker over every classifier."""

    async def cross_validate(self, address: str, unit: ScoringUnit) -> AsyncIterator[FoldResult]:
        """Die."""
        if unit.classifiers:
            raise Unavailable(f"{address} lost {unit}")
        yield FoldResult("none", "", unit.fold, {})


class Catalog:
    """Knows one extractor, of which everything is there."""

    def find(self, name: str) -> Any:
        """Find it."""
        return SimpleNamespace(name=name, cost_seconds=1.0, dimension=2)

    def fingerprint(self, _name: str) -> str:
        """Return its fingerprint."""
        return FINGERPRINT

    def availability(self, _name: str) -> str:
        """Say that it is available."""
        return ""


@pytest.fixture
def store() -> MemoryStore:
    """A store that has the features of all pets."""
    store = MemoryStore()
    images = [item.digest for item in PETS.items]
    rows = [SegmentRow(image, ImageStatus.OK, "", np.ones(2, np.float32)) for image in images]
    segment = features.write_segment(store, FINGERPRINT, images, rows, max_pixels=MAX_PIXELS, dimension=2)
    features.write_table(store, FeatureTable(PETS.digest, FINGERPRINT, 2, (segment,)))
    return store


def workbench(store: MemoryStore, fleet: Fleet) -> Workbench:
    """Put the tools of a run together."""
    return Workbench(
        store=store,
        catalog=Catalog(),  # type: ignore[arg-type]
        fleet=fleet,
        dispatcher=Dispatcher(fleet=fleet, peers=Peers(), budget=CoreBudget(1), store=store, cores=1),  # type: ignore[arg-type]
        roots=None,
        unit_seconds=10.0,
        max_pixels=MAX_PIXELS,
    )


def journal(log: RunLog) -> Journal:
    """Begin a run of one extractor and two classifiers on three folds."""
    spec = RunSpec("folder:/pets", ("hog",), ("LR", "RF"), "accuracy", 3, 0)
    return Journal(RunStatus(spec, log.create("R1", spec.to_json())), log)


async def test_a_trainer_that_cannot_be_started_ends_the_run(store: MemoryStore) -> None:
    """Without a trainer there is no comparison; no extractor is left out for it."""
    run = journal(RunLog(store, 1))
    with pytest.raises(RoleUnavailable, match="trainer ended 3 times"):
        await Evaluation("hog", PETS, workbench(store, Fleet("trainer")), run).run()
    assert run.status.left_out == []


async def test_an_extractor_that_cannot_be_started_is_left_out() -> None:
    """The other extractors are compared without it, and the reason is told."""
    store = MemoryStore()
    run = journal(RunLog(store, 1))
    evaluation = Evaluation("hog", PETS, workbench(store, Fleet("extractor")), run)
    await evaluation.run()
    assert run.status.left_out == ["extractor-hog ended 3 times"]
    assert evaluation.table is None
    assert run.status.progress.images_remaining == 0


async def test_scores_that_are_lost_are_not_waited_for(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that is left out does not stay in the time left."""
    monkeypatch.setattr(dispatch, "_BACK_OFF_SECONDS", 0.0)
    run = journal(RunLog(store, 1))
    evaluation = Evaluation("hog", PETS, workbench(store, Fleet()), run)
    await evaluation.run()
    assert len(run.status.left_out) == 2
    assert run.status.progress.scores_remaining == 0
    assert evaluation.scores == {}


async def test_a_failure_that_cannot_be_written_is_shown(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong with the log, a watcher hears that the run has failed."""
    log = RunLog(store, 1)
    run = journal(log)

    def refuse(*_: object, **__: object) -> None:
        raise TypeError("a defect")

    monkeypatch.setattr(log, "append", refuse)
    await Execution(workbench(store, Fleet()), run).run()
    assert run.status.state is RunState.FAILED
    assert run.status.error


async def test_an_event_that_is_being_written_is_not_forgotten(store: MemoryStore) -> None:
    """However often a run is cancelled while it writes, what it wrote is what it shows."""
    run = journal(RunLog(store, 1))
    writing = asyncio.create_task(run.append(runlog.FAILED, error="why"))
    await asyncio.sleep(0)
    for _ in range(3):
        writing.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert run.status.state is RunState.FAILED


async def test_a_class_without_usable_images_is_told_with_an_example(store: MemoryStore) -> None:
    """A run that fails because too many images were skipped names one of them and what is wrong with it."""

    class Strict(Peers):
        async def cross_validate(self, address: str, unit: ScoringUnit) -> AsyncIterator[FoldResult]:
            """Refuse."""
            if unit.classifiers:
                raise InvalidDataset("Class 'cat' has 0 images that can be used (2 are skipped).")
            yield FoldResult(address, "", unit.fold, {})

    fleet = Fleet()
    bench = workbench(store, fleet)
    bench.dispatcher._peers = Strict()  # type: ignore[assignment]
    evaluation = Evaluation("hog", PETS, bench, journal(RunLog(store, 1)))
    evaluation.skipped[PETS.items[0].digest] = ImageOutcome(ImageStatus.UNREADABLE, "the file is empty")
    with pytest.raises(InvalidDataset, match=r"2 are skipped\)\. For example cat/0\.png: the file is empty\."):
        await evaluation.run()
