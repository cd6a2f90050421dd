"""What the winner said about each image while the image was held out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from offshelf.errors import DataLoss

if TYPE_CHECKING:
    from collections.abc import Iterable

    from offshelf.datasets import Dataset
    from offshelf.scores import FoldScores


@dataclass(frozen=True, slots=True)
class Mistake:
    """An image that was taken for another class."""

    path: str
    true: str
    predicted: str
    probability: float
    """What the classifier gave the class it predicted, from 0 to 1."""


@dataclass(frozen=True, slots=True)
class Confusion:
    """Images of one class that were taken for another."""

    true: str
    predicted: str
    images: int


@dataclass(frozen=True)
class OutOfFoldPredictions:
    """Out-of-fold predictions of one combination: each image by a classifier that had not learned from it."""

    classes: tuple[str, ...]
    matrix: tuple[tuple[int, ...], ...]
    """Images by true class (rows) and predicted class (columns)."""
    mistakes: tuple[Mistake, ...]
    """The most confident first."""

    @classmethod
    def of(cls, dataset: Dataset, folds: Iterable[FoldScores]) -> OutOfFoldPredictions:
        """Gather the folds of a combination. The predicted class is the most probable; of equal ones the first.

        Raises
        ------
        DataLoss
            If the folds are not about this dataset, or two of them hold the same image.
        """
        classes = dataset.classes
        matrix = [[0] * len(classes) for _ in classes]
        mistakes = []
        seen: set[int] = set()
        for fold in folds:
            if fold.classes != classes:
                raise _not_of_dataset(fold)
            predicted_classes = fold.probabilities.argmax(axis=1).tolist()
            for row, (index, image, true, predicted) in enumerate(
                zip(fold.items, fold.images, fold.labels, predicted_classes, strict=True)
            ):
                known = index < len(dataset.items) and index not in seen
                if not known or (dataset.items[index].digest, dataset.targets[index]) != (image, true):
                    raise _not_of_dataset(fold)
                seen.add(index)
                matrix[true][predicted] += 1
                if predicted != true:
                    probability = float(fold.probabilities[row, predicted])
                    item = dataset.items[index]
                    mistakes.append(Mistake(item.path, item.label, classes[predicted], probability))
        mistakes.sort(key=lambda mistake: (-mistake.probability, mistake.path))
        return cls(classes, tuple(tuple(row) for row in matrix), tuple(mistakes))

    @cached_property
    def images(self) -> int:
        """How many images were predicted."""
        return sum(sum(row) for row in self.matrix)

    @cached_property
    def confusions(self) -> tuple[Confusion, ...]:
        """Pairs of classes that were confused at all, the most frequent first."""
        found = [
            Confusion(self.classes[true], self.classes[predicted], images)
            for true, row in enumerate(self.matrix)
            for predicted, images in enumerate(row)
            if images and true != predicted
        ]
        return tuple(sorted(found, key=lambda confusion: -confusion.images))


def _not_of_dataset(fold: FoldScores) -> DataLoss:
    return DataLoss(f"Fold {fold.fold} of the scores is not about the dataset of the comparison. Run again.")
