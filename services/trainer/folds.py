"""Which image is held out when.

Folds are made of all images of a dataset, whether an extractor could use them or not, so that every combination of a
run is compared on the same folds; a feature table only drops its unusable images from them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

import numpy as np
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

from offshelf.errors import InvalidDataset, InvalidInput

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offshelf.datasets import Dataset
    from offshelf.scores import ValidationPlan

    Indexes: TypeAlias = NDArray[np.intp]
    Part: TypeAlias = tuple[Indexes, Indexes]

INNER_FOLDS: Final = 3
"""Into how many parts the search divides what it may learn from."""

_SEEDS: Final = 2**32


def assign_folds(dataset: Dataset, plan: ValidationPlan) -> Indexes:
    """Give each image the fold in which it is held out.

    Folds are stratified: each has about the same share of every class. Images of one group (a patient, a camera) are
    never divided between folds.

    Parameters
    ----------
    dataset
        All images, n of them.
    plan
        Folds and seed. Up to 2**32 - 1 the seed is scikit-learn's `random_state`.

    Returns
    -------
    numpy.ndarray
        Fold of each item from 0, shape (n,).

    Raises
    ------
    InvalidDataset
        If there are too few images of a class, or too few groups, for so many folds.
    """
    targets = np.asarray(dataset.targets, dtype=np.intp)
    counts = np.bincount(targets, minlength=len(dataset.classes))
    if counts.size == 0 or counts.min() < plan.folds:
        name, count = (dataset.classes[counts.argmin()], counts.min()) if counts.size else ("", 0)
        raise InvalidDataset(
            f"Class {name!r} has {count} images, too few for {plan.folds} folds: add images or use fewer folds."
        )
    groups = group_numbers(dataset)
    too_few_groups = InvalidDataset(
        f"The images are in {len(np.unique(groups))} groups, too few or too uneven for {plan.folds} folds: "
        "use fewer folds."
    )
    if len(groups) and len(np.unique(groups)) < plan.folds:
        raise too_few_groups
    folds = np.empty(len(targets), dtype=np.intp)
    for fold, (_, held_out) in enumerate(_divide(targets, groups, plan.folds, plan.seed)):
        if len(held_out) == 0:
            raise too_few_groups
        folds[held_out] = fold
    return folds


def group_numbers(dataset: Dataset) -> Indexes:
    """Number the groups; an image without one is a group of its own. Empty if the dataset has no groups."""
    if not dataset.groups:
        return np.empty(0, dtype=np.intp)
    names = [group or f"\0{index}" for index, group in enumerate(dataset.groups)]
    return np.unique(names, return_inverse=True)[1].astype(np.intp)


def hold_out(dataset: Dataset, plan: ValidationPlan, fold: int, items: Indexes) -> Part:
    """Divide the usable images into those to learn from and those of one fold.

    Parameters
    ----------
    dataset, plan
        What the folds are made of.
    fold
        Which fold is held out, from 0.
    items
        Indexes of the usable images into the dataset's items, rising.

    Returns
    -------
    pair of numpy.ndarray
        Positions in `items` to learn from, and held out.

    Raises
    ------
    InvalidInput
        If the plan has no such fold.
    InvalidDataset
        If too few usable images are left: see `check_usable`, or none held out, or one class to learn from.
    """
    if not 0 <= fold < plan.folds:
        raise InvalidInput(f"There is no fold {fold} among {plan.folds}.")
    check_usable(dataset, items)
    usable_folds = assign_folds(dataset, plan)[items]
    learn, held_out = np.flatnonzero(usable_folds != fold), np.flatnonzero(usable_folds == fold)
    targets = np.asarray(dataset.targets, dtype=np.intp)[items]
    if len(held_out) == 0 or len(np.unique(targets[learn])) < 2:  # noqa: PLR2004  (nothing to tell apart)
        raise InvalidDataset(
            f"Too many images cannot be used: fold {fold + 1} of {plan.folds} has none left, or one class to learn "
            "from. Replace the skipped images or use fewer folds."
        )
    return learn, held_out


def check_usable(dataset: Dataset, items: Indexes) -> None:
    """Check that every class has at least two usable images.

    Raises
    ------
    InvalidDataset
        With the class, and how many of its images cannot be used.
    """
    targets = np.asarray(dataset.targets, dtype=np.intp)
    classes = len(dataset.classes)
    usable = np.bincount(targets[items], minlength=classes)
    for name, left, there in zip(dataset.classes, usable, np.bincount(targets, minlength=classes), strict=True):
        if left < 2:  # noqa: PLR2004  (one to learn from, one to hold out)
            raise InvalidDataset(
                f"Class {name!r} has {left} images that can be used ({there - left} are skipped): "
                "replace the skipped images, or remove the class."
            )


def inner_folds(y: Indexes, groups: Indexes, seed: int) -> list[Part]:
    """Divide what may be learned from once more, for the search and for calibration.

    Parameters
    ----------
    y
        Class indexes, shape (n,).
    groups
        Group of each image, shape (n,), or empty.
    seed
        Of the division.

    Returns
    -------
    list of pairs of numpy.ndarray
        Positions (to fit on, held out). Up to `INNER_FOLDS` of them; fewer for rare classes or few groups, and none
        where they cannot be divided so that two classes remain to fit on.
    """
    counts = np.bincount(y)
    parts = min(INNER_FOLDS, int(counts[counts > 0].min()), len(np.unique(groups)) if len(groups) else INNER_FOLDS)
    if parts < 2:  # noqa: PLR2004  (no division)
        return []
    return [
        (fitted, held_out)
        for fitted, held_out in _divide(y, groups, parts, seed)
        if len(held_out) > 0 and len(np.unique(y[fitted])) > 1
    ]


def _divide(y: Indexes, groups: Indexes, parts: int, seed: int) -> list[Part]:
    kind = StratifiedGroupKFold if len(groups) else StratifiedKFold
    splitter = kind(parts, shuffle=True, random_state=seed % _SEEDS)
    return list(splitter.split(np.empty((len(y), 0)), y, groups if len(groups) else None))
