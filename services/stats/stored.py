"""Comparing scores that are in the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf import measures, scores
from offshelf.errors import Cancelled, InvalidInput
from offshelf.services.stats.comparison import Candidate, Comparison, compare, write_comparison
from offshelf.store.reading import read_each

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from offshelf.runs import Combination
    from offshelf.store import ObjectStore


def compare_scores(
    store: ObjectStore,
    dataset: str,
    measure: str,
    entries: Sequence[tuple[Combination, str]],
    *,
    stop: threading.Event,
) -> Comparison:
    """Compare combinations by their scores and put the comparison into the store.

    Parameters
    ----------
    store
        The feature store.
    dataset
        Digest of the dataset that all were scored on.
    measure
        Name of the measure to compare on.
    entries
        Each combination with the digest that names its scores.
    stop
        Set when nobody waits for the comparison any more.

    Raises
    ------
    InvalidInput
        If the measure is unknown, the scores are those of another classifier, or `compare` refuses them.
    NotFound
        If the scores of a combination are not complete.
    DataLoss
        If they are altered.
    Cancelled
        If `stop` was set.
    """
    # Before anything is read: a wrong name should be found out at once.
    measures.find(measure)
    candidates = read_each(lambda entry: _read(store, *entry, stop), entries)
    comparison = compare(dataset, measure, candidates)
    write_comparison(store, comparison)
    return comparison


def _read(store: ObjectStore, combination: Combination, digest: str, stop: threading.Event) -> Candidate:
    if stop.is_set():
        raise Cancelled("The comparison was stopped.")
    manifest = scores.read_manifest(store, digest)
    if manifest.classifier != combination.classifier:
        raise InvalidInput(f"The scores given for {combination} are those of {manifest.classifier}.")
    return Candidate(combination, digest, {entry.fold: entry.measures for entry in manifest.folds})
