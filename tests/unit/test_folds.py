from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.model_selection import StratifiedKFold

from offshelf.datasets import Dataset, Item
from offshelf.errors import InvalidDataset, InvalidInput
from offshelf.scores import ValidationPlan
from offshelf.services.trainer.folds import assign_folds, group_numbers, hold_out, inner_folds

if TYPE_CHECKING:
    from collections.abc import Sequence


def dataset(labels: Sequence[str], groups: Sequence[str] = ()) -> Dataset:
    """Make a dataset with these labels."""
    return Dataset.of(
        Item(f"{index:04d}.png", label, groups[index] if groups else "", f"{index:064x}")
        for index, label in enumerate(labels)
    )


def test_every_fold_has_its_share_of_every_class() -> None:
    """Classes are spread evenly: thirty cats and fifteen dogs are six and three in each of five folds."""
    data = dataset(["cat"] * 30 + ["dog"] * 15)
    folds = assign_folds(data, ValidationPlan(5, seed=0))
    targets = np.asarray(data.targets)
    for fold in range(5):
        assert np.bincount(targets[folds == fold]).tolist() == [6, 3]


def test_folds_are_scikit_learns() -> None:
    """Whoever repeats a run with scikit-learn and the same seed gets the same folds."""
    data = dataset(list("ab" * 20))
    splitter = StratifiedKFold(4, shuffle=True, random_state=7)
    folds = assign_folds(data, ValidationPlan(4, seed=7))
    for fold, (_, held_out) in enumerate(splitter.split(np.zeros(40), data.targets)):
        assert np.flatnonzero(folds == fold).tolist() == held_out.tolist()


def test_any_seed_of_the_contract_works() -> None:
    """Seeds beyond scikit-learn's 32 bits are taken too, and give folds of their own."""
    data = dataset(list("ab" * 20))
    first, second = (assign_folds(data, ValidationPlan(4, seed=seed)) for seed in (1, 2**64 - 1))
    assert first.tolist() != second.tolist()


def test_groups_stay_together() -> None:
    """Images of one patient are never on both sides; an image without a group stands alone."""
    groups = [f"patient {index // 4}" for index in range(38)] + ["", ""]
    data = dataset(["a", "b"] * 20, groups)
    folds = assign_folds(data, ValidationPlan(4, seed=0))
    numbers = group_numbers(data)
    assert len(np.unique(numbers)) == 12
    for number in np.unique(numbers):
        assert len(np.unique(folds[numbers == number])) == 1


def test_too_few_images_or_groups_are_refused_with_the_fix() -> None:
    """A dataset that cannot be divided is an error of one line."""
    with pytest.raises(InvalidDataset, match="'b' has 3 images, too few for 4 folds"):
        assign_folds(dataset(["a"] * 9 + ["b"] * 3), ValidationPlan(4, seed=0))
    with pytest.raises(InvalidDataset, match="3 groups, too few or too uneven for 4 folds"):
        assign_folds(dataset(list("ab" * 12), ["x", "y", "z"] * 8), ValidationPlan(4, seed=0))
    with pytest.raises(InvalidDataset):
        assign_folds(dataset([]), ValidationPlan(2, seed=0))


def test_unusable_images_are_dropped_and_no_other_moves() -> None:
    """An image that one extractor cannot use changes nobody else's fold."""
    data = dataset(list("ab" * 20))
    plan = ValidationPlan(4, seed=0)
    items = np.array([index for index in range(40) if index not in {3, 11}])
    everything = assign_folds(data, plan)
    for fold in range(4):
        learn, held_out = hold_out(data, plan, fold, items)
        assert set(items[held_out]) == set(np.flatnonzero(everything == fold)) - {3, 11}
        assert sorted([*learn, *held_out]) == list(range(38))


def test_a_class_that_lost_its_images_is_named() -> None:
    """When too few images of a class can be used, the message says how many and what to do."""
    data = dataset(list("ab" * 10))
    items = np.array([index for index in range(20) if index % 2 == 0 or index == 1])
    with pytest.raises(InvalidDataset, match=r"'b' has 1 images that can be used \(9 are skipped\): replace"):
        hold_out(data, ValidationPlan(2, seed=0), 0, items)


def test_a_fold_that_lost_its_images_is_named() -> None:
    """When a held-out part is empty, the message says so."""
    data = dataset(list("ab" * 10))
    plan = ValidationPlan(5, seed=0)
    items = np.flatnonzero(assign_folds(data, plan) != 2)
    with pytest.raises(InvalidDataset, match="fold 3 of 5"):
        hold_out(data, plan, 2, items)
    with pytest.raises(InvalidInput, match="no fold 5"):
        hold_out(data, plan, 5, items)


def test_the_search_divides_as_often_as_it_can() -> None:
    """Three inner folds, fewer for a rare class, none where nothing would be left; groups stay together."""
    none = np.empty(0, dtype=np.intp)
    assert len(inner_folds(np.arange(30) % 2, none, 0)) == 3
    assert len(inner_folds(np.array([0] * 9 + [1] * 2), none, 0)) == 2
    assert inner_folds(np.array([0] * 9 + [1]), none, 0) == []
    groups = np.arange(30) // 5
    for fitted, held_out in inner_folds(np.arange(30) % 2, groups, 0):
        assert not set(groups[fitted]) & set(groups[held_out])
    assert inner_folds(np.arange(30) % 2, np.zeros(30, dtype=np.intp), 0) == []


def test_a_class_that_is_one_group_cannot_be_searched_away() -> None:
    """Where grouping would leave one class to fit on, that division is not used."""
    y = np.array([0] * 6 + [1] * 6)
    groups = np.array([0, 0, 1, 1, 2, 2] + [3] * 6)
    for fitted, _ in inner_folds(y, groups, 0):
        assert set(y[fitted]) == {0, 1}
