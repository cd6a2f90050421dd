from __future__ import annotations

import itertools
import json
from typing import TYPE_CHECKING

import numpy as np
import pytest
from scipy import integrate, special

from offshelf.errors import DataLoss, InvalidInput, NotFound, UnknownName
from offshelf.measures import MEASURES
from offshelf.runs import Combination
from offshelf.services.stats.comparison import (
    Candidate,
    Comparison,
    compare,
    read_comparison,
    write_comparison,
)
from offshelf.services.stats.significance import corrected_resampled_t_test, holm
from offshelf.store import keys
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

DATASET = "d" * 64


def candidate(name: str, values: Sequence[float], first_fold: int = 0) -> Candidate:
    """Make a combination, written EXTRACTOR+CLASSIFIER, with the same value of every measure in a fold."""
    folds = {first_fold + fold: dict.fromkeys(MEASURES, value) for fold, value in enumerate(values)}
    return Candidate(Combination(*name.split("+")), name.encode().hex().ljust(64, "0"), folds)


def names(comparison: Comparison) -> list[str]:
    """List the combinations, best first."""
    return [f"{each.combination.extractor}+{each.combination.classifier}" for each in comparison.ranking]


def t_tail(t: float, degrees: int) -> float:
    """Both tails of Student's t, by integrating its density."""
    constant = special.gamma((degrees + 1) / 2) / (np.sqrt(degrees * np.pi) * special.gamma(degrees / 2))
    tail, _ = integrate.quad(lambda x: constant * (1 + x * x / degrees) ** (-(degrees + 1) / 2), abs(t), np.inf)
    return float(2 * tail)


def test_t_test_is_the_published_one() -> None:
    """The p-value is that of Nadeau and Bengio's equation, computed here from first principles."""
    first = [0.91, 0.88, 0.95, 0.90, 0.93, 0.92, 0.89, 0.94, 0.90, 0.96]
    second = [0.89, 0.87, 0.90, 0.91, 0.90, 0.88, 0.89, 0.90, 0.91, 0.92]
    differences = np.subtract(first, second)
    variance = sum((each - differences.mean()) ** 2 for each in differences) / 9
    t = differences.mean() / np.sqrt((1 / 10 + 1 / 9) * variance)

    found = corrected_resampled_t_test(first, second, test_train_ratio=1 / 9)

    assert found == pytest.approx(t_tail(t, 9), rel=1e-6)
    assert found == corrected_resampled_t_test(second, first, test_train_ratio=1 / 9)
    assert 0.05 < found < 0.15  # the ordinary paired test would have said 0.02


@pytest.mark.parametrize(
    ("first", "second", "p_value"),
    [([0.8, 0.9, 0.7], [0.8, 0.9, 0.7], 1.0), ([0.8, 0.9, 0.7], [0.7, 0.8, 0.6], 0.0), ([0.3] * 3, [0.1] * 3, 0.0)],
)
def test_constant_differences(first: list[float], second: list[float], p_value: float) -> None:
    """Scores that are equal, or apart by the same in every fold, get a verdict although their spread is zero."""
    assert corrected_resampled_t_test(first, second, test_train_ratio=0.5) == p_value


def test_t_test_refuses_one_fold() -> None:
    """One fold says nothing of the spread, and so nothing is claimed."""
    with pytest.raises(InvalidInput, match="at least 2 folds"):
        corrected_resampled_t_test([0.9], [0.5], test_train_ratio=0.1)
    with pytest.raises(InvalidInput, match="same folds"):
        corrected_resampled_t_test([0.9, 0.8], [0.5], test_train_ratio=0.1)


def cross_validated(X: NDArray[np.float64], y: NDArray[np.int_], folds: int) -> list[float]:
    """Accuracy of the nearest class mean in each fold."""
    scores = []
    for fold in range(folds):
        held_out = np.arange(len(y)) % folds == fold
        means = [X[~held_out & (y == label)].mean(axis=0) for label in (0, 1)]
        distances = [((X[held_out] - mean) ** 2).sum(axis=1) for mean in means]
        scores.append(float(((distances[1] < distances[0]) == (y[held_out] == 1)).mean()))
    return scores


