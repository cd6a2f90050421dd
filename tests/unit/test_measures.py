from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn import metrics

from offshelf import measures
from offshelf.errors import UnknownName

if TYPE_CHECKING:
    from numpy.typing import NDArray


def problem(seed: int, n: int, k: int, held_out: int) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Make labels of the first `held_out` of k classes, and probabilities with ties."""
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(held_out), rng.integers(0, held_out, n)])
    scores = rng.integers(0, 5, (len(labels), k)) + 2.0 * np.eye(k)[labels] * rng.integers(0, 2, (len(labels), 1))
    return labels, scores / 10


@given(seed=st.integers(0, 10**6), n=st.integers(1, 60), k=st.integers(2, 5), absent=st.integers(0, 1))
def test_measures_are_scikit_learns(seed: int, n: int, k: int, absent: int) -> None:
    """Every measure is what scikit-learn calls by that name, for two and more classes, all held out or not."""
    held_out = max(2, k - absent)
    y, p = problem(seed, n, k, held_out)
    predicted = p.argmax(axis=1)
    present = list(range(held_out))
    macro = {"labels": present, "average": "macro", "zero_division": 0}
    expected = {
        "accuracy": metrics.accuracy_score(y, predicted),
        "balanced_accuracy": metrics.recall_score(y, predicted, **macro),
        "f1": metrics.f1_score(y, predicted, **macro),
        "recall": metrics.recall_score(y, predicted, **macro),
        "precision": metrics.precision_score(y, predicted, **macro),
        "auroc": np.mean([metrics.roc_auc_score(y == label, p[:, label]) for label in present]),
        "mcc": metrics.matthews_corrcoef(y, predicted),
    }
    assert measures.compute(y, p, k) == pytest.approx(expected, abs=1e-12)


def test_every_measure_in_the_list_is_computed() -> None:
    """What the catalogue lists can be had."""
    assert set(measures.compute([0, 1], [[0.9, 0.1], [0.2, 0.8]], 2)) == set(measures.MEASURES)


def test_a_perfect_classifier_gets_one_everywhere() -> None:
    """All measures agree about perfection."""
    assert set(measures.compute([0, 1, 2], np.eye(3), 3).values()) == {1.0}


def test_nothing_is_undefined_with_one_class_held_out() -> None:
    """A fold with images of one class gives numbers, auroc that of guessing."""
    found = measures.compute([1, 1], [[0.4, 0.6], [0.7, 0.3]], 2)
    assert found["accuracy"] == 0.5
    assert found["auroc"] == 0.5
    assert found["mcc"] == 0.0


def test_a_class_nobody_predicts_counts_as_zero_precision() -> None:
    """Ignoring a rare class is punished and does not end in a division by zero."""
    found = measures.compute([0, 0, 0, 1], [[1, 0]] * 4, 2)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"] == 0.5
    assert found["precision"] == pytest.approx(0.375)


@pytest.mark.parametrize("probabilities", [[[0.5, 0.5]], [[0.5, 0.5, 0.0]] * 2, [[np.nan, 0.5]] * 2])
def test_what_does_not_fit_is_refused(probabilities: list[list[float]]) -> None:
    """A defect upstream gives an error and no figure."""
    with pytest.raises(ValueError, match=r"fit|finite"):
        measures.compute([0, 1], probabilities, 2)


def test_an_unknown_measure_names_the_nearest() -> None:
    """A typing error is answered with what was probably meant."""
    assert measures.find("auroc") == "auroc"
    with pytest.raises(UnknownName, match="Did you mean 'accuracy'"):
        measures.find("acuracy")


def test_listing_needs_no_numeric_library() -> None:
    """The command line lists measures, classifiers, scores and models without waiting for numpy or scikit-learn."""
    heavy = "{'numpy', 'scipy', 'sklearn', 'pyarrow', 'skops'} & set(sys.modules)"
    code = (
        "import sys, offshelf.measures, offshelf.scores, offshelf.models, offshelf.estimators.registry;"
        f"sys.exit(str({heavy}) if {heavy} else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_very_long_name_is_refused_at_once() -> None:
    """What somebody sends instead of a name is cut before it is compared and shown."""
    with pytest.raises(UnknownName) as caught:
        measures.find("x" * 4_000_000)
    assert len(caught.value.message) < 1000
