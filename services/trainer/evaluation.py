"""One classifier on one held-out fold."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offshelf import measures
from offshelf.estimators import building
from offshelf.scores import FoldScores
from offshelf.services.trainer.fitting import derived_seed, fit_procedure
from offshelf.services.trainer.folds import group_numbers, hold_out

if TYPE_CHECKING:
    from offshelf.datasets import Dataset
    from offshelf.features import Features
    from offshelf.scores import ValidationPlan


def evaluate_fold(
    features: Features, dataset: Dataset, plan: ValidationPlan, *, table: str, fold: int, classifier: str, measure: str
) -> FoldScores:
    """Learn from all folds but one and predict that one.

    Parameters
    ----------
    features
        The usable images' features.
    dataset
        What they are features of.
    plan
        Folds and seed.
    table
        Digest of the table that the features are from.
    fold
        Which fold is held out, from 0.
    classifier
        Name of the classifier.
    measure
        What the search inside the training part maximises.

    Raises
    ------
    UnknownName
        For a classifier or measure that does not exist.
    InvalidInput
        If the plan has no such fold.
    InvalidDataset
        If too few images can be used.
    """
    measures.find(measure)
    items = np.asarray(features.items, dtype=np.intp)
    learn, held_out = hold_out(dataset, plan, fold, items)
    y = np.asarray(dataset.targets, dtype=np.intp)[items]
    groups = group_numbers(dataset)
    n_classes = len(dataset.classes)
    fitted = fit_procedure(
        features.X[learn],
        y[learn],
        groups[items[learn]] if len(groups) else groups,
        classifier=classifier,
        measure=measure,
        n_classes=n_classes,
        seed=derived_seed(plan.seed, fold, classifier),
    )
    probabilities = building.class_probabilities(fitted.estimator, features.X[held_out], n_classes)
    indexes = items[held_out].tolist()
    return FoldScores(
        dataset=dataset.digest,
        table=table,
        classifier=classifier,
        fold=fold,
        classes=dataset.classes,
        items=tuple(indexes),
        images=tuple(dataset.items[index].digest for index in indexes),
        labels=tuple(y[held_out].tolist()),
        probabilities=probabilities,
        measures=measures.compute(y[held_out], probabilities, n_classes),
        settings=fitted.settings,
    )
