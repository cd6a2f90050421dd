"""A dataset as a client describes it: piece by piece, checked as it comes."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from offshelf.datasets import Dataset, Item
from offshelf.datasets.names import check_label, check_path, is_plain
from offshelf.digests import is_digest
from offshelf.errors import InvalidDataset, InvalidInput

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

MOST_ITEMS = 250_000
"""More than twice the 100,000 images that we are built for."""

MOST_TEXT_BYTES = 32 * 1024 * 1024
"""Of all paths, labels and groups together, in UTF-8: all are held in memory, several times while they are hashed."""

MOST_CLASS_BYTES = 1024 * 1024
"""Of the names of all classes together, in UTF-8: lists show them, and keep those of all datasets in memory."""

_LONGEST_NAME = 200


class Draft:
    """What has come of a dataset so far."""

    def __init__(self, most_items: int = MOST_ITEMS) -> None:
        self._most_items = most_items
        self.name = ""
        self._items: dict[str, Item] = {}
        self._labels: dict[str, str] = {}
        self._text_bytes = 0

    def begin(self, name: str) -> None:
        """Take what comes first: what people call the dataset.

        Raises
        ------
        InvalidInput
            If it cannot be shown, or came before.
        """
        if self.name:
            raise InvalidInput("A dataset has one header, which comes first.")
        if not name.strip() or not is_plain(name) or len(name) > _LONGEST_NAME:
            raise InvalidInput(f"A dataset needs a name of one line with at most {_LONGEST_NAME} characters.")
        self.name = name

    def add(self, items: Iterable[Item]) -> None:
        """Take images.

        Raises
        ------
        InvalidInput
            If one cannot be part of a dataset, or there are too many.
        """
        if not self.name:
            raise InvalidInput("A dataset begins with its header, which gives it a name.")
        for item in items:
            self._check(item)
            # Equal texts once: 100,000 images have few labels.
            label = self._labels.setdefault(item.label, item.label)
            group = self._labels.setdefault(item.group, item.group)
            self._items[item.path] = Item(item.path, label, group, item.digest)

    def finish(self, *, stop: threading.Event) -> Dataset:
        """Make the dataset of what has come. Blocks for a while with many images.

        Raises
        ------
        InvalidInput
            If it has no header or no images. One class is enough for features; a run that compares looks itself.
        """
        del stop
        if not self.name:
            raise InvalidInput("A dataset begins with its header, which gives it a name.")
        if not self._items:
            raise InvalidDataset("The dataset has no images: add some to its class folders.")
        dataset = Dataset.of(self._items.values())
        if dataset.classes and not all(dataset.labels):
            raise InvalidDataset("Some images have a label and some have none: give one to each, or to none.")
        if sum(len(label.encode()) for label in dataset.classes) > MOST_CLASS_BYTES:
            raise InvalidDataset(
                f"The names of the dataset's {len(dataset.classes)} classes have more than {MOST_CLASS_BYTES} bytes "
                "together: give them shorter names."
            )
        _ = dataset.digest  # computed here, in a thread, and kept
        return dataset

    def _check(self, item: Item) -> None:
        if posixpath.normpath(check_path(item.path)) != item.path:
            raise InvalidDataset(f"The path {item.path!r} has empty parts or '.': write it without them.")
        if item.path in self._items:
            raise InvalidDataset(f"{item.path!r} is there twice: give each image a path of its own.")
        if item.label:
            check_label(item.label, where=f"The label of {item.path!r},")
        if item.group:
            check_label(item.group, where=f"The group of {item.path!r},")
        if not is_digest(item.digest):
            raise InvalidInput(f"The image of {item.path!r} is named by its SHA-256, which has 32 bytes.")
        self._text_bytes += sum(len(text.encode()) for text in (item.path, item.label, item.group))
        if len(self._items) >= self._most_items:
            raise InvalidDataset(f"A dataset has at most {self._most_items} images: divide it.")
        if self._text_bytes > MOST_TEXT_BYTES:
            raise InvalidDataset(
                f"The paths, labels and groups of a dataset have at most {MOST_TEXT_BYTES} bytes together: give its "
                "files shorter names, or divide it."
            )
