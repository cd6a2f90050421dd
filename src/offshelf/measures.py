"""Measures of how well a classifier did: one function computes them all from labels and class probabilities.

Listing the names needs no numeric library. All measures work for two or more classes: those that are defined for one
class against the rest are averaged over the classes with equal weight (macro average).
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from offshelf.errors import UnknownName

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import ArrayLike, NDArray

MEASURES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "accuracy": "The share of images that are classified correctly. Misleading if one class has far more images.",
        "balanced_accuracy": "The share classified correctly in each class, averaged over the classes: "
        "a rare class counts as much as a common one.",
        "f1": "One figure out of recall and precision (their harmonic mean), averaged over the classes.",
        "recall": "Of the images that belong to a class, the share that is found, averaged over the classes. "
        "The same as balanced accuracy.",
        "precision": "Of the images that are said to belong to a class, the share that does, averaged over "
        "the classes.",
        "auroc": "The chance that an image of a class is given a higher probability of it than an image of another "
        "class (area under the ROC curve), averaged over the classes. 0.5 is guessing.",
        "mcc": "Matthews' correlation between the true and the predicted classes: 1 is perfect, 0 is guessing, "
        "-1 is always wrong. Fair to classes of any size.",
    }
)
"""The measures there are, each with what it says in plain words."""

_UNDEFINED_AUROC: Final = 0.5


def find(name: str) -> str:
    """Return the name of a measure, if there is one.

    Raises
    ------
    UnknownName
        With all names and the nearest match.
    """
    if name not in MEASURES:
        raise UnknownName.among("measure", name, MEASURES)
    return name


def compute(y_true: ArrayLike, probabilities: ArrayLike, n_classes: int) -> dict[str, float]:
    """Compute every measure.

    The predicted class is the one with the highest probability; of equal ones the first. Macro averages go over the
    classes that have at least one image in `y_true`.

    Parameters
    ----------
    y_true
        The true classes as indexes from 0, shape (n,), n >= 1.
    probabilities
        Probability of each class for each image, shape (n, n_classes). Rows need not add up to 1.
    n_classes
        Number of classes of the dataset, whether they are in `y_true` or not.

    Returns
    -------
    dict of str to float
        From 0 to 1, mcc from -1; never NaN. Where a measure is not defined: precision and f1 of a class that was
        never predicted count 0; auroc is averaged over the classes with images both inside and outside, and 0.5
        (guessing: nothing was shown) if `y_true` is all of one class; mcc is 0 if there is one class only.

    Raises
    ------
    ValueError
        If the shapes do not fit together, or a probability is not a finite number.

    Notes
    -----
    mcc for more than two classes is R_K of Gorodkin, "Comparing two K-category assignments by a K-category
    correlation coefficient", Computational Biology and Chemistry 28 (2004), equation 8. auroc is the Mann-Whitney
    statistic, ties counted half (Hanley & McNeil, Radiology 143, 1982).
    """
    import numpy as np

    true = np.asarray(y_true, dtype=np.intp)
    scores = np.asarray(probabilities, dtype=np.float64)
    if true.ndim != 1 or true.size == 0 or scores.shape != (true.size, n_classes):
        raise ValueError(f"{true.shape} labels and {scores.shape} probabilities do not fit {n_classes} classes")
    if true.min() < 0 or true.max() >= n_classes or not np.isfinite(scores).all():
        raise ValueError("a label is out of range, or a probability is not finite")

    predicted = scores.argmax(axis=1)
    confusion = np.bincount(true * n_classes + predicted, minlength=n_classes**2).reshape(n_classes, n_classes)
    hits = confusion.diagonal().astype(np.float64)
    actual, said = confusion.sum(axis=1), confusion.sum(axis=0)
    present = actual > 0
    recall = hits[present] / actual[present]
    precision = hits[present] / np.maximum(said[present], 1)
    f1 = 2 * hits[present] / (actual[present] + said[present])
    mean_recall = float(recall.mean())
    return {
        "accuracy": float(hits.sum() / true.size),
        "balanced_accuracy": mean_recall,
        "f1": float(f1.mean()),
        "recall": mean_recall,
        "precision": float(precision.mean()),
        "auroc": _auroc(true, scores, np.flatnonzero(present)),
        "mcc": _mcc(float(hits.sum()), actual.astype(np.float64), said.astype(np.float64)),
    }


def _auroc(true: NDArray[np.intp], scores: NDArray[np.float64], present: NDArray[np.intp]) -> float:
    import numpy as np

    if present.size == 1:
        return _UNDEFINED_AUROC
    areas = []
    for label in present:
        inside = true == label
        positives = int(inside.sum())
        # The mean rank of equal scores, from 1: half of the pairs that tie count.
        _, index, counts = np.unique(scores[:, label], return_inverse=True, return_counts=True)
        ranks = (np.cumsum(counts) - (counts - 1) / 2)[index]
        wins = ranks[inside].sum() - positives * (positives + 1) / 2
        areas.append(wins / (positives * (true.size - positives)))
    return float(np.mean(areas))


def _mcc(correct: float, actual: NDArray[np.float64], said: NDArray[np.float64]) -> float:
    import numpy as np

    total = float(actual.sum())
    spread = float(np.sqrt((total**2 - actual @ actual) * (total**2 - said @ said)))
    return 0.0 if spread == 0 else (correct * total - float(actual @ said)) / spread
