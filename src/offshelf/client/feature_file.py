"""The file that `offshelf extract` writes: whole or not at all, and beside it what is missing in it."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from offshelf.client import outputs
from offshelf.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

FEATURES_FILE = "features.parquet"
SKIPPED_FILE = "skipped.csv"
"""What the artefacts of a run are called."""

_PARQUET = b"PAR1"
_SKIPPED = b"path,extractor,status,reason"
"""How they begin: nothing else is replaced."""


def skipped_beside(path: Path) -> Path:
    """Name the file that lists what is missing: "pets.skipped.csv" beside "pets.parquet"."""
    return path.with_name(f"{path.stem}.{SKIPPED_FILE}")


def check_file(path: Path, *, overwrite: bool) -> None:
    """Make sure that a file can be written, before any work is done for it.

    Raises
    ------
    Conflict
        If it is there and may not be replaced, as of the list beside it; if it is a folder; or if its folder cannot be
        written to.
    """
    for each, begins in ((path, _PARQUET), (skipped_beside(path), _SKIPPED)):
        if each.is_dir():
            raise Conflict(f"{each} is a folder: name a file with -o.")
        if os.path.lexists(each) and not overwrite:
            raise Conflict(f"{each} exists: name another file with -o, or replace it with --overwrite.")
        if os.path.lexists(each) and not _begins(each, begins):
            raise Conflict(f"{each} was not written by Offshelf, so it is not replaced: name another file with -o.")
    outputs.check_above(path)


def _begins(path: Path, with_: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(with_)) in {b"", with_}
    except OSError:
        return False


def save(path: Path, read: Callable[[str], Iterable[bytes]], *, overwrite: bool) -> Path:
    """Write the features, and beside them the list of what is missing if anything is.

    Parameters
    ----------
    path
        The file. Folders on its way are made.
    read
        Yields the bytes of an artefact, by its name.
    overwrite
        Replace what is there.

    Raises
    ------
    Conflict
        As `check_file`, and if the file system refuses.
    ResourceExhausted
        If the disk is full.
    OffshelfError
        What `read` raises; nothing is left then.
    """
    check_file(path, overwrite=overwrite)
    skipped = b"".join(read(SKIPPED_FILE))
    partial = outputs.sibling(path, "partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("xb") as file:
            for chunk in read(FEATURES_FILE):
                file.write(chunk)
        check_file(path, overwrite=overwrite)  # somebody may have come first while it was read
        beside = skipped_beside(path)
        if skipped.count(b"\n") > 1:  # more than its header
            beside.write_bytes(skipped)
        else:
            beside.unlink(missing_ok=True)
        partial.replace(path)
    except OSError as error:
        raise outputs.refused(path, error, "file") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    return path
