"""From what a user names to a source of images."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from offshelf.datasets.archive import ZipSource
from offshelf.datasets.folder import FolderSource
from offshelf.datasets.names import is_plain
from offshelf.datasets.stored import StoreSource
from offshelf.datasets.table import TableSource
from offshelf.errors import InvalidDataset, InvalidInput, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offshelf.datasets.model import Dataset, ImageSource
    from offshelf.store.objects import ObjectStore


def source_uri(path: str, *, roots: tuple[Path, ...] | None = None) -> str:
    """Find out what kind of dataset a path is.

    Parameters
    ----------
    path
        A folder, a zip or a CSV. A relative path starts at this process' working directory.
    roots
        Folders that paths must lie in; None for any.

    Returns
    -------
    str
        "folder:/abs", "zip:/abs.zip" or "csv:/abs.csv".

    Raises
    ------
    InvalidDataset
        If there is nothing, or something else.
    PermissionDenied
        If it lies outside the roots; whether it exists is then not looked at.
    """
    if not path or not is_plain(path):
        raise InvalidDataset(f"{path!a} cannot be the path of a dataset: name a folder, a .zip or a .csv.")
    absolute = os.path.abspath(path)  # noqa: PTH100 - Path.absolute would keep ".."
    real = _resolve(absolute, roots)
    if os.path.isdir(real):  # noqa: PTH112 - a text, as everywhere here
        return f"folder:{absolute}"
    if not os.path.exists(real):  # noqa: PTH110
        raise InvalidDataset(f"{absolute!r} does not exist: name a folder, a .zip or a .csv.")
    suffix = os.path.splitext(absolute)[1].lower()  # noqa: PTH122
    if suffix not in {".zip", ".csv"}:
        raise InvalidDataset(f"{absolute!r} is neither a folder nor a .zip nor a .csv.")
    return f"{suffix[1:]}:{absolute}"


def display_name(uri: str) -> str:
    """Give a dataset a name for titles: "pets" for "zip:/data/pets.zip"."""
    kind, _, path = uri.partition(":")
    name = os.path.basename(path.rstrip("/"))  # noqa: PTH119
    return (name if kind == "folder" else os.path.splitext(name)[0]) or "images"  # noqa: PTH122


def open_source(
    uri: str, *, roots: tuple[Path, ...] | None, store: ObjectStore | None = None, dataset: Dataset | None = None
) -> ImageSource:
    """Open a source of images.

    Parameters
    ----------
    uri
        "folder:/abs", "zip:/abs.zip", "csv:/abs.csv", as `source_uri` gives, or "store:".
    roots
        Folders that paths must lie in, links resolved; None for any.
    store, dataset
        Needed by "store:" alone: where the images are, and which ones.

    Raises
    ------
    InvalidInput
        If the URI has another form, or the store or the dataset is missing.
    InvalidDataset
        If the file or folder cannot be used.
    PermissionDenied
        If it lies outside the roots.
    """
    kind, _, path = uri.partition(":")
    if uri == "store:":
        if store is None or dataset is None:
            raise InvalidInput("Images in the store can only be read with the store and the dataset's manifest.")
        return StoreSource(store, dataset)
    kinds: dict[str, Callable[[str, str], ImageSource]] = {"folder": FolderSource, "zip": ZipSource, "csv": TableSource}
    if kind not in kinds or not path.startswith("/") or not is_plain(path):
        raise InvalidInput(f"{uri!a} is no source of images: folder:/path, zip:/path.zip and csv:/path.csv are.")
    return kinds[kind](path, _resolve(path, roots))


def _resolve(path: str, roots: tuple[Path, ...] | None) -> str:
    real = os.path.realpath(path)
    if roots is not None:
        allowed = [os.path.realpath(root) for root in roots]
        if not any(real == root or real.startswith(root.rstrip("/") + "/") for root in allowed):
            raise PermissionDenied(
                f"{path!r} is not in a folder that this server reads datasets from: "
                "move it there, or add its folder to OFFSHELF_DATA_ROOTS."
            )
    return real
