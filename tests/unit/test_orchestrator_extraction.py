"""One extractor's features in a run: what is there, damaged, missing or deadly, and what the table then names."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from offshelf import features
from offshelf.datasets import Dataset
from offshelf.errors import DataLoss
from offshelf.features import FeatureTable, SegmentRow
from offshelf.images import ImageStatus
from offshelf.services.orchestrator.dispatch import trial
from offshelf.services.orchestrator.runs.evaluation import Evaluation
from offshelf.services.orchestrator.runs.extraction import Extraction
from offshelf.services.orchestrator.runs.runlog import RunLog
from tests.unit.fakes import MemoryStore
from tests.unit.one_extractor import (
    FINGERPRINT,
    MAX_PIXELS,
    PETS,
    Catalog,
    Fleet,
    Ledger,
    Measuring,
    journal,
    workbench,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.services.orchestrator.dispatch.units import ExtractionOutcome, ExtractionUnit
    from offshelf.services.orchestrator.fleet.replicas import Replica
    from offshelf.services.orchestrator.runs.journal import Workbench


class Unmeasured(Catalog):
    """Knows a network of which only it can tell how long its vectors are."""

    dimension = 0


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
