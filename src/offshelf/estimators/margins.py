"""A support vector machine whose margins are turned into probabilities without changing its decisions."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, Self, TypeAlias

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.svm import SVC

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.floating[Any]]
    Part: TypeAlias = tuple[NDArray[np.intp], NDArray[np.intp]]

_LOG_TEMPERATURE: Final = (-5.0, 5.0)


class CalibratedSVC(ClassifierMixin, BaseEstimator):
    """SVC with temperature scaling of its margins.

    The probability of a class is the softmax of the margins divided by one temperature, which minimises the log loss
    of margins on images that the machine was not fitted on. Since one number divides all margins, the most probable
    class is the one that the machine decides for: the search may compare settings without paying for calibration.

    Parameters
    ----------
    kernel
        "linear" or "rbf" (its width is 1 / (d * variance of X)).
    C
        How much a wrong side of the margin costs.

    Attributes
    ----------
    svc_
        The fitted scikit-learn machine.
    temperature_
        What margins are divided by; 1 if it was not measured.
    classes_
        Labels, sorted; shape (k,).

    References
    ----------
    Guo et al., "On Calibration of Modern Neural Networks", ICML 2017, section 4.2 (temperature); Platt, "Probabilistic
    Outputs for Support Vector Machines", 1999, section 2.2 (targets just short of 0 and 1, so that separable classes
    do not give infinite confidence).
    """

    def __init__(self, kernel: str = "rbf", C: float = 1.0) -> None:
        self.kernel = kernel
        self.C = C

    def fit(self, X: Floats, y: NDArray[np.integer[Any]], folds: Sequence[Part] = ()) -> Self:
        """Fit the machine on all images and its temperature on the held-out parts of `folds`.

        Parameters
        ----------
        X
            Features, shape (n, d).
        y
            Labels, shape (n,).
        folds
            Pairs of positions (fitted on, held out). Those whose first part lacks a class are passed over, as its
            machine has other margins. If none is left, or none was given, the temperature is 1.
        """
        self.classes_, index = np.unique(y, return_inverse=True)
        self.svc_ = self._machine().fit(X, index)
        margins, labels = [], []
        for fitted, held_out in folds:
            if len(np.unique(index[fitted])) == len(self.classes_):
                margins.append(_margins(self._machine().fit(X[fitted], index[fitted]), X[held_out]))
                labels.append(index[held_out])
        self.temperature_ = _temperature(np.concatenate(margins), np.concatenate(labels)) if margins else 1.0
        return self

    def predict_proba(self, X: Floats) -> NDArray[np.float64]:
        """Probability of each class, shape (n, k)."""
        probabilities: NDArray[np.float64] = softmax(_margins(self.svc_, X) / self.temperature_, axis=1)
        return probabilities

    def predict(self, X: Floats) -> NDArray[Any]:
        """Label of the class that the machine decides for, shape (n,)."""
        labels: NDArray[Any] = self.classes_[_margins(self.svc_, X).argmax(axis=1)]
        return labels

    def _machine(self) -> SVC:
        return SVC(kernel=self.kernel, C=self.C)


def _margins(machine: SVC, X: Floats) -> NDArray[np.float64]:
    """One margin a class, shape (n, k)."""
    margins: NDArray[np.float64] = machine.decision_function(X)
    # Of two classes scikit-learn gives the second one's margin only.
    return np.column_stack((np.zeros(len(margins)), margins)) if margins.ndim == 1 else margins


def _temperature(margins: NDArray[np.float64], labels: NDArray[np.intp]) -> float:
    n, k = margins.shape
    counts = np.bincount(labels, minlength=k)
    targets = np.full((n, k), 1.0)
    targets[np.arange(n), labels] += counts[labels]
    targets /= targets.sum(axis=1, keepdims=True)

    def loss(log_temperature: float) -> float:
        return -float((targets * log_softmax(margins / math.exp(log_temperature), axis=1)).sum() / n)

    best: float = minimize_scalar(loss, bounds=_LOG_TEMPERATURE, method="bounded").x
    return math.exp(best)
