from __future__ import annotations

import numpy as np
import pytest

from offshelf import measures, scores
from offshelf.datasets import Dataset, Item
from offshelf.errors import InvalidDataset, UnknownName
from offshelf.estimators import building, persistence, registry
from offshelf.features import Features
from offshelf.scores import FoldScores, ValidationPlan
from offshelf.services.trainer.evaluation import evaluate_fold
from offshelf.services.trainer.fitting import derived_seed, fit_model, fit_procedure

PLAN = ValidationPlan(folds=3, seed=0)


def problem(n: int = 48, k: int = 3, grouped: bool = False) -> tuple[Dataset, Features]:  # noqa: FBT001, FBT002
    """Make a dataset of k classes, and features that tell them apart."""
    rng = np.random.default_rng(0)
    data = Dataset.of(
        Item(f"{index:04d}.png", f"class {index % k}", f"g{index // 4}" if grouped else "", f"{index:064x}")
        for index in range(n)
    )
    X = rng.normal(size=(n, 5)) + 2.0 * np.eye(k, 5)[list(data.targets)]
    return data, Features(X=X.astype(np.float32), items=tuple(range(n)), skipped=())


def without(features: Features, *skipped: int) -> Features:
    """Drop items."""
    keep = [index for index in features.items if index not in skipped]
    return Features(X=features.X[keep], items=tuple(keep), skipped=())


def evaluate(data: Dataset, features: Features, classifier: str, fold: int = 0) -> FoldScores:
    """Evaluate a classifier on a fold."""
    return evaluate_fold(features, data, PLAN, table="t" * 64, fold=fold, classifier=classifier, measure="accuracy")


@pytest.mark.parametrize("classifier", list(registry.CLASSIFIERS))
@pytest.mark.parametrize("grouped", [False, True])
def test_each_classifier_is_scored_on_images_it_has_not_seen(classifier: str, grouped: bool) -> None:  # noqa: FBT001
    """Every image is held out once, with a probability for each class and all measures."""
    data, features = problem(grouped=grouped)
    folds = [evaluate(data, features, classifier, fold) for fold in range(3)]
    assert sorted(item for fold in folds for item in fold.items) == list(range(48))
    for fold in folds:
        assert fold.probabilities.shape == (len(fold.items), 3)
        assert fold.images == tuple(data.items[item].digest for item in fold.items)
        assert fold.labels == tuple(data.targets[item] for item in fold.items)
        assert fold.measures == measures.compute(fold.labels, fold.probabilities, 3)
        assert fold.settings in registry.find(classifier).space
    assert np.mean([fold.measures["accuracy"] for fold in folds]) > 0.6


@pytest.mark.parametrize("classifier", list(registry.CLASSIFIERS))
def test_the_same_seed_gives_the_same_bytes(classifier: str) -> None:
    """Scores are equal to the last byte however often they are computed."""
    data, features = problem()
    first, second = (scores.encode_fold("0" * 64, evaluate(data, features, classifier)) for _ in range(2))
    assert first == second


def test_skipped_images_are_in_nobodys_scores() -> None:
    """An image without features is neither learned from nor predicted."""
    data, features = problem()
    held_out = evaluate(data, features, "LR").items
    found = evaluate(data, without(features, held_out[0]), "LR")
    assert found.items == held_out[1:]


def test_held_out_images_change_nothing_that_is_learned() -> None:
    """Scaling and search see the training part only: other held-out features leave the model as it was."""
    data, features = problem()
    fold = evaluate(data, features, "SVM")
    X = features.X.copy()
    X[fold.items[0]] = 1e6
    altered = evaluate(data, Features(X=X, items=features.items, skipped=()), "SVM")
    assert np.array_equal(altered.probabilities[1:], fold.probabilities[1:])


def test_a_class_missing_in_training_keeps_its_column() -> None:
    """When the training part lost a class, its probability is 0 and its images count as errors."""
    data, features = problem(k=3)
    held_out = evaluate(data, features, "LR").items
    gone = [index for index in range(48) if data.targets[index] == 1 and index not in held_out]
    fold = evaluate(data, without(features, *gone), "LR")
    assert fold.probabilities.shape[1] == 3
    assert not fold.probabilities[:, 1].any()
    assert fold.measures["recall"] < 0.7


def test_one_class_to_learn_from_is_refused() -> None:
    """When nothing is left to tell apart, the message names the fold and the fix."""
    data, features = problem(k=2)
    held_out = evaluate(data, features, "LR").items
    gone = [index for index in range(48) if data.targets[index] == 1 and index not in held_out]
    with pytest.raises(InvalidDataset, match="fold 1 of 3"):
        evaluate(data, without(features, *gone), "LR")


def test_unknown_names_are_refused() -> None:
    """An unknown classifier or measure is an error of one line."""
    data, features = problem()
    with pytest.raises(UnknownName):
        evaluate(data, features, "XGB")
    with pytest.raises(UnknownName):
        evaluate_fold(features, data, PLAN, table="t" * 64, fold=0, classifier="LR", measure="accurate")


def test_equally_good_settings_give_the_simplest() -> None:
    """When every setting is perfect, the first of the list is taken; also when there is too little to search."""
    y = np.arange(30) % 2
    X = (y[:, None] * 100.0 + np.random.default_rng(0).normal(size=(30, 2))).astype(np.float32)
    none = np.empty(0, dtype=np.intp)
    for classifier in ("SVM", "KNN", "LR"):
        for rows in (slice(None), slice(0, 3)):
            found = fit_procedure(X[rows], y[rows], none, classifier=classifier, measure="f1", n_classes=2, seed=0)
            assert found.settings == building.search_space(classifier)[0]


def test_the_search_takes_the_better_setting() -> None:
    """Classes that no straight boundary divides get a curved one."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(200, 2))
    y = ((X**2).sum(axis=1) > 1.2).astype(np.intp)
    none = np.empty(0, dtype=np.intp)
    found = fit_procedure(X, y, none, classifier="SVM", measure="balanced_accuracy", n_classes=2, seed=0)
    assert found.settings["kernel"] == "rbf"


def test_seeds_are_the_same_everywhere() -> None:
    """A seed depends on what it is for and on nothing of the process; written down here to stay so."""
    assert derived_seed(0, 1, "RF") == derived_seed(0, 1, "RF") == 2087108573
    assert derived_seed(0, 1, "RF") != derived_seed(0, 1, "GB")


def test_the_chosen_procedure_is_fitted_on_all_images() -> None:
    """The model's card says what was done, and its file holds an estimator that knows all classes."""
    data, features = problem()
    features = without(features, 5)
    card, file = fit_model(
        features,
        data,
        digest="0" * 64,
        table="1" * 64,
        fingerprint="2" * 64,
        extractor="hog",
        classifier="LR",
        measure="accuracy",
        seed=0,
    )
    assert (card.images, card.classes, card.dataset) == (47, data.classes, data.digest)
    assert "LR" in card.made_by
    assert "47 images" in card.made_by
    estimator = persistence.load(file)
    assert (
        building.class_probabilities(estimator, features.X, 3).argmax(axis=1) == np.delete(data.targets, 5)
    ).mean() > 0.8
