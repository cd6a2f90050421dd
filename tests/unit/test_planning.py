"""What is missing is what is wanted minus what the store holds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from offshelf import features, scores
from offshelf.datasets import Dataset, Item
from offshelf.digests import digest_of
from offshelf.features import FeatureTable, SegmentRow
from offshelf.images import ImageStatus
from offshelf.services.orchestrator.runs.planning import (
    ExtractionPlan,
    ExtractionPlanner,
    cut_extraction,
    plan_scoring,
)
from offshelf.services.orchestrator.runs.segment_shelf import SegmentShelf
from offshelf.store import keys
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterable

FINGERPRINT = digest_of("hog")
MAX_PIXELS = 1000


@dataclass(frozen=True)
class Spec:
    """As much of an extractor's specification as planning looks at."""

    name: str = "hog"
    cost_seconds: float = 1.0


def dataset(count: int, label: str = "cat") -> Dataset:
    """Make a dataset of so many images."""
    return Dataset.of(Item(f"{label}/{n:03}.png", label, "", digest_of(n)) for n in range(count))


def planner(store: MemoryStore, wanted: Dataset, *, max_pixels: int = MAX_PIXELS) -> ExtractionPlanner:
    """Look at what the store holds of a dataset."""
    return ExtractionPlanner(
        SegmentShelf(store, FINGERPRINT, max_pixels),
        spec=Spec(),  # type: ignore[arg-type]
        fingerprint=FINGERPRINT,
        dataset=wanted,
        source="folder:/data",
        unit_seconds=4.0,
    )


def plan(store: MemoryStore, wanted: Dataset, *, max_pixels: int = MAX_PIXELS) -> ExtractionPlan:
    """Plan the extraction of a dataset, as a run does: what its draft says is to be done is done in any case."""
    found = planner(store, wanted, max_pixels=max_pixels)
    draft, made = found.draft(), found.plan()
    assert set(draft.units) <= set(made.units)
    return made


def extract(
    store: MemoryStore, images: Iterable[str], *, bad: frozenset[str] = frozenset(), last_bit: bool = False
) -> str:
    """Write the segment that an extractor would, or one on another CPU."""
    vector = np.nextafter(np.ones(2, np.float32), np.float32(1 + last_bit))
    rows = [
        SegmentRow(image, ImageStatus.TOO_LARGE, "2 megapixels", None)
        if image in bad
        else SegmentRow(image, ImageStatus.OK, "", vector)
        for image in images
    ]
    return features.write_segment(store, FINGERPRINT, images, rows, max_pixels=MAX_PIXELS, dimension=2)


def finish(
    store: MemoryStore, wanted: Dataset, made: ExtractionPlan, *, bad: frozenset[str] = frozenset()
) -> FeatureTable:
    """Carry a plan out."""
    segments = [part if isinstance(part, str) else extract(store, part.images, bad=bad) for part in made.parts]
    table = FeatureTable(wanted.digest, FINGERPRINT, 2, tuple(segments))
    features.write_table(store, table)
    return table


def test_units_hold_about_the_same_work_and_every_image_once() -> None:
    """Work is cut into pieces of nearly equal size, however many replicas there are."""
    images = [digest_of(n) for n in range(103)]
    units = cut_extraction(
        images, cost_seconds=0.5, unit_seconds=10, extractor="hog", fingerprint="f", dataset="d", source="s"
    )
    assert [image for unit in units for image in unit.images] == images
    assert len(units) == 6
    assert max(len(unit.images) for unit in units) - min(len(unit.images) for unit in units) <= 1


def test_a_finished_dataset_costs_nothing_again() -> None:
    """A rerun finds the very same table."""
    store, wanted = MemoryStore(), dataset(10)
    table = finish(store, wanted, plan(store, wanted))
    again = plan(store, wanted)
    assert again.table == table
    assert again.units == ()
    assert len(again.outcomes) == 10


def test_ten_new_images_cost_ten() -> None:
    """Only what was added is extracted; the old segments are kept."""
    store, wanted = MemoryStore(), dataset(10)
    finish(store, wanted, plan(store, wanted))
    more = plan(store, dataset(20))
    assert sum(len(unit.images) for unit in more.units) == 10
    assert len(more.outcomes) == 10


def test_a_corrected_label_costs_no_extraction_and_all_scores() -> None:
    """A label that was wrong changes the dataset, not the images."""
    store, wanted = MemoryStore(), dataset(10)
    old = finish(store, wanted, plan(store, wanted))
    relabelled = Dataset.of(Item(item.path, "dog", "", item.digest) for item in wanted.items)
    made = plan(store, relabelled)
    assert made.units == ()
    assert made.table is None
    table = finish(store, relabelled, made)
    assert table.segments == old.segments
    folds = scores.ValidationPlan(5, 0)
    digests = [
        plan_scoring(store, dataset=one.dataset, table=one, plan=folds, classifiers=["LR"], measure="accuracy").digests[
            "LR"
        ]
        for one in (old, table)
    ]
    assert digests[0] != digests[1]