def test_equal_learners_are_rarely_called_different() -> None:
    """Of two equally good classifiers one is seldom said to be better (5 % is promised)."""
    rng = np.random.default_rng(7)
    folds, rounds = 10, 250
    p_values = []
    for _ in range(rounds):
        y = rng.permutation(np.arange(60) % 2)
        # Two halves that say equally much: two learners of the same ability.
        X = rng.normal(size=(60, 8)) + 0.5 * y[:, None]
        halves = [cross_validated(half, y, folds) for half in (X[:, :4], X[:, 4:])]
        p_values.append(corrected_resampled_t_test(*halves, test_train_ratio=1 / (folds - 1)))
    assert np.mean(np.array(p_values) <= 0.05) <= 0.06


def test_corrected_test_keeps_its_level_where_the_ordinary_one_does_not() -> None:
    """With folds correlated as in cross-validation, 5 % means 5 %, and not three times as much."""
    rng = np.random.default_rng(3)
    folds, rounds = 10, 3000
    shared = rng.normal(size=(rounds, 1)) * np.sqrt(1 / folds)
    differences = shared + rng.normal(size=(rounds, folds)) * np.sqrt(1 - 1 / folds)
    zeros = [0.0] * folds

    def level(ratio: float) -> float:
        tests = [corrected_resampled_t_test(row.tolist(), zeros, test_train_ratio=ratio) for row in differences]
        return float(np.mean(np.array(tests) <= 0.05))

    assert level(1 / (folds - 1)) == pytest.approx(0.05, abs=0.012)
    assert level(0.0) > 0.12


def test_holm_is_closed_testing() -> None:
    """A combination is called worse only if every group of comparisons it belongs to stands up to Bonferroni."""
    rng = np.random.default_rng(5)
    for size in (1, 2, 5):
        p_values = (rng.random(size) ** 3).tolist()
        groups = [group for number in range(1, size + 1) for group in itertools.combinations(range(size), number)]
        expected = [
            max(min(1.0, len(group) * min(p_values[each] for each in group)) for group in groups if test in group)
            for test in range(size)
        ]
        assert holm(p_values) == pytest.approx(expected)


def test_holm_never_falls() -> None:
    """A smaller p-value never becomes a larger adjusted one, and none goes beyond 1."""
    assert holm([0.04, 0.01, 0.03, 0.9]) == pytest.approx([0.09, 0.04, 0.09, 0.9])
    assert holm([0.6, 0.5]) == [1.0, 1.0]
    assert holm([]) == []


def test_ranking() -> None:
    """The best comes first; of equal means the steadier one, then the alphabet, whatever the order they came in."""
    steady, shaky = [0.9, 0.9, 0.9], [0.8, 0.9, 1.0]
    candidates = [
        candidate("hog+KNN", steady),
        candidate("vgg16+SVM", shaky),
        candidate("hog+LR", [0.5, 0.6, 0.4]),
        candidate("googlenet+SVM", steady),
        candidate("hog+GB", steady),
    ]
    expected = ["googlenet+SVM", "hog+GB", "hog+KNN", "vgg16+SVM", "hog+LR"]

    found = [compare(DATASET, "accuracy", order) for order in (candidates, candidates[::-1])]

    assert [names(comparison) for comparison in found] == [expected, expected]
    assert found[0].to_json() == found[1].to_json()
    assert found[0].digest == found[1].digest
    best = {extractor: each.combination.classifier for extractor, each in found[0].best_of_extractors.items()}
    assert best == {"googlenet": "SVM", "hog": "GB", "vgg16": "SVM"}


