"""The folds of a comparison, read from the store several at a time."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offshelf import scores
from offshelf.errors import Cancelled
from offshelf.store.reading import read_ahead, read_each

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator, Mapping, Sequence

    from offshelf.datasets import Dataset
    from offshelf.estimators.registry import Setting
    from offshelf.runs import Combination
    from offshelf.scores import FoldEntry, FoldScores
    from offshelf.services.stats.comparison import RankedCombination
    from offshelf.store import ObjectStore

_HELD_BYTES = 64 * 1024 * 1024
"""What folds may take that are being read, besides the one that is looked at. Two reports are made at once, and reading
takes as much again."""

_IMAGE_BYTES = 256
"""What an image takes in a fold besides its probabilities; most of it is its digest."""

_MOST_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class FoldRow:
    """What `scores.parquet` says of one combination on one fold."""

    combination: Combination
    fold: int
    measures: Mapping[str, float]
    settings: Setting


class StoredFolds:
    """Reads folds, each verified against the manifest.

    Parameters
    ----------
    store
        Holds the scores.
    dataset
        What they are about.
    folds
        How many folds it was divided into.
    stop
        Set when nobody waits for the folds any more; `Cancelled` is raised then.
    """

    def __init__(self, store: ObjectStore, dataset: Dataset, *, folds: int, stop: threading.Event) -> None:
        self._store = store
        self._stop = stop
        self._at_once = folds_at_once(dataset, folds)

    def of(self, digest: str) -> Iterator[FoldScores]:
        """Yield the folds of one combination in order.

        Raises
        ------
        NotFound
            If they are not all in the store.
        DataLoss
            If one of them is not what was written.
        Cancelled
            If `stop` was set.
        """
        entries = self._entries(digest)
        with closing(read_ahead(lambda entry: self._read(digest, entry), entries, ahead=self._at_once)) as found:
            yield from found

    def rows(self, ranking: Sequence[RankedCombination]) -> list[FoldRow]:
        """Read every fold of all combinations, in order; what their rows do not say is not kept. Raises as `of`."""

        def read(wanted: tuple[RankedCombination, FoldEntry]) -> FoldRow:
            ranked, entry = wanted
            fold = self._read(ranked.scores, entry)
            return FoldRow(ranked.combination, fold.fold, fold.measures, fold.settings)

        entries = read_each(self._entries, [ranked.scores for ranked in ranking])
        wanted = [(ranked, entry) for ranked, folds in zip(ranking, entries, strict=True) for entry in folds]
        return list(read_ahead(read, wanted, ahead=self._at_once))

    def _entries(self, digest: str) -> tuple[FoldEntry, ...]:
        self._check_stop()
        return scores.read_manifest(self._store, digest).folds

    def _read(self, digest: str, entry: FoldEntry) -> FoldScores:
        self._check_stop()
        return scores.read_fold(self._store, digest, entry.fold, sha256=entry.sha256)

    def _check_stop(self) -> None:
        if self._stop.is_set():
            raise Cancelled("The report was stopped.")


def folds_at_once(dataset: Dataset, folds: int) -> int:
    """Count how many folds can be in memory at a time; at least one."""
    images = len(dataset.items) // folds + 1
    return max(1, min(_MOST_AT_ONCE, _HELD_BYTES // (images * (_IMAGE_BYTES + 8 * len(dataset.classes)))))
