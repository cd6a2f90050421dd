"""What is missing, and how it is cut into units.

What is missing is what is wanted minus what the store holds, so ten new images cost ten, a corrected label costs new
scores and no extraction, and a rerun costs lookups. Units are cut by the work in them, never by the number of
replicas: the segments of a dataset are the same on every machine.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

from offshelf import features, scores
from offshelf.errors import DataLoss, NotFound
from offshelf.services.orchestrator.dispatch.units import ExtractionUnit, ScoringUnit
from offshelf.store import keys
from offshelf.store.reading import read_each

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from offshelf.datasets import Dataset
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.features import FeatureTable, ImageOutcome
    from offshelf.scores import ValidationPlan
    from offshelf.store import ObjectStore


_READ_AT_ONCE = 64
"""Segments that are read at once. More might be read in vain: only the first that hold all images are needed."""


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """What of one extractor's feature table is there, and what is to be done."""

    parts: tuple[str | ExtractionUnit, ...]
    """Segments to reuse and units to do, in the order in which the table will list what they are or become."""
    outcomes: Mapping[str, ImageOutcome]
    """What those segments say of each wanted image, by its digest."""
    table: FeatureTable | None = None
    """The finished table, if this very dataset has one."""

    @property
    def units(self) -> tuple[ExtractionUnit, ...]:
        """What is to be done."""
        return tuple(part for part in self.parts if isinstance(part, ExtractionUnit))


class SegmentShelf:
    """The segments of one extractor that the store holds, read at most once each."""

    def __init__(self, store: ObjectStore, fingerprint: str, max_pixels: int) -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._max_pixels = max_pixels
        self._outcomes: dict[str, Mapping[str, ImageOutcome]] = {}
        self._keys = {info.key for info in store.list(keys.segments(fingerprint))}
        self._made: dict[str, list[str]] = defaultdict(list)
        for key in sorted(self._keys):
            inputs = key.removeprefix(keys.segments(fingerprint)).partition("-")[0]
            self._made[inputs].append(key)

    def tables(self) -> list[FeatureTable]:
        """Read all manifests whose segments are all there."""
        prefix = keys.tables(self._fingerprint)
        found = read_each(self._table, [info.key.removeprefix(prefix) for info in self._store.list(prefix)])
        return [table for table in found if table is not None and self._keys.issuperset(table.stored_segments)]

    def outcomes(self, segment: str) -> Mapping[str, ImageOutcome]:
        """What a segment says of its images; only those that need not be tried again. A damaged one says nothing."""
        if segment not in self._outcomes:
            try:
                self._outcomes[segment] = features.images_in(self._store, segment, max_pixels=self._max_pixels)
            except DataLoss:
                return {}  # and looked at again when it is asked for again: it may have been made anew
        return self._outcomes[segment]

    def prefetch(self, segments: Iterable[str]) -> None:
        """Read segments that will be asked for, many at once."""
        read_each(self.outcomes, dict.fromkeys(segments))

    def made_for(self, unit: ExtractionUnit) -> str | None:
        """Find the segment that an earlier, interrupted run made of just this unit."""
        if not self._made:
            return None
        made = self._made.get(features.segment_inputs(self._fingerprint, unit.images))
        return made[0] if made else None

    def _table(self, name: str) -> FeatureTable | None:
        try:
            return features.read_table(self._store, self._fingerprint, name.removesuffix(".json"))
        except (DataLoss, NotFound):
            return None  # a damaged manifest counts as never written


def plan_extraction(
    shelf: SegmentShelf,
    *,
    spec: ExtractorSpec,
    fingerprint: str,
    dataset: Dataset,
    source: str,
    unit_seconds: float,
) -> ExtractionPlan:
    """Find what can be reused and cut the rest into units.

    Parameters
    ----------
    shelf
        What the store holds of this extractor.
    unit_seconds
        Work in a unit, in CPU seconds by the extractor's nominal cost.
    """
    wanted = sorted({item.digest for item in dataset.items})
    tables = shelf.tables()
    for table in tables:
        if table.dataset == dataset.digest:
            chosen = _Reuse(shelf, wanted)
            chosen.add(table.stored_segments)
            if not chosen.missing:
                return ExtractionPlan(table.stored_segments, chosen.outcomes, table)
    chosen = _Reuse(shelf, wanted)
    chosen.add(segment for table in tables for segment in table.stored_segments)
    cut = partial(
        cut_extraction,
        cost_seconds=spec.cost_seconds,
        unit_seconds=unit_seconds,
        extractor=spec.name,
        fingerprint=fingerprint,
        dataset=dataset.digest,
        source=source,
    )
    parts: list[str | ExtractionUnit] = list(chosen.segments)
    lacking: list[str] = []
    units = cut(chosen.missing)
    made_for = {unit: made for unit in units if (made := shelf.made_for(unit))}
    shelf.prefetch(made_for.values())
    for unit in units:
        made = made_for.get(unit)
        # In its unit's place: a table must not tell whether the work on it was interrupted.
        parts += chosen.add([made]) if made else [unit]
        # A segment of the same name may lack images that could not be read at the time: those are cut anew.
        lacking += [digest for digest in unit.images if made and digest not in chosen.outcomes]
    return ExtractionPlan((*parts, *cut(lacking)), chosen.outcomes)


