"""Nearest neighbours that also work where there are fewer images than neighbours asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.neighbors import KNeighborsClassifier

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class BoundedNeighbours(ClassifierMixin, BaseEstimator):
    """k nearest neighbours with k at most the number of training images.

    An inner fold of a small dataset may hold fewer images than k, and scikit-learn's class then fails in predicting.

    Parameters
    ----------
    n_neighbors
        k, or the number of training images if that is less.
    metric
        A metric of scikit-learn's brute-force search: "cosine" or "euclidean".

    Attributes
    ----------
    neighbours_
        The fitted scikit-learn classifier.
    classes_
        Labels, sorted; shape (k,).
    """

    def __init__(self, n_neighbors: int = 5, metric: str = "euclidean") -> None:
        self.n_neighbors = n_neighbors
        self.metric = metric

    def fit(self, X: NDArray[np.floating[Any]], y: NDArray[np.integer[Any]]) -> Self:
        """Remember the training images: X of shape (n, d), y of shape (n,)."""
        # Brute force: with hundreds of features no tree is faster, and loading would have to trust the tree's class.
        self.neighbours_ = KNeighborsClassifier(min(self.n_neighbors, len(X)), metric=self.metric, algorithm="brute")
        self.neighbours_.fit(X, y)
        self.classes_ = self.neighbours_.classes_
        return self

    def predict_proba(self, X: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Share of each class among the neighbours, shape (n, k)."""
        probabilities: NDArray[np.float64] = self.neighbours_.predict_proba(X)
        return probabilities

    def predict(self, X: NDArray[np.floating[Any]]) -> NDArray[Any]:
        """Label of the most common class among the neighbours, shape (n,)."""
        labels: NDArray[Any] = self.neighbours_.predict(X)
        return labels
