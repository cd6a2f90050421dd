"""What paths, labels and groups inside a dataset may look like.

A path is relative, with "/" between its parts, and kept as it was found: Unicode is not normalized, so that the path
still names the file. (macOS may write "é" as two characters where Linux has one: the datasets then differ.)
"""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

from offshelf.errors import InvalidDataset

if TYPE_CHECKING:
    from collections.abc import Iterable

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm", ".pbm"})
"""A file in a class folder is taken for an image if its name ends so, in capitals or not."""

# Control characters, halves of surrogate pairs (which stand for bytes that are not UTF-8) and line separators: they
# break one-line messages, JSON or CSV.
_UNSAFE_CATEGORIES = frozenset({"Cc", "Cs", "Zl", "Zp"})


def has_image_suffix(name: str) -> bool:
    """Tell whether a file of this name is taken for an image."""
    dot = name.rfind(".")
    return dot > 0 and name[dot:].lower() in IMAGE_SUFFIXES


def is_hidden(name: str) -> bool:
    """Tell whether a file or folder is none of the user's: hidden, or put into zips by macOS."""
    return name.startswith(".") or name == "__MACOSX"


def is_plain(text: str) -> bool:
    """Tell whether a text can stand in one line of UTF-8."""
    return text.isprintable() or not any(unicodedata.category(character) in _UNSAFE_CATEGORIES for character in text)


def check_path(path: str) -> str:
    """Return a path from outside if it can only name something inside the dataset.

    Raises
    ------
    InvalidDataset
        If it is absolute, holds ``..``, or is not plain text.
    """
    if not is_plain(path):
        raise InvalidDataset(
            f"The file name {path!a} holds control characters or is not UTF-8: rename the file and try again."
        )
    parts = path.split("/")
    has_drive = len(parts[0]) == 2 and parts[0][1] == ":"  # noqa: PLR2004 - "C:", as Windows writes it
    if not path or path.startswith("/") or has_drive or ".." in parts:
        raise InvalidDataset(
            f"The path {path!r} leaves the dataset: paths must be relative, without '..', and stay inside it."
        )
    return path


def check_label(label: str, *, where: str) -> str:
    """Return a label, or a group, if it can be used.

    Parameters
    ----------
    label
        Any text that is not empty.
    where
        Where it stands, to begin the message with: "Class folder", "Line 3 of x.csv: label".

    Raises
    ------
    InvalidDataset
        If it is empty or not plain text.
    """
    if not label.strip():
        raise InvalidDataset(f"{where} {label!r} is empty: give it a name.")
    if not is_plain(label):
        raise InvalidDataset(f"{where} {label!a} holds control characters or is not UTF-8: rename it.")
    return label


def check_class_folders(found: Iterable[str], used: set[str], *, shown: str) -> None:
    """Refuse class folders in which no image was found, and a dataset without any.

    Parameters
    ----------
    found
        Names of all class folders.
    used
        Names of those that hold at least one image.
    shown
        The dataset as the user named it.
    """
    empty = sorted(set(found) - used)
    if not used:
        kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise InvalidDataset(f"{shown!r} has class folders but no images in them ({kinds}).")
    if empty:
        more = f" (nor do {len(empty) - 1} more class folders)" if len(empty) > 1 else ""
        raise InvalidDataset(f"The class folder {empty[0]!r} holds no images{more}: add some, or remove the folder.")
