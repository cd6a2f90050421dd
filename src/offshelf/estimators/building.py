"""From a classifier's name to an estimator, and from an estimator to probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from offshelf.estimators import registry

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

_SCALER: Final = "scaler"
_CLASSIFIER: Final = "classifier"

_TREES: Final = 100
_HIDDEN_UNITS: Final = 64
_LR_ITERATIONS: Final = 1000
_MLP_ITERATIONS: Final = 200
_GB_LEARNING_RATE: Final = 0.1
_GB_SUBSAMPLE: Final = 0.5


def search_space(name: str) -> list[registry.Setting]:
    """Return the settings to try, the simplest first.

    Raises
    ------
    UnknownName
        For a classifier that does not exist.
    """
    return list(registry.find(name).space)


def build(name: str, settings: registry.Setting, seed: int) -> Any:
    """Make an estimator that is not fitted yet.

    Parameters
    ----------
    name
        Name of the classifier.
    settings
        One of its `search_space`.
    seed
        Of everything that is random in fitting; 0 to 2**32 - 1.

    Returns
    -------
    sklearn.pipeline.Pipeline
        With `predict_proba` after `fit(X, y)`; X of shape (n, d), y of class indexes of shape (n,).

    Raises
    ------
    UnknownName
        For a classifier that does not exist.
    """
    from sklearn.pipeline import Pipeline
    from sklearn.preprocessing import StandardScaler

    spec = registry.find(name)
    scaler = StandardScaler() if spec.scaled else "passthrough"
    return Pipeline([(_SCALER, scaler), (_CLASSIFIER, _classifier(name, dict(settings), seed))])


def fit(estimator: Any, X: NDArray[np.floating[Any]], y: NDArray[np.intp], folds: Sequence[Any] = ()) -> Any:
    """Fit what `build` made; return it.

    Parameters
    ----------
    estimator
        From `build`.
    X, y
        Features (n, d) and class indexes (n,), of two classes or more.
    folds
        Pairs of positions (fitted on, held out) for classifiers that have to be calibrated. Without them their
        probabilities are in the right order and not to be trusted as figures, which is enough for a search.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    from offshelf.estimators.margins import CalibratedSVC

    calibrated = isinstance(estimator.named_steps[_CLASSIFIER], CalibratedSVC) and len(folds) > 0
    with warnings.catch_warnings():
        # LR and MLP stop after a fixed number of steps on purpose: what they have by then is what is scored.
        warnings.simplefilter("ignore", ConvergenceWarning)
        return estimator.fit(X, y, **({f"{_CLASSIFIER}__folds": folds} if calibrated else {}))


def class_probabilities(estimator: Any, X: NDArray[np.floating[Any]], n_classes: int) -> NDArray[np.float64]:
    """Probability of every class of a dataset, also of those that an estimator was fitted without.

    Parameters
    ----------
    estimator
        Fitted on class indexes.
    X
        Features, shape (n, d).
    n_classes
        Number of classes of the dataset, k.

    Returns
    -------
    numpy.ndarray
        Shape (n, k); 0 for a class that the estimator has not seen.
    """
    import numpy as np

    probabilities = np.zeros((len(X), n_classes))
    probabilities[:, estimator.classes_] = estimator.predict_proba(X)
    return probabilities


def _classifier(name: str, settings: dict[str, Any], seed: int) -> Any:
    match name:
        case "RF":
            from sklearn.ensemble import RandomForestClassifier

            return RandomForestClassifier(_TREES, random_state=seed, **settings)
        case "SVM":
            from offshelf.estimators.margins import CalibratedSVC

            return CalibratedSVC(**settings)
        case "KNN":
            from offshelf.estimators.neighbours import BoundedNeighbours

            return BoundedNeighbours(**settings)
        case "LR":
            from sklearn.linear_model import LogisticRegression

            return LogisticRegression(max_iter=_LR_ITERATIONS, **settings)
        case "MLP":
            from sklearn.neural_network import MLPClassifier

            # L-BFGS: for hundreds of images faster than Adam, and at least as accurate.
            return MLPClassifier(
                (_HIDDEN_UNITS,), solver="lbfgs", max_iter=_MLP_ITERATIONS, random_state=seed, **settings
            )
        case "GB":
            from sklearn.ensemble import GradientBoostingClassifier

            return GradientBoostingClassifier(
                n_estimators=_TREES,
                learning_rate=_GB_LEARNING_RATE,
                max_features="sqrt",
                subsample=_GB_SUBSAMPLE,
                random_state=seed,
                **settings,
            )
    raise AssertionError(f"{name} is registered, and this module does not know how to make it")