class _Reuse:
    """Picks segments until every wanted image is found; each image from the first segment that holds it."""

    def __init__(self, shelf: SegmentShelf, wanted: Sequence[str]) -> None:
        self._shelf = shelf
        self._wanted = dict.fromkeys(wanted)
        self.segments: list[str] = []
        self.outcomes: dict[str, ImageOutcome] = {}

    @property
    def missing(self) -> list[str]:
        return [digest for digest in self._wanted if digest not in self.outcomes]

    def add(self, segments: Iterable[str]) -> list[str]:
        """Pick the segments that hold something new; returns those."""
        picked = []
        ordered = list(dict.fromkeys(segments))
        for index, segment in enumerate(ordered):
            if len(self.outcomes) == len(self._wanted):
                break
            if index % _READ_AT_ONCE == 0:
                self._shelf.prefetch(ordered[index : index + _READ_AT_ONCE])
            new = {
                digest: outcome
                for digest, outcome in self._shelf.outcomes(segment).items()
                if digest in self._wanted and digest not in self.outcomes
            }
            if new:
                picked.append(segment)
                self.outcomes.update(new)
        self.segments += picked
        return picked


def cut_extraction(
    missing: Sequence[str],
    *,
    cost_seconds: float,
    unit_seconds: float,
    extractor: str,
    fingerprint: str,
    dataset: str,
    source: str,
) -> tuple[ExtractionUnit, ...]:
    """Cut images into units of nearly equal size that hold about `unit_seconds` of work each.

    Parameters
    ----------
    missing
        Digests, sorted.
    cost_seconds
        CPU seconds that one image takes.
    """
    if not missing:
        return ()
    count = min(math.ceil(len(missing) * cost_seconds / unit_seconds), len(missing))
    edges = [len(missing) * index // count for index in range(count + 1)]
    return tuple(
        ExtractionUnit(extractor, fingerprint, dataset, source, tuple(missing[begin:end]))
        for begin, end in pairwise(edges)
    )


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """Which scores of one feature table are there, and what is to be done."""

    digests: Mapping[str, str]
    """What names the scores of each classifier."""
    finished: Mapping[str, Mapping[int, Mapping[str, float]]]
    """Measures of the folds that are done, by classifier and fold."""
    units: tuple[ScoringUnit, ...]
    complete: frozenset[str] = field(default=frozenset())
    """Classifiers whose manifest is written."""


def plan_scoring(
    store: ObjectStore,
    *,
    dataset: str,
    table: FeatureTable,
    plan: ValidationPlan,
    classifiers: Sequence[str],
    measure: str,
) -> ScoringPlan:
    """Find finished scores and cut the rest into one unit a fold."""
    digests = {name: scores.scores_digest(dataset, table.digest, name, plan, measure) for name in classifiers}

    def find(digest: str) -> tuple[bool, dict[int, Mapping[str, float]]]:
        if next(store.list(keys.scores(digest).removesuffix("scores.json")), None) is None:
            return False, {}  # one question instead of one a fold
        manifest = scores.read_manifest_if_complete(store, digest)
        if manifest is not None:
            return True, {fold.fold: fold.measures for fold in manifest.folds}
        folds = scores.finished_folds(store, digest, plan.folds)
        return False, {number: fold.measures for number, fold in folds.items()}

    found = dict(zip(digests, read_each(find, digests.values()), strict=True))
    finished = {name: measures for name, (_, measures) in found.items()}
    complete = {name for name, (is_complete, _) in found.items() if is_complete}
    units = [
        ScoringUnit(
            dataset=dataset,
            table=table.digest,
            fingerprint=table.fingerprint,
            folds=plan.folds,
            seed=plan.seed,
            fold=fold,
            classifiers=missing,
            measure=measure,
        )
        for fold in range(plan.folds)
        if (missing := tuple(name for name in classifiers if fold not in finished[name]))
    ]
    return ScoringPlan(digests, finished, tuple(units), frozenset(complete))
