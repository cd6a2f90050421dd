"""The segments of one extractor that the store holds, by name and by what is in them."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from offshelf import features
from offshelf.errors import DataLoss, NotFound
from offshelf.store import keys
from offshelf.store.reading import read_each

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from offshelf.features import FeatureTable, ImageOutcome
    from offshelf.services.orchestrator.dispatch.units import ExtractionUnit
    from offshelf.store import ObjectStore


class SegmentShelf:
    """The segments of one extractor that the store held when they were listed; what each says is remembered."""

    def __init__(self, store: ObjectStore, fingerprint: str, max_pixels: int) -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._max_pixels = max_pixels
        self._outcomes: dict[str, Mapping[str, ImageOutcome]] = {}
        self._keys = {info.key for info in store.list(keys.segments(fingerprint))}
        self._made: defaultdict[str, list[str]] = defaultdict(list)
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
                self.read(segment)
            except DataLoss:
                self._outcomes[segment] = {}
        return self._outcomes[segment]

    def read(self, segment: str) -> Mapping[str, ImageOutcome]:
        """Read a segment that was just written, though it may have been read before. Raises `DataLoss` if damaged."""
        self._outcomes[segment] = features.images_in(self._store, segment, max_pixels=self._max_pixels)
        return self._outcomes[segment]

    def prefetch(self, segments: Iterable[str]) -> None:
        """Read segments that will be asked for, many at once."""
        read_each(self.outcomes, dict.fromkeys(segments))

    def made_for(self, unit: ExtractionUnit) -> Sequence[str]:
        """Find the segments that earlier, interrupted runs made of just this unit: one, or more on several CPUs."""
        if not self._made:
            return ()
        return self._made.get(features.segment_inputs(self._fingerprint, unit.images), ())

    def _table(self, name: str) -> FeatureTable | None:
        try:
            return features.read_table(self._store, self._fingerprint, name.removesuffix(".json"))
        except (DataLoss, NotFound):
            return None  # a damaged manifest counts as never written
