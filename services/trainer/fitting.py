"""The procedure that is scored and, once chosen, run on all images: search inside, then fit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from offshelf import measures, models
from offshelf.digests import digest_of, digest_of_bytes
from offshelf.estimators import building, persistence
from offshelf.services.trainer.folds import check_usable, group_numbers, inner_folds

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offshelf.datasets import Dataset
    from offshelf.estimators.registry import Setting
    from offshelf.features import Features
    from offshelf.services.trainer.folds import Indexes, Part

    Matrix = NDArray[np.floating[Any]]

_SEED_DIGITS: Final = 8
_SAME_DIGITS: Final = 12


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fitted estimator and what was chosen for it."""

    estimator: Any
    """scikit-learn pipeline, for `offshelf.estimators.building.class_probabilities`."""
    settings: Setting


def derived_seed(*parts: str | int) -> int:
    """Derive a seed below 2**32 from what it is for; the same on every machine and in every process."""
    return int(digest_of(parts)[:_SEED_DIGITS], 16)


def fit_procedure(
    X: Matrix, y: Indexes, groups: Indexes, *, classifier: str, measure: str, n_classes: int, seed: int
) -> Fitted:
    """Search for the best setting by inner cross-validation and fit it on everything given.

    Scaling, search and calibration see nothing but what is given. Of settings that are equally good the first, the
    simplest, is taken; so it is where there are too few images to search.

    Parameters
    ----------
    X
        Features, shape (n, d).
    y
        Class indexes, shape (n,), of two classes or more.
    groups
        Group of each image, shape (n,), or empty.
    classifier, measure
        By their names.
    n_classes
        Number of classes of the dataset, whether they are in `y` or not.
    seed
        Of everything random; see `derived_seed`.

    Returns
    -------
    Fitted
        The estimator and the setting that was chosen.

    Raises
    ------
    UnknownName
        For a classifier that does not exist.
    """
    folds = inner_folds(y, groups, seed)
    space = building.search_space(classifier)
    settings = space[0]
    if folds and len(space) > 1:
        found = [_inner_score(X, y, folds, classifier, setting, measure, n_classes, seed) for setting in space]
        settings = space[found.index(max(found))]
    return Fitted(building.fit(building.build(classifier, settings, seed), X, y, folds), settings)


def fit_model(
    features: Features,
    dataset: Dataset,
    *,
    digest: str,
    table: str,
    fingerprint: str,
    extractor: str,
    classifier: str,
    measure: str,
    seed: int,
) -> tuple[models.ModelCard, bytes]:
    """Run the procedure that was scored on all usable images.

    Returns
    -------
    tuple of ModelCard and bytes
        The card, and the estimator's file.

    Raises
    ------
    UnknownName
        For a classifier that does not exist.
    InvalidDataset
        If a class has fewer than two usable images.
    """
    items = np.asarray(features.items, dtype=np.intp)
    check_usable(dataset, items)
    groups = group_numbers(dataset)
    fitted = fit_procedure(
        features.X,
        np.asarray(dataset.targets, dtype=np.intp)[items],
        groups[items] if len(groups) else groups,
        classifier=classifier,
        measure=measure,
        n_classes=len(dataset.classes),
        seed=derived_seed(seed, "fit", classifier),
    )
    data = persistence.save(fitted.estimator, comment=models.origin_note(dataset.digest, table))
    versions = models.installed_versions()
    chosen = ", ".join(f"{name} {value}" for name, value in fitted.settings.items())
    card = models.ModelCard(
        digest=digest,
        extractor=extractor,
        fingerprint=fingerprint,
        classifier=classifier,
        settings=fitted.settings,
        classes=dataset.classes,
        dataset=dataset.digest,
        table=table,
        images=len(items),
        measure=measure,
        seed=seed,
        versions=versions,
        estimator_sha256=digest_of_bytes(data),
        made_by=f"Offshelf {versions['offshelf']} fitted {classifier} ({chosen}; chosen for the best {measure}) "
        f"on the {extractor} features of {len(items)} images in {len(dataset.classes)} classes.",
    )
    return card, data


def _inner_score(
    X: Matrix,
    y: Indexes,
    folds: list[Part],
    classifier: str,
    setting: Setting,
    measure: str,
    n_classes: int,
    seed: int,
) -> float:
    scores = []
    for fitted, held_out in folds:
        estimator = building.fit(building.build(classifier, setting, seed), X[fitted], y[fitted])
        probabilities = building.class_probabilities(estimator, X[held_out], n_classes)
        scores.append(measures.compute(y[held_out], probabilities, n_classes)[measure])
    # Rounded, so that settings with the same scores in another order are equally good.
    return round(float(np.mean(scores)), _SAME_DIGITS)