def test_segments_of_an_interrupted_run_are_found_by_what_they_were_made_of() -> None:
    """A run that was killed goes on after its last finished unit, though no table names its segments yet."""
    store, wanted = MemoryStore(), dataset(10)
    units = plan(store, wanted).units
    extract(store, units[0].images)
    rest = plan(store, wanted)
    assert rest.units == units[1:]
    assert set(rest.outcomes) == set(units[0].images)


def test_a_damaged_segment_counts_as_never_written() -> None:
    """What was altered in the store is made again, not used."""
    store, wanted = MemoryStore(), dataset(4)
    table = finish(store, wanted, plan(store, wanted))
    store.objects[table.segments[0]] = b"rubbish"
    assert sum(len(unit.images) for unit in plan(store, wanted).units) == 4


def test_a_draft_reads_no_segment_whose_name_says_enough() -> None:
    """A run begins at once however much lies there, whether a table names it or an interrupted run left it."""

    class Unread(MemoryStore):
        """Reads manifests alone."""

        def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
            """Read an object."""
            assert not key.startswith(keys.segments(FINGERPRINT))
            return super().get(key, offset=offset, length=length)

    store, wanted = MemoryStore(), dataset(20)
    units = plan(store, wanted).units
    made = [extract(store, unit.images) for unit in units[1:]]
    left, whole = Unread(), Unread()
    left.objects.update(store.objects)
    table = finish(store, wanted, plan(store, wanted))
    whole.objects.update(store.objects)
    assert planner(left, wanted).draft().parts == (units[0], *made)
    assert planner(whole, wanted).draft() == ExtractionPlan(table.segments, {}, table)


def test_a_damaged_segment_leaves_no_trace_in_the_table() -> None:
    """What an interrupted run left is made again in its place if it is damaged, so that scores keep their names."""
    stores, wanted = [MemoryStore(), MemoryStore()], dataset(20)
    units = plan(stores[0], wanted).units
    made = [extract(stores[0], unit.images) for unit in units]
    stores[0].objects[made[2]] = stores[0].objects[made[2]][:-1]
    again = planner(stores[0], wanted)
    assert again.draft().units == ()
    assert again.plan().units == (units[2],)
    assert set(again.plan().outcomes) == {image for unit in units if unit is not units[2] for image in unit.images}
    assert finish(stores[0], wanted, again.plan()) == finish(stores[1], wanted, plan(stores[1], wanted))


def test_what_another_cpu_made_is_used_where_the_first_is_damaged() -> None:
    """Of two segments of the same images one is enough."""
    store, wanted = MemoryStore(), dataset(4)
    (unit,) = plan(store, wanted).units
    made = sorted([extract(store, unit.images), extract(store, unit.images, last_bit=True)])
    store.objects[made[0]] = b"rubbish"
    assert plan(store, wanted).parts == (made[1],)


def test_images_too_large_before_are_tried_again_under_another_limit() -> None:
    """Raising the limit on pixels reopens the images that it had shut out, and no others."""
    store, wanted = MemoryStore(), dataset(4)
    bad = frozenset([wanted.items[0].digest])
    finish(store, wanted, plan(store, wanted), bad=bad)
    assert plan(store, wanted).units == ()
    again = plan(store, wanted, max_pixels=MAX_PIXELS * 2)
    assert {image for unit in again.units for image in unit.images} == bad


def test_scoring_is_cut_into_one_unit_a_fold() -> None:
    """All classifiers of a fold go together, since they share its data."""
    store = MemoryStore()
    table = FeatureTable(dataset(4).digest, FINGERPRINT, 2, ())
    made = plan_scoring(
        store,
        dataset=table.dataset,
        table=table,
        plan=scores.ValidationPlan(3, 7),
        classifiers=["LR", "RF"],
        measure="f1",
    )
    assert [(unit.fold, unit.classifiers, unit.seed) for unit in made.units] == [
        (fold, ("LR", "RF"), 7) for fold in range(3)
    ]


def test_an_interrupted_run_ends_with_the_very_table_of_one_that_was_not() -> None:
    """Whichever units were done when a run was killed, scores get the same names."""
    wanted = dataset(20)
    stores = [MemoryStore(), MemoryStore()]
    units = plan(stores[0], wanted).units
    extract(stores[0], units[2].images)
    extract(stores[0], units[0].images)
    tables = [finish(store, wanted, plan(store, wanted)) for store in stores]
    assert tables[0] == tables[1]


def test_what_an_interrupted_run_could_not_use_is_cut_into_units_too() -> None:
    """Many damaged segments do not become one huge unit."""
    store, wanted = MemoryStore(), dataset(20)
    for unit in plan(store, wanted).units:
        store.objects[extract(store, unit.images)] = b"rubbish"
    again = plan(store, wanted)
    assert [len(unit.images) for unit in again.units] == [4] * 5
