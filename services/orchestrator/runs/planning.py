"""What is missing, and how it is cut into units.

What is missing is what is wanted minus what the store holds, so ten new images cost ten, a corrected label costs new
scores and no extraction, and a rerun costs lookups. Units are cut by the work in them, never by the number of
replicas: the segments of a dataset are the same on every machine.

Extraction is planned twice. The draft believes names: it takes a list, however much lies there. What it wants done has
to be done in any case, so that work begins while the segments are read, which takes as long as there are bytes. The
plan believes what was read: an image whose segment is damaged, or lacks it, is missing too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from offshelf import scores
from offshelf.services.orchestrator.dispatch.units import ExtractionUnit, ScoringUnit
from offshelf.store import keys
from offshelf.store.reading import read_each

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from offshelf.datasets import Dataset
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.features import FeatureTable, ImageOutcome
    from offshelf.scores import ValidationPlan
    from offshelf.services.orchestrator.runs.segment_shelf import SegmentShelf
    from offshelf.store import ObjectStore


_READ_AT_ONCE = 64
"""Segments that are read at once. More might be read in vain: only the first that hold all images are needed."""


@dataclass(frozen=True, slots=True)
class ExtractionPlan:
    """What of one extractor's feature table is there, and what is to be done."""

    parts: tuple[str | ExtractionUnit, ...]
    """Segments to reuse and units to do, in the order in which the table will list what they are or become."""
    outcomes: Mapping[str, ImageOutcome]
    """What those segments say of each wanted image, by its digest; in a draft, only those that had to be read."""
    table: FeatureTable | None = None
    """The finished table, if this very dataset has one; in a draft, nobody has looked into its segments yet."""

    @property
    def units(self) -> tuple[ExtractionUnit, ...]:
        """What is to be done."""
        return tuple(part for part in self.parts if isinstance(part, ExtractionUnit))


class ExtractionPlanner:
    """Finds what of one extractor's features of a dataset can be reused, and cuts the rest into units.

    Parameters
    ----------
    shelf
        What the store holds of this extractor.
    unit_seconds
        Work in a unit, in CPU seconds by the extractor's nominal cost.
    """

    def __init__(
        self,
        shelf: SegmentShelf,
        *,
        spec: ExtractorSpec,
        fingerprint: str,
        dataset: Dataset,
        source: str,
        unit_seconds: float,
    ) -> None:
        self._shelf = shelf
        self._spec = spec
        self._fingerprint = fingerprint
        self._dataset = dataset
        self._source = source
        self._unit_seconds = unit_seconds
        self._wanted = sorted({item.digest for item in dataset.items})

    def draft(self) -> ExtractionPlan:
        """Plan by names: a segment is believed to hold what it is named for, and a table what it is of.

        Only segments in tables of other datasets are read, whose names do not say which images are in both. Its units
        are units of `plan`, too, which may have more.
        """
        finished = self._finished()
        if finished:
            return ExtractionPlan(finished[0].stored_segments, {}, finished[0])
        chosen = self._reusable()
        parts = [next(iter(self._shelf.made_for(unit)), unit) for unit in self._cut(chosen.missing)]
        return ExtractionPlan((*chosen.segments, *parts), chosen.outcomes)

    def plan(self) -> ExtractionPlan:
        """Plan by what was read: every segment that is reused is what was written."""
        for table in self._finished():
            chosen = _Reuse(self._shelf, self._wanted)
            chosen.add(table.stored_segments)
            if not chosen.missing:
                return ExtractionPlan(table.stored_segments, chosen.outcomes, table)
        chosen = self._reusable()
        parts: list[str | ExtractionUnit] = list(chosen.segments)
        lacking: list[str] = []
        made_for = {unit: self._shelf.made_for(unit) for unit in self._cut(chosen.missing)}
        self._shelf.prefetch(made[0] for made in made_for.values() if made)
        for unit, made in made_for.items():
            usable = next(filter(self._shelf.outcomes, made), None)
            # In its unit's place: a table must not tell whether the work on it was interrupted.
            parts += chosen.add([usable]) if usable else [unit]
            # A segment of the same name may lack images that could not be read at the time: those are cut anew.
            lacking += [digest for digest in unit.images if usable and digest not in chosen.outcomes]
        return ExtractionPlan((*parts, *self._cut(lacking)), chosen.outcomes)

    @cached_property
    def _tables(self) -> list[FeatureTable]:
        return self._shelf.tables()

    def _finished(self) -> list[FeatureTable]:
        return [table for table in self._tables if table.dataset == self._dataset.digest]

    def _reusable(self) -> _Reuse:
        chosen = _Reuse(self._shelf, self._wanted)
        chosen.add(segment for table in self._tables for segment in table.stored_segments)
        return chosen

    def _cut(self, missing: Sequence[str]) -> tuple[ExtractionUnit, ...]:
        return cut_extraction(
            missing,
            cost_seconds=self._spec.cost_seconds,
            unit_seconds=self._unit_seconds,
            extractor=self._spec.name,
            fingerprint=self._fingerprint,
            dataset=self._dataset.digest,
            source=self._source,
        )


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
