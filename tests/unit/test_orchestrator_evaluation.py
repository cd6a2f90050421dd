"""One extractor's part of a run: what may be left out, and what ends the run."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offshelf import datasets, features
from offshelf.errors import DataLoss, InvalidDataset, InvalidInput, NotFound, OffshelfError
from offshelf.features import FeatureTable, ImageOutcome, SegmentRow
from offshelf.images import ImageStatus
from offshelf.runs import Combination, RunState
from offshelf.services.orchestrator.dispatch import trial
from offshelf.services.orchestrator.dispatch.dispatcher import STATS, TRAINER
from offshelf.services.orchestrator.dispatch.units import ExtractionOutcome, FoldResult, UnreadImage
from offshelf.services.orchestrator.fleet.replicas import Replica, Role, RoleUnavailable, keep_quiet
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.evaluation import Evaluation
from offshelf.services.orchestrator.runs.execution import Execution
from offshelf.services.orchestrator.runs.runlog import RunLog
from tests.unit.fakes import MemoryStore
from tests.unit.one_extractor import FINGERPRINT, MAX_PIXELS, PETS, Catalog, Fleet, Ledger, Peers, journal, workbench

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from offshelf.datasets import Dataset
    from offshelf.services.orchestrator.dispatch.units import ExtractionUnit, ScoringUnit


@pytest.fixture
def store() -> MemoryStore:
    """A store that has the features of all pets."""
    store = MemoryStore()
    images = [item.digest for item in PETS.items]
    rows = [SegmentRow(image, ImageStatus.OK, "", np.ones(2, np.float32)) for image in images]
    segment = features.write_segment(store, FINGERPRINT, images, rows, max_pixels=MAX_PIXELS, dimension=2)
    features.write_table(store, FeatureTable(PETS.digest, FINGERPRINT, 2, (segment,)))
    return store


async def test_few_extractors_of_a_run_are_in_memory() -> None:
    """On one machine a run of the whole catalogue has two networks in memory at a time, and each gets its turn."""
    held = 0
    seen: list[int] = []

    class Counting(Fleet):
        @asynccontextmanager
        async def hold(
            self, role: Role, *, units: int = 1, tell: Callable[[str], None] = keep_quiet
        ) -> AsyncIterator[None]:
            nonlocal held
            held += role.service == "extractor"
            seen.append(held)
            await asyncio.sleep(0)
            try:
                async with super().hold(role, units=units, tell=tell):
                    yield
            finally:
                held -= role.service == "extractor"

    bench = replace(workbench(MemoryStore(), Counting("extractor")), extractors_at_a_time=2)
    run, turns = journal(RunLog(bench.store, 1)), bench.extraction_turns()
    names = [f"network{number}" for number in range(8)]
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for name in names:
            group.create_task(Evaluation(name, PETS, bench, run, turns=turns).run())
    assert len(run.status.left_out) == len(names)
    assert (max(seen), held) == (2, 0)


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
    assert evaluation.features.table is None
    assert run.status.progress.images_remaining == 0


async def test_scores_that_are_lost_are_not_waited_for(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A classifier that is left out does not stay in the time left."""
    monkeypatch.setattr(trial, "_BACK_OFF_SECONDS", 0.0)
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
        async def cross_validate(self, replica: Replica, unit: ScoringUnit) -> AsyncIterator[FoldResult]:
            """Refuse."""
            if unit.classifiers:
                raise InvalidDataset("Class 'cat' has 0 images that can be used (2 are skipped).")
            yield FoldResult(replica.name, "", unit.fold, {})

    fleet = Fleet()
    bench = workbench(store, fleet)
    bench.dispatcher._peers = Strict()  # type: ignore[assignment]
    evaluation = Evaluation("hog", PETS, bench, journal(RunLog(store, 1)))
    evaluation.features.skipped[PETS.items[0].digest] = ImageOutcome(ImageStatus.UNREADABLE, "the file is empty")
    with pytest.raises(InvalidDataset, match=r"2 are skipped\)\. For example cat/0\.png: the file is empty\."):
        await evaluation.run()


