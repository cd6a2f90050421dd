"""From what a user names to a source of images."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from offshelf.datasets.archive import ZipSource
from offshelf.datasets.bucket import BucketSource, check_bucket
from offshelf.datasets.folder import FolderSource
from offshelf.datasets.model import read_dataset
from offshelf.datasets.names import is_plain
from offshelf.datasets.stored import StoreSource
from offshelf.datasets.table import TableSource
from offshelf.digests import is_digest
from offshelf.errors import InvalidDataset, InvalidInput, PermissionDenied

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.datasets.model import Dataset, ImageSource
    from offshelf.store.objects import ObjectStore


def source_uri(path: str, *, roots: tuple[Path, ...] | None = None, buckets: tuple[str, ...] = ()) -> str:
    """Find out what kind of dataset a user has named.

    Parameters
    ----------
    path
        A folder, a zip or a CSV, where a relative path starts at this process' working directory; "s3://bucket/prefix";
        or "dataset:" and the digest of a dataset that was uploaded.
    roots
        Folders that paths must lie in; None for any.
    buckets
        What an address of a bucket must lie under: "s3://bucket" or "s3://bucket/prefix" each.

    Returns
    -------
    str
        "folder:/abs", "zip:/abs.zip", "csv:/abs.csv", "s3://bucket/prefix" or "store:DIGEST".

    Raises
    ------
    InvalidDataset
        If there is nothing, or something else. Buckets and uploaded datasets are not looked at.
    PermissionDenied
        If it lies outside the roots or the buckets; whether it exists is then not looked at.
    """
    if path.startswith("dataset:"):
        digest = path.removeprefix("dataset:")
        if not is_digest(digest):
            raise InvalidDataset(f"{path!a} names no dataset: 'dataset:' is followed by a digest of 64 digits.")
        return f"store:{digest}"
    if path.startswith("s3://"):
        return check_bucket(path.rstrip("/"), buckets)
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
    """Give a dataset a name for titles: "pets" for "zip:/data/pets.zip". The name of an uploaded one is on its card."""
    kind, _, path = uri.partition(":")
    if kind == "store":
        return "images"
    name = os.path.basename(path.rstrip("/"))  # noqa: PTH119
    return (name if kind in {"folder", "s3"} else os.path.splitext(name)[0]) or "images"  # noqa: PTH122


def open_source(
    uri: str,
    *,
    roots: tuple[Path, ...] | None,
    store: ObjectStore | None = None,
    dataset: Dataset | None = None,
    buckets: tuple[str, ...] = (),
    labelled: bool = True,
) -> ImageSource:
    """Open a source of images.

    Parameters
    ----------
    uri
        As `source_uri` gives: "folder:/abs", "zip:/abs.zip", "csv:/abs.csv", "s3://bucket/prefix", "store:DIGEST".
    roots
        Folders that paths must lie in, links resolved; None for any.
    store
        Needed by "store:" alone, to read images from; and if it is in S3, buckets are looked for on the same server.
    dataset
        The dataset of a "store:", if it is at hand; else its manifest is read from the store.
    buckets
        What an address of a bucket must lie under; see `source_uri`.
    labelled
        Whether images must have labels. Otherwise images without class folders, and a CSV of paths alone, can be listed
        too: all of them then have the label "".

    Raises
    ------
    InvalidInput
        If the URI has another form, the store is missing, or there are no keys for a bucket.
    InvalidDataset
        If the file or folder cannot be used.
    NotFound, DataLoss
        If the store has no such dataset, or its manifest is damaged.
    PermissionDenied
        If it lies outside the roots or the buckets.
    """
    kind, _, path = uri.partition(":")
    if kind == "store" and is_digest(path):
        if store is None:
            raise InvalidInput("Images in the store can only be read with the store.")
        known = dataset is not None and dataset.digest == path
        return StoreSource(store, dataset if dataset is not None and known else read_dataset(store, path))
    if uri.startswith("s3://"):
        return BucketSource.open(
            check_bucket(uri, buckets), beside="" if store is None else store.url, labelled=labelled
        )
    kinds: dict[str, type[FolderSource | ZipSource | TableSource]] = {
        "folder": FolderSource,
        "zip": ZipSource,
        "csv": TableSource,
    }
    if kind not in kinds or not os.path.isabs(path) or not is_plain(path):  # noqa: PTH117 - a text, as everywhere here
        raise InvalidInput(
            f"{uri!a} is no source of images: folder:/path, zip:/path.zip, csv:/path.csv, s3://bucket/path and "
            "store:DIGEST are."
        )
    return kinds[kind](path, _resolve(path, roots), labelled=labelled)


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