def test_comparison_with_the_winner() -> None:
    """Each combination is said to be worse than the winner, or not; the winner is not tested against itself."""
    best = [0.95, 0.93, 0.97, 0.94, 0.96, 0.95, 0.92, 0.98, 0.94, 0.96]
    close = [0.95, 0.94, 0.95, 0.94, 0.95, 0.96, 0.92, 0.97, 0.94, 0.96]
    far = [0.65, 0.63, 0.70, 0.64, 0.60, 0.61, 0.66, 0.62, 0.60, 0.68]

    comparison = compare(
        DATASET, "mcc", [candidate("hog+LR", far), candidate("hog+SVM", best), candidate("hog+RF", close)]
    )

    winner, second, third = comparison.ranking
    assert names(comparison) == ["hog+SVM", "hog+RF", "hog+LR"]
    assert (winner.p_value, winner.different_from_best) == (1.0, False)
    assert second.p_value == corrected_resampled_t_test(best, close, test_train_ratio=1 / 9)
    assert not second.different_from_best
    assert third.p_value == 2 * corrected_resampled_t_test(best, far, test_train_ratio=1 / 9)
    assert third.different_from_best
    assert winner.spread.mean == pytest.approx(0.95)
    assert winner.spread.standard_deviation == pytest.approx(np.std(best, ddof=1))
    assert set(winner.measures) == set(MEASURES)


def test_one_combination() -> None:
    """A run with a single combination has a winner too."""
    comparison = compare(DATASET, "f1", [candidate("hog+LR", [0.5, 0.7])])
    assert names(comparison) == ["hog+LR"]


def test_what_cannot_be_compared() -> None:
    """What cannot be compared fairly is refused with the reason."""
    three = candidate("hog+LR", [0.5, 0.6, 0.7])
    with pytest.raises(InvalidInput, match="nothing to compare"):
        compare(DATASET, "accuracy", [])
    with pytest.raises(InvalidInput, match=r"hog \+ RF on other ones"):
        compare(DATASET, "accuracy", [three, candidate("hog+RF", [0.5, 0.6])])
    with pytest.raises(InvalidInput, match=r"hog \+ RF on other ones"):
        compare(DATASET, "accuracy", [three, candidate("hog+RF", [0.5, 0.6, 0.7], first_fold=1)])
    with pytest.raises(InvalidInput, match="twice"):
        compare(DATASET, "accuracy", [three, three])
    with pytest.raises(InvalidInput, match="at least 2 folds"):
        compare(DATASET, "accuracy", [candidate("hog+LR", [0.5])])
    with pytest.raises(UnknownName, match="accuracy"):
        compare(DATASET, "acuracy", [three])


def test_comparison_in_the_store() -> None:
    """A comparison is found again under its digest, which says what went into it."""
    store = MemoryStore()
    candidates = [candidate("hog+LR", [0.5, 0.6, 0.8]), candidate("hog+RF", [0.9, 0.6, 0.8])]
    comparison = compare(DATASET, "accuracy", candidates)

    digest = write_comparison(store, comparison)

    assert read_comparison(store, digest) == comparison
    assert json.loads(store.get(keys.comparison(digest)))["measure"] == "accuracy"
    others = [
        compare("e" * 64, "accuracy", candidates),
        compare(DATASET, "f1", candidates),
        compare(DATASET, "accuracy", candidates[:1]),
    ]
    assert len({digest, *(other.digest for other in others)}) == 4


def test_comparison_that_is_not_what_it_should_be() -> None:
    """A comparison that is missing, damaged or another one is not reported on."""
    store = MemoryStore()
    digest = write_comparison(store, compare(DATASET, "accuracy", [candidate("hog+LR", [0.5, 0.6])]))
    whole = store.get(keys.comparison(digest))
    for altered in (b"", b"[]", b'{"version": 99}', whole[:-3], whole.replace(b"hog", b"haralick")):
        store.objects[keys.comparison(digest)] = altered
        with pytest.raises(DataLoss, match="Run again"):
            read_comparison(store, digest)
    for name in ("0" * 64, "../spec"):
        with pytest.raises(NotFound):
            read_comparison(store, name)
