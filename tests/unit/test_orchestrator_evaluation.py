"""One extractor's part of a run: what may be left out, and what ends the run."""

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offshelf import datasets, features
from offshelf.datasets import Dataset, Item
from offshelf.digests import digest_of
from offshelf.errors import DataLoss, InvalidDataset, InvalidInput, NotFound, OffshelfError, Unavailable
from offshelf.features import FeatureTable, ImageOutcome, SegmentRow
from offshelf.images import ImageStatus
from offshelf.runs import Combination, RunState
from offshelf.services.orchestrator.dispatch import trial
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.dispatcher import STATS, TRAINER, Dispatcher
from offshelf.services.orchestrator.dispatch.units import ExtractionOutcome, FoldResult, UnreadImage
from offshelf.services.orchestrator.figures import NoFigures
from offshelf.services.orchestrator.fleet.replicas import Replica, ReplicaPool, Role, RoleUnavailable, keep_quiet
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.evaluation import Evaluation
from offshelf.services.orchestrator.runs.execution import Execution
from offshelf.services.orchestrator.runs.extraction import Extraction
from offshelf.services.orchestrator.runs.journal import Journal, Workbench
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.runs.specification import RunSpec
from offshelf.services.orchestrator.runs.status import RunStatus
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from offshelf.services.orchestrator.dispatch.units import ExtractionUnit, ScoringUnit

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
        self.held: list[tuple[Role, int]] = []

    def role_of(self, extractor: str) -> Role:
        """Have replicas for each."""
        return Role("extractor", extractor)

    @asynccontextmanager
    async def hold(
        self, role: Role, *, units: int = 1, tell: Callable[[str], None] = keep_quiet
    ) -> AsyncIterator[None]:
        """Have a replica ready, or a refusal."""
        self.held.append((role, units))
        tell(f"no room for {role}")
        if role.service in self._refused:
            self.pool.refuse(role, Unavailable(f"{role} ended 3 times"))
        else:
            self.pool.add(Replica(role, "only", "127.0.0.1:1"))
        yield

    async def blames(self, replica: Replica) -> bool:
        """Blame the work."""
        return replica in self.pool.ready(replica.role)

    async def close(self) -> None:
        """Stop nothing."""
        return


class Peers:
    """Services that lose their worker over every classifier."""

    async def cross_validate(self, replica: Replica, unit: ScoringUnit) -> AsyncIterator[FoldResult]:
        """Die."""
        if unit.classifiers:
            raise Unavailable(f"{replica.name} lost {unit}")
        yield FoldResult("none", "", unit.fold, {})


class Catalog:
    """Knows one extractor, of which everything is there."""

    dimension = 2

    def find(self, name: str) -> Any:
        """Find it."""
        return SimpleNamespace(name=name, cost_seconds=1.0, dimension=self.dimension)

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


class Ledger(NoFigures):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.entries: list[tuple[object, ...]] = []

    def unit_retried(self, role: str, reason: str) -> None:
        """Keep it."""
        self.entries.append((role, reason))

    def images(self, extractor: str, outcome: str, count: int) -> None:
        """Keep it."""
        self.entries.append((extractor, outcome, count))

    def cache(self, what: str, *, hits: int, misses: int) -> None:
        """Keep it."""
        self.entries.append((what, hits, misses))


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


class Unmeasured(Catalog):
    """Knows a network of which only it can tell how long its vectors are."""

    dimension = 0


class Measuring(Peers):
    """Extracts vectors of three numbers, of all images but those that end it."""

    def __init__(self, store: MemoryStore, deadly: frozenset[str] = frozenset()) -> None:
        self._store = store
        self._deadly = deadly

    async def extract(self, replica: Replica, unit: ExtractionUnit, _: Callable[[int], None]) -> ExtractionOutcome:
        """Write a segment, or be lost."""
        if self._deadly & set(unit.images):
            raise Unavailable(f"{replica.name} lost {unit}")
        rows = [SegmentRow(image, ImageStatus.OK, "", np.ones(3, np.float32)) for image in unit.images]
        key = features.write_segment(self._store, FINGERPRINT, unit.images, rows, max_pixels=MAX_PIXELS, dimension=3)
        return ExtractionOutcome(key, len(rows), 0, dimension=3)


def unmeasured(store: MemoryStore, deadly: frozenset[str] = frozenset(), *, unit_seconds: float = 10.0) -> Workbench:
    """Put the tools of a run with such a network together."""
    bench = replace(workbench(store, Fleet()), catalog=Unmeasured(), unit_seconds=unit_seconds)  # type: ignore[arg-type]
    bench.dispatcher._peers = Measuring(store, deadly)  # type: ignore[assignment]
    return bench


