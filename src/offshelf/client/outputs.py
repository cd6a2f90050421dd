"""Folders that the client writes: whole or not at all, and never over somebody's files."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from offshelf.client.records import RunSpec
from offshelf.errors import Conflict, DataLoss, InvalidInput, NotFound, ResourceExhausted
from offshelf.runs import RunFetch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from offshelf.errors import OffshelfError

RUN_FILE = "run.json"
MODEL_FOLDER = "model"
MODEL_FILE = "model.skops"
CARD_FILE = "model.json"
CLIENT_KEY = "client"
"""Where `run.json` says what `offshelf fit OUT` needs. Its presence marks a folder as one that Offshelf wrote."""

_OURS = {RUN_FILE, "report.html", "table.csv", "scores.parquet", "skipped.csv", "features.parquet"}
_OUR_MODELS = re.compile(r"model(-.+)?")
_LITTER = {".DS_Store", "Thumbs.db"}
_PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.=+-]*")
_DEEPEST = 3


def check_folder(folder: Path, *, overwrite: bool) -> None:
    """Make sure that a folder can be written, before any work is done for it.

    Parameters
    ----------
    folder
        Where the output shall go.
    overwrite
        Accept a folder that is empty, or one that holds nothing but an earlier output.

    Raises
    ------
    Conflict
        If something is there that may not be replaced.
    """
    if os.path.lexists(folder):
        if not overwrite:
            raise Conflict(f"{folder} exists: name another folder with -o, or replace it with --overwrite.")
        _check_replaceable(folder)
    check_above(folder)


def check_above(path: Path) -> None:
    """Make sure that something can be written in the folder of a path, which may have to be made. Raises `Conflict`."""
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise Conflict(f"{path} cannot be written: {above} is not a folder that you may write to.")


def _check_replaceable(folder: Path) -> None:
    if not folder.is_dir():
        raise Conflict(f"{folder} is not a folder, so it is not replaced: name another one with -o.")
    names = {entry.name for entry in folder.iterdir()} - _LITTER
    if not names or names == {CARD_FILE, MODEL_FILE}:
        return
    if CLIENT_KEY not in read_run_file(folder):
        raise Conflict(f"{folder} was not written by Offshelf, so it is not replaced: name another folder with -o.")
    strange = sorted(name for name in names if name not in _OURS and not _OUR_MODELS.fullmatch(name))
    if strange:
        raise Conflict(f"{folder} holds {strange[0]}, which is not Offshelf's, so it is not replaced: move it away.")


def read_run_file(folder: Path) -> dict[str, Any]:
    """Read the `run.json` of an output folder; empty if there is none, or none of ours."""
    try:
        document = json.loads((folder / RUN_FILE).read_bytes())
    except (OSError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


@contextmanager
def new_folder(folder: Path, *, overwrite: bool) -> Iterator[Path]:
    """Give a temporary folder that takes the place of `folder` when the block ends well, and vanishes otherwise.

    Raises
    ------
    Conflict
        As `check_folder`, and if the file system refuses.
    ResourceExhausted
        If the disk is full.
    """
    check_folder(folder, overwrite=overwrite)
    shown, folder = folder, folder.resolve()  # a link to a folder stays a link
    partial = sibling(folder, "partial")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial.mkdir()
        yield partial
        _put_in_place(partial, folder, overwrite=overwrite)
    except OSError as error:
        raise refused(shown, error) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def refused(output: Path, error: OSError, what: str = "folder") -> OffshelfError:
    """Say in words why the file system refused an output, which is a folder or "file"."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ResourceExhausted(
            f"{output} cannot be written, the disk is full: free some space, then run the same command again."
        )
    return Conflict(f"{output} cannot be written ({error.strerror or error}): name another {what} with -o.")


def _put_in_place(partial: Path, folder: Path, *, overwrite: bool) -> None:
    if not folder.exists():
        partial.rename(folder)
        return
    check_folder(folder, overwrite=overwrite)  # somebody may have come first while the work was going on
    aside = sibling(folder, "replaced")
    folder.rename(aside)
    try:
        partial.rename(folder)
    except OSError:
        aside.rename(folder)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def sibling(folder: Path, purpose: str) -> Path:
    """Name something that is beside an output for as long as it is being written."""
    return folder.parent / f".{folder.name}.{secrets.token_hex(4)}.{purpose}"


def write_artifact(folder: Path, name: str, chunks: Iterable[bytes]) -> None:
    """Write one artefact inside a folder.

    Raises
    ------
    DataLoss
        If the name, which comes from a server, could lead out of the folder.
    """
    parts = name.split("/")
    if len(parts) > _DEEPEST or not all(_PART.fullmatch(part) for part in parts):
        raise DataLoss(f"The server names an artefact {name!r}, which is not safe to write: nothing was written.")
    path = folder.joinpath(*parts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as file:
        for chunk in chunks:
            file.write(chunk)


def add_client(folder: Path, client: dict[str, Any]) -> None:
    """Note in `run.json` what is needed to go on from this folder."""
    path = folder / RUN_FILE
    document = {**read_run_file(folder), CLIENT_KEY: client}
    path.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def model_folder(path: Path) -> Path:
    """Find the model folder in an output folder, or the folder itself if it is one.

    Raises
    ------
    NotFound
        If there is nothing of this name.
    InvalidInput
        If it holds no model.
    """
    for candidate in (path, path / MODEL_FOLDER):
        if (candidate / CARD_FILE).is_file() and (candidate / MODEL_FILE).is_file():
            return candidate
    if not path.exists():
        raise NotFound(f"There is no {path}: name the output folder of `offshelf run`, or a model folder in it.")
    raise InvalidInput(f"{path} holds no model ({CARD_FILE} and {MODEL_FILE}): name the output folder of a run.")


def read_chunks(path: Path, size: int = 1 << 20) -> Iterator[bytes]:
    """Yield a file in chunks."""
    with path.open("rb") as file:
        while chunk := file.read(size):
            yield chunk


def spec_json(spec: RunSpec) -> dict[str, Any]:
    """Return a specification as plain JSON, as `run.json` holds it; the choice is not part of what is gone on from."""
    return {
        "dataset": spec.dataset,
        "extractors": list(spec.extractors),
        "classifiers": list(spec.classifiers),
        "measure": spec.measure,
        "folds": spec.folds,
        "seed": spec.seed,
        "fetch": str(spec.fetch),
    }


def recorded_spec(folder: Path) -> RunSpec:
    """Read the specification from the `run.json` of an output folder.

    Raises
    ------
    InvalidInput
        If there is none.
    """
    try:
        spec = read_run_file(folder)[CLIENT_KEY]["spec"]
        return RunSpec(
            dataset=str(spec["dataset"]),
            extractors=tuple(map(str, spec["extractors"])),
            classifiers=tuple(map(str, spec["classifiers"])),
            measure=str(spec["measure"]),
            folds=int(spec["folds"]),
            seed=int(spec["seed"]),
            fetch=RunFetch(spec.get("fetch", RunFetch.AUTO)),
        )
    except (KeyError, TypeError, ValueError):
        raise InvalidInput(
            f"{folder} is not the output folder of a run: its {RUN_FILE} is missing or altered."
        ) from None
