"""Tests of whether one combination is worse than another, from their scores on the same folds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

ALPHA = 0.05
"""Chance that is taken of calling any combination worse that is as good."""

_FEWEST_FOLDS = 2
_ROUNDING = 1e-12
"""Differences between scores (which are of the order of 1) below this are rounding."""


def corrected_resampled_t_test(first: Sequence[float], second: Sequence[float], *, test_train_ratio: float) -> float:
    r"""Test whether two learners that were scored on the same folds differ.

    Training sets of different folds overlap, so the differences :math:`d_1 \dots d_k` are correlated and the ordinary
    paired t-test finds differences that are not there. The corrected statistic

    .. math:: t = \frac{\bar d}{\sqrt{\left(\frac{1}{k} + \frac{n_{test}}{n_{train}}\right) s_d^2}}

    with :math:`s_d^2` the sample variance of the differences, is compared with Student's t with :math:`k - 1` degrees
    of freedom, on both sides.

    If all differences are the same number, the statistic has no denominator and its limit is taken: no evidence if that
    number is 0 (p = 1), otherwise certainty (p = 0).

    Parameters
    ----------
    first, second
        Scores of the two learners, one a fold, shape (k,), in the same order of folds.
    test_train_ratio
        n_test / n_train: how many images are tested for each one trained on. 1 / (k - 1) in k-fold cross-validation.

    Returns
    -------
    float
        The p-value, from 0 to 1.

    Raises
    ------
    InvalidInput
        If there are fewer than two folds, or not the same number of both.

    References
    ----------
    C. Nadeau, Y. Bengio, "Inference for the Generalization Error", Machine Learning 52 (2003), 239-281.
    """
    import numpy as np
    from scipy import special

    if len(first) != len(second):
        raise InvalidInput(f"Scores of {len(first)} and {len(second)} folds cannot be compared: use the same folds.")
    folds = len(first)
    if folds < _FEWEST_FOLDS:
        raise InvalidInput("A comparison takes at least 2 folds: one score says nothing about its own spread.")
    differences = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    mean = float(differences.mean())
    if float(np.ptp(differences)) <= _ROUNDING:
        return 1.0 if abs(mean) <= _ROUNDING else 0.0
    variance = (1 / folds + test_train_ratio) * float(differences.var(ddof=1))
    # stdtr is the distribution function of Student's t; scipy.stats takes ten times as long to import.
    return float(2 * special.stdtr(folds - 1, -abs(mean) / variance**0.5))


def holm(p_values: Sequence[float]) -> list[float]:
    r"""Adjust the p-values of several tests so that the chance of any false alarm among them keeps to its level.

    With the p-values in ascending order, the i-th of m becomes :math:`\max_{j \le i} \min(1, (m - j + 1) p_j)`: step
    down, and never below the one before.

    Parameters
    ----------
    p_values
        One a test, in any order.

    Returns
    -------
    list of float
        The adjusted p-values in the order given.

    References
    ----------
    S. Holm, "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6 (1979),
    65-70.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    ascending = sorted(range(len(p_values)), key=lambda index: p_values[index])
    for step, index in enumerate(ascending):
        highest = max(highest, min(1.0, (len(p_values) - step) * p_values[index]))
        adjusted[index] = highest
    return adjusted