async def test_a_network_tells_itself_how_long_its_vectors_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says it, whether its segments were made now or by a run before."""
    monkeypatch.setattr(trial, "_BACK_OFF_SECONDS", 0.0)
    store = MemoryStore()
    first = Evaluation("hog", PETS, unmeasured(store), journal(RunLog(store, 1)))
    await first.run()
    assert first.features.table is not None
    assert first.features.table.dimension == 3
    fewer = Dataset.of(PETS.items[:3])
    found = Evaluation("hog", fewer, unmeasured(store), journal(RunLog(store, 2)))
    await found.run()
    assert found.features.table is not None
    assert (found.features.table.dimension, found.features.table.segments) == (3, first.features.table.segments)


async def test_images_that_end_a_network_are_put_on_record_with_the_right_length(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No later run tries them again; where it is not known yet how long a vector is, they count as unread."""
    monkeypatch.setattr(trial, "_BACK_OFF_SECONDS", 0.0)
    store = MemoryStore()
    deadly = PETS.items[0].digest
    together = Evaluation("hog", PETS, unmeasured(store, frozenset({deadly})), journal(RunLog(store, 1)))
    await together.run()
    assert together.features.skipped[deadly].status is ImageStatus.CRASHED
    assert together.features.table is not None
    assert {features.dimension_of(store, segment) for segment in together.features.table.segments} == {3}

    store, alone = MemoryStore(), Dataset.of(PETS.items[:1])
    evaluation = Evaluation("hog", alone, unmeasured(store, frozenset({deadly})), journal(RunLog(store, 1)))
    await evaluation.run()
    assert "ended the extractor's process" in evaluation.features.unread[deadly]


def lay_segments(store: MemoryStore) -> list[str]:
    """Leave a segment for each pet, as a run of one image a unit does that is cut before its table is written."""
    images = sorted(item.digest for item in PETS.items)
    rows = [SegmentRow(image, ImageStatus.OK, "", np.ones(3, np.float32)) for image in images]
    return [
        features.write_segment(store, FINGERPRINT, [row.image], [row], max_pixels=MAX_PIXELS, dimension=3)
        for row in rows
    ]


@pytest.mark.parametrize("with_table", [True, False])
async def test_a_truncated_segment_is_made_again(monkeypatch: pytest.MonkeyPatch, *, with_table: bool) -> None:
    """A run finds what is damaged before a table names it; it counts as extracted, and only the others as reused."""
    monkeypatch.setattr(trial, "_BACK_OFF_SECONDS", 0.0)
    store = MemoryStore()
    segments = lay_segments(store)
    if with_table:
        features.write_table(store, FeatureTable(PETS.digest, FINGERPRINT, 3, tuple(segments)))
    whole = store.objects[segments[1]]
    store.objects[segments[1]] = whole[:-1]
    ledger = Ledger()
    bench = replace(unmeasured(store, unit_seconds=1.0), figures=ledger)
    run = journal(RunLog(store, 1))
    evaluation = Evaluation("hog", PETS, bench, run)
    await evaluation.run()
    assert store.objects[segments[1]] == whole
    table = evaluation.features.table
    assert table is not None
    assert sorted(table.segments) == sorted(segments)
    assert features.load_features(store, table, PETS).X.shape == (4, 3)
    assert run.status.progress.images_reused == 3
    assert ledger.entries[:2] == [("hog", "reused", 3), ("features", 3, 1)]
    assert ("hog", "extracted", 1) in ledger.entries
    assert evaluation.features.skipped == {}


class Tearing(MemoryStore):
    """Loses the last byte of segments that it is given, so many times."""

    def __init__(self, times: int) -> None:
        super().__init__()
        self.times = times

    def put(self, key: str, data: bytes) -> None:
        """Write an object, as well as it can."""
        torn = "segments/" in key and self.times > 0
        self.times -= torn
        super().put(key, data[:-1] if torn else data)


async def test_a_segment_that_was_not_written_whole_is_made_again() -> None:
    """What an extractor writes is read before a table names it: it gets a second trial, and its images count once."""
    store = Tearing(2)
    run = journal(RunLog(store, 1))
    evaluation = Evaluation("hog", PETS, unmeasured(store, unit_seconds=1.0), run)
    await evaluation.run()
    assert store.times == 0
    assert evaluation.features.table is not None
    assert features.load_features(store, evaluation.features.table, PETS).X.shape == (4, 3)
    assert run.status.progress.images_extracted == 4

    store = Tearing(10)
    broken = Evaluation("hog", PETS, unmeasured(store), journal(RunLog(store, 1)))
    with pytest.raises(DataLoss, match="not what was written"):
        await broken.run()
    assert broken.features.table is None


async def test_work_begins_before_what_is_there_is_read() -> None:
    """However much an interrupted run has left, the rest of its images need not wait until all of that is verified."""
    begun = threading.Event()

    class Slow(MemoryStore):
        """Reads what was left only when somebody extracts."""

        def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
            """Wait, then read."""
            assert key not in left or begun.wait(30)
            return super().get(key, offset=offset, length=length)

    class Beginning(Measuring):
        async def extract(
            self, replica: Replica, unit: ExtractionUnit, count: Callable[[int], None]
        ) -> ExtractionOutcome:
            """Extract."""
            begun.set()
            return await super().extract(replica, unit, count)

    store, left = Slow(), set[str]()
    segments = lay_segments(store)
    del store.objects[segments[2]]
    left.update(store.objects)
    run = journal(RunLog(store, 1))
    bench = unmeasured(store, unit_seconds=1.0)
    bench.dispatcher._peers = Beginning(store)  # type: ignore[assignment]
    extraction = Extraction("hog", PETS, bench, run)
    table = await extraction.run()
    assert table is not None
    assert table.segments == tuple(segments)
    assert run.status.progress.images_reused == 3
    assert run.status.progress.images_remaining == 0


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
