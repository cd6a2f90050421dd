"""The comparison of all combinations of a run: ranked, and each tested against the winner."""

from __future__ import annotations

import json
import statistics
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from offshelf import measures
from offshelf.digests import canonical_json, digest_of, is_digest
from offshelf.errors import DataLoss, InvalidInput, NotFound
from offshelf.runs import Combination
from offshelf.services.stats.significance import ALPHA, corrected_resampled_t_test, holm
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from offshelf.digests import JSONValue
    from offshelf.store import ObjectStore

COMPARISON_VERSION = 1
"""Version of the statistics; part of a comparison's digest."""

_FEWEST_FOLDS = 2
_DECIMALS = 12
"""Means that differ less are equal but for rounding, and tied."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A combination with its scores, before it is compared."""

    combination: Combination
    scores: str
    """Digest that names the scores."""
    folds: Mapping[int, Mapping[str, float]]
    """Every measure by its name, by fold."""


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean and sample standard deviation over the folds, in the measure's own unit (for most: 0 to 1)."""

    mean: float
    standard_deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Summarise one value a fold, at least two."""
        return cls(statistics.fmean(values), statistics.stdev(values))


@dataclass(frozen=True, slots=True)
class RankedCombination:
    """A combination and how it did against the winner."""

    combination: Combination
    scores: str
    """Digest that names the scores."""
    spread: Spread
    """Of the measure that the combinations are compared on."""
    measures: Mapping[str, Spread]
    """Of every measure, by its name."""
    p_value: float
    """Of the corrected resampled t-test against the winner, adjusted by Holm; 1 for the winner."""
    different_from_best: bool
    """Whether the test says that it is worse than the winner."""


@dataclass(frozen=True)
class Comparison:
    """All combinations of a run, best first."""

    dataset: str
    """Digest of the dataset."""
    measure: str
    folds: tuple[int, ...]
    ranking: tuple[RankedCombination, ...]

    @property
    def best(self) -> RankedCombination:
        """The winner."""
        return self.ranking[0]

    @cached_property
    def best_of_extractors(self) -> dict[str, RankedCombination]:
        """The best combination of each extractor; the extractor of the winner first."""
        found: dict[str, RankedCombination] = {}
        for ranked in self.ranking:
            found.setdefault(ranked.combination.extractor, ranked)
        return found

    @cached_property
    def digest(self) -> str:
        """Names the comparison by what went into it."""
        return comparison_digest(self.dataset, self.measure, ((each.combination, each.scores) for each in self.ranking))

    def to_json(self) -> bytes:
        """Write as canonical JSON."""
        ranking: list[JSONValue] = [
            {
                "extractor": each.combination.extractor,
                "classifier": each.combination.classifier,
                "scores": each.scores,
                "mean": each.spread.mean,
                "standard_deviation": each.spread.standard_deviation,
                "p_value": each.p_value,
                "different_from_best": each.different_from_best,
                "measures": {
                    name: {"mean": spread.mean, "standard_deviation": spread.standard_deviation}
                    for name, spread in each.measures.items()
                },
            }
            for each in self.ranking
        ]
        best: dict[str, JSONValue] = {
            extractor: ranked.combination.classifier for extractor, ranked in self.best_of_extractors.items()
        }
        return canonical_json(
            {
                "version": COMPARISON_VERSION,
                "alpha": ALPHA,
                "dataset": self.dataset,
                "measure": self.measure,
                "folds": self.folds,
                "ranking": ranking,
                "best_classifier_of_extractors": best,
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Comparison:
        """Read what `to_json` wrote.

        Raises
        ------
        DataLoss
            If it is something else.
        """
        try:
            content = json.loads(data)
            if content["version"] != COMPARISON_VERSION:
                raise DataLoss("The comparison was made by another version of Offshelf. Run again to make it anew.")
            return cls(
                dataset=content["dataset"],
                measure=content["measure"],
                folds=tuple(content["folds"]),
                ranking=tuple(_ranked(each) for each in content["ranking"]),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise DataLoss("The comparison in the store is damaged. Run again to make it anew.") from None


def comparison_digest(dataset: str, measure: str, entries: Iterable[tuple[Combination, str]]) -> str:
    """Name a comparison by its inputs.

    Parameters
    ----------
    dataset
        Digest of the dataset.
    measure
        Name of the measure.
    entries
        Each combination with the digest of its scores, in any order.
    """
    rows = sorted((combination.extractor, combination.classifier, scores) for combination, scores in entries)
    return digest_of({"version": COMPARISON_VERSION, "dataset": dataset, "measure": measure, "entries": tuple(rows)})


def compare(dataset: str, measure: str, candidates: Sequence[Candidate]) -> Comparison:
    """Rank combinations by a measure and test each against the winner.

    The order is by mean; of equal means the smaller spread comes first, then the names decide. The test is the
    corrected resampled t-test, with Holm's adjustment over all combinations but the winner.

    Parameters
    ----------
    dataset
        Digest of the dataset that all were scored on.
    measure
        Name of the measure to compare on.
    candidates
        The combinations with their scores on the same folds, in any order.

    Raises
    ------
    InvalidInput
        If there is no combination, one is there twice, there are fewer than two folds, or they differ in their folds.
    UnknownName
        If there is no such measure.
    """
    measures.find(measure)
    folds = _common_folds(candidates)
    values = {candidate.combination: [candidate.folds[fold][measure] for fold in folds] for candidate in candidates}
    spreads = {combination: Spread.of(each) for combination, each in values.items()}

    def rank(candidate: Candidate) -> tuple[float, float, Combination]:
        spread = spreads[candidate.combination]
        mean, deviation = round(spread.mean, _DECIMALS), round(spread.standard_deviation, _DECIMALS)
        return -mean, deviation, candidate.combination

    winner, *others = sorted(candidates, key=rank)
    # Every image is tested once in k folds: on average, one is tested for each k - 1 trained on.
    ratio = 1 / (len(folds) - 1)
    adjusted = holm(
        [
            corrected_resampled_t_test(values[winner.combination], values[other.combination], test_train_ratio=ratio)
            for other in others
        ]
    )
    return Comparison(
        dataset=dataset,
        measure=measure,
        folds=folds,
        ranking=tuple(
            RankedCombination(
                combination=candidate.combination,
                scores=candidate.scores,
                spread=spreads[candidate.combination],
                measures={
                    name: Spread.of([candidate.folds[fold][name] for fold in folds]) for name in measures.MEASURES
                },
                p_value=p_value,
                different_from_best=p_value <= ALPHA,
            )
            for candidate, p_value in zip([winner, *others], [1.0, *adjusted], strict=True)
        ),
    )


def write_comparison(store: ObjectStore, comparison: Comparison) -> str:
    """Write a comparison into the store; return its digest."""
    store.put(keys.comparison(comparison.digest), comparison.to_json())
    return comparison.digest


def read_comparison(store: ObjectStore, digest: str) -> Comparison:
    """Read a comparison from the store.

    Raises
    ------
    NotFound
        If there is none of this digest.
    DataLoss
        If what is there is not this comparison.
    """
    if not is_digest(digest):
        raise NotFound(f"{digest!r} is not the digest of a comparison.")
    comparison = Comparison.from_json(store.get(keys.comparison(digest)))
    if comparison.digest != digest:
        raise DataLoss("The comparison in the store is not the one it is named for. Run again to make it anew.")
    return comparison


def _common_folds(candidates: Sequence[Candidate]) -> tuple[int, ...]:
    if not candidates:
        raise InvalidInput("There is nothing to compare: give at least one combination of extractor and classifier.")
    seen: set[Combination] = set()
    for candidate in candidates:
        if candidate.combination in seen:
            raise InvalidInput(f"{candidate.combination} is to be compared twice. Give each combination once.")
        seen.add(candidate.combination)
    folds = set(candidates[0].folds)
    for candidate in candidates:
        if set(candidate.folds) != folds:
            raise InvalidInput(
                f"{candidates[0].combination} was scored on {len(folds)} folds and {candidate.combination} on other "
                f"ones ({len(candidate.folds)}). Only scores on the same folds can be compared."
            )
    if len(folds) < _FEWEST_FOLDS:
        raise InvalidInput("A comparison takes at least 2 folds. Run again with more.")
    return tuple(sorted(folds))


def _ranked(content: Mapping[str, Any]) -> RankedCombination:
    return RankedCombination(
        combination=Combination(content["extractor"], content["classifier"]),
        scores=content["scores"],
        spread=_spread(content),
        measures={name: _spread(each) for name, each in content["measures"].items()},
        p_value=float(content["p_value"]),
        different_from_best=bool(content["different_from_best"]),
    )


def _spread(content: Mapping[str, Any]) -> Spread:
    return Spread(float(content["mean"]), float(content["standard_deviation"]))
