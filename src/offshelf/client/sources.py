"""What users name as a dataset: something on this machine, on the server, in a bucket, or uploaded before."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from offshelf.client import wire
from offshelf.digests import is_digest
from offshelf.errors import InvalidDataset, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.client.dataset_gateway import DatasetGateway
    from offshelf.client.records import Dataset, SkippedImage, UploadProgress

ON_SERVER = wire.ON_SERVER
"""Begins the path of a dataset that lies where the server is."""

UPLOADED = "dataset:"
"""Begins the digest of a dataset in the store."""

IN_BUCKET = "s3://"

SHORTEST_DIGEST = 8
"""Digits of a digest that are enough, if no other begins so."""

_SHORT_DIGEST = re.compile(r"[0-9a-f]{8,63}")
_SHOWN = 12
_MOST_SHOWN = 5


def bring(
    gateway: DatasetGateway,
    dataset: str,
    *,
    folds: int | None,
    upload_to: str,
    on_progress: Callable[[UploadProgress], None] | None = None,
) -> tuple[str, tuple[SkippedImage, ...]]:
    """Make sure that the services can read what a user names as a dataset.

    Parameters
    ----------
    folds
        What it shall be enough for; None if nothing is compared.
    upload_to
        The server, if it has other files than this machine; otherwise empty.
    on_progress
        Told of an upload.

    Returns
    -------
    str
        What the services call it.
    tuple[SkippedImage, ...]
        Images that could not be uploaded.

    Raises
    ------
    InvalidDataset
        If it cannot be used.
    """
    if dataset.startswith(ON_SERVER):
        return check_on_server(dataset), ()
    if dataset.startswith(UPLOADED):
        return f"{UPLOADED}{find_dataset(gateway, dataset).digest}", ()
    if dataset.startswith(IN_BUCKET):
        return dataset, ()
    if not upload_to:
        # Services on this machine read it where it is. They were started elsewhere, perhaps by another client. An empty
        # name is refused, and is not the folder we happen to be in.
        return absolute(dataset) if dataset else dataset, ()
    from offshelf.client.uploading import upload

    made = upload(gateway, local_uri(dataset, upload_to), folds=folds, on_progress=on_progress)
    return f"{UPLOADED}{made.digest}", made.skipped


def absolute(path: str) -> str:
    """Return a local path from the root. Links are for whoever opens it to judge."""
    # A "~" of nobody's, at which pathlib fails, is a name like any other.
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111


def check_on_server(dataset: str) -> str:
    """Return "server:/path" if it is one.

    Raises
    ------
    InvalidDataset
        If the path is not absolute.
    """
    if not dataset.removeprefix(ON_SERVER).startswith("/"):
        raise InvalidDataset(f"{dataset!r} is not the path of a dataset on the server: write server:/path.")
    return dataset


def local_uri(path: str, server: str) -> str:
    """Find out what kind of dataset a local path is, to upload it.

    Raises
    ------
    InvalidDataset
        If there is nothing, or something else.
    """
    from offshelf import datasets

    if path and not os.path.lexists(absolute(path)):
        raise InvalidDataset(
            f"{path!r} does not exist on this machine, so it cannot be uploaded to {server}. A folder that the server "
            "itself can read is named server:/path; s3://bucket/prefix and dataset:DIGEST name what it has."
        )
    return datasets.source_uri(absolute(path) if path else path)


def find_dataset(gateway: DatasetGateway, name: str) -> Dataset:
    """Find a dataset by its digest, by the beginning of its digest, or by its name.

    Raises
    ------
    NotFound
        If there is none.
    InvalidInput
        If there are several.
    """
    name = name.removeprefix(UPLOADED)
    if is_digest(name):
        return gateway.get(name)
    known = list(gateway.list())
    found = [dataset for dataset in known if dataset.name == name]
    if _SHORT_DIGEST.fullmatch(name):
        found = [dataset for dataset in known if dataset.digest.startswith(name)] or found
    if not found:
        raise NotFound(
            f"There is no dataset {name!r}: name one as `offshelf datasets list` shows it, by its name or by at least "
            f"{SHORTEST_DIGEST} digits of its digest."
        )
    if len(found) > 1:
        shown = ", ".join(dataset.digest[:_SHOWN] for dataset in found[:_MOST_SHOWN])
        raise InvalidInput(f"{len(found)} datasets are called {name!r}: name one by its digest ({shown}).")
    return found[0]
