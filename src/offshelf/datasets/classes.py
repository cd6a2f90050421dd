"""Whether the classes of a dataset are enough for cross-validation."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Protocol

from offshelf.errors import InvalidDataset, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

FEWEST = 2
"""Fewest classes, folds, and images (or groups) of a class that can be divided into training and test."""


class Labelled(Protocol):
    """An `Entry` or an `Item`."""

    @property
    def label(self) -> str: ...  # noqa: D102 - said by the class

    @property
    def group(self) -> str: ...  # noqa: D102 - said by the class


def check_classes(entries: Iterable[Labelled], folds: int) -> None:
    """Refuse a dataset that cannot be cross-validated.

    Every fold must be able to hold an image of each class: so a class needs as many images as there are folds, and as
    many groups if images are grouped.

    Parameters
    ----------
    entries
        All images.
    folds
        Number of folds.

    Raises
    ------
    InvalidInput
        If there are fewer than two folds.
    InvalidDataset
        If there is no image, only one class, or a class with fewer images (or groups) than folds. The message names
        the smallest class and the number of folds that would fit.
    """
    if folds < FEWEST:
        raise InvalidInput(f"--folds {folds} is too few: cross-validation needs 2 or more.")
    images: dict[str, int] = defaultdict(int)
    groups: dict[str, set[str]] = defaultdict(set)
    for entry in entries:
        images[entry.label] += 1
        if entry.group:
            groups[entry.label].add(entry.group)
    check_any(images)
    if "" in images:
        raise InvalidDataset("The images have no labels, so nothing can be compared: put them into one folder a class.")
    if len(images) < FEWEST:
        raise InvalidDataset(f"The dataset has one class, {next(iter(images))!r}: add a folder of another class.")
    _check_counts(images, folds, "images")
    _check_counts({label: len(names) for label, names in groups.items()}, folds, "groups")


def check_any(images: Collection[object]) -> None:
    """Refuse a dataset without images, of which nothing can be made at all. Raises `InvalidDataset`."""
    if not images:
        raise InvalidDataset("The dataset holds no images: add some.")


def _check_counts(counts: dict[str, int], folds: int, what: str) -> None:
    short = sorted((count, label) for label, count in counts.items() if count < folds)
    if not short:
        return
    count, label = short[0]
    held = f"{count} {what if count != 1 else what[:-1]}"
    others = len(short) - 1
    more = f" ({others} more {'classes have' if others > 1 else 'class has'} too few)" if others else ""
    fix = f"use --folds {count}, or add {what}" if count >= FEWEST else f"add {what} (2 at least), or leave it out"
    raise InvalidDataset(f"The class {label!r} has {held}, fewer than the {folds} folds{more}: {fix}.")