async def test_the_fleet_hears_how_much_there_is_to_do(store: MemoryStore) -> None:
    """A cluster starts as many replicas as there is work for, and no more."""
    fleet = Fleet()
    bench = replace(workbench(store, fleet), unit_seconds=1.0)  # one image a unit
    run = journal(RunLog(store, 1))
    await Evaluation("hog", PETS, bench, run).run()
    assert fleet.held == [(TRAINER, 3)]

    class Extracting(Peers):
        async def extract(self, replica: Replica, unit: ExtractionUnit, _: Callable[[int], None]) -> ExtractionOutcome:
            """Say what is in the way, then find no image there."""
            lines.append(run.status.notices.lines)
            unread = tuple(UnreadImage(image, f"gone, says {replica.name}") for image in unit.images)
            return ExtractionOutcome("", 0, 0, unread)

    fleet.held.clear()
    lines: list[tuple[str, ...]] = []
    bench = replace(bench, store=MemoryStore())
    bench.dispatcher._peers = Extracting()  # type: ignore[assignment]
    evaluation = Evaluation("hog", PETS, bench, run)
    await evaluation.run()
    assert fleet.held == [(Role("extractor", "hog"), 4), (TRAINER, 1), (TRAINER, 3)]
    assert lines[0] == ("no room for extractor-hog", "no room for trainer")
    assert not run.status.notices.lines
    assert len(evaluation.features.unread) == 4


async def test_stats_that_was_down_while_features_were_extracted_is_asked_for_again(store: MemoryStore) -> None:
    """Hours of extraction are not lost because stats could not start in the middle of them."""

    class Mended(Fleet):
        """Has no stats at first."""

        @asynccontextmanager
        async def hold(
            self, role: Role, *, units: int = 1, tell: Callable[[str], None] = keep_quiet
        ) -> AsyncIterator[None]:
            self._refused = () if (STATS, 1) in self.held else ("stats",)
            async with super().hold(role, units=units, tell=tell):
                yield

    class Compared(Peers):
        async def compare(self, *_: object) -> None:
            """Have been reached."""
            raise DataLoss("stats was reached")

    class Evaluated(Execution):
        async def _evaluate(self, dataset: Dataset) -> dict[Combination, str]:
            return dict.fromkeys([Combination("hog", "LR")], dataset.digest)

    datasets.write_dataset(store, PETS)
    run = journal(RunLog(store, 1))
    await run.append(runlog.DATASET_READ, dataset=PETS.digest)
    bench = workbench(store, Mended())
    bench.dispatcher._peers = Compared()  # type: ignore[assignment]
    await Evaluated(bench, run).run()
    assert run.status.error == "stats was reached"
    assert not run.status.notices.lines


async def test_what_was_found_and_what_was_sent_again_is_counted(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever runs a cluster sees how much is reused, and how often work is repeated and why."""
    monkeypatch.setattr(trial, "_BACK_OFF_SECONDS", 0.0)
    ledger = Ledger()
    bench = replace(workbench(store, Fleet()), figures=ledger)
    bench.dispatcher._figures = ledger
    await Evaluation("hog", PETS, bench, journal(RunLog(store, 1))).run()
    assert ledger.entries[:3] == [("hog", "reused", 4), ("features", 4, 0), ("scores", 0, 6)]
    assert set(ledger.entries[3:]) == {("trainer", "lost")}


@pytest.mark.parametrize("error", [NotFound("There is no network."), InvalidInput("net.onnx does not fit.")])
async def test_a_network_that_cannot_be_had_is_left_out(store: MemoryStore, error: OffshelfError) -> None:
    """Whether it has gone since the run was asked for, or a replica says that it cannot be loaded."""

    class Gone(Catalog):
        def find(self, name: str) -> Any:
            """Find nothing."""
            del name
            raise error

    run = journal(RunLog(store, 1))
    bench = replace(workbench(store, Fleet()), catalog=Gone())  # type: ignore[arg-type]
    await Evaluation("hog", PETS, bench, run).run()
    assert run.status.left_out == [f"hog is left out: {error.message}"]
