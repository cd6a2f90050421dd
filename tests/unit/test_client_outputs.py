from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from offshelf import Conflict, DataLoss, InvalidInput, NotFound, RunSpec
from offshelf.client import outputs
from offshelf.errors import ResourceExhausted
from offshelf.runs import RunFetch

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SPEC = RunSpec(
    "/data/pets", extractors=("hog",), classifiers=("SVM", "LR"), measure="f1", folds=5, seed=7, fetch=RunFetch.NEVER
)


def write_output(folder: Path, text: str = "report") -> Path:
    """Write an output folder as a run would, and return it."""
    with outputs.new_folder(folder, overwrite=folder.exists()) as new:
        outputs.write_artifact(new, "report.html", [text.encode()])
        outputs.write_artifact(new, "model/model.json", [b"{", b"}"])
        outputs.write_artifact(new, "model/model.skops", [b"skops"])
        outputs.write_artifact(new, "run.json", [b'{"seed": 7}'])
        outputs.add_client(new, {"spec": outputs.spec_json(SPEC)})
    return folder


def test_an_output_appears_whole(tmp_path: Path) -> None:
    """A finished output holds every file, what the server says in run.json, and nothing temporary beside it."""
    out = write_output(tmp_path / "below" / "out")
    assert (out / "model" / "model.json").read_bytes() == b"{}"
    assert json.loads((out / "run.json").read_text())["seed"] == 7
    assert outputs.recorded_spec(out) == SPEC
    # An earlier version did not say what may be downloaded.
    run = json.loads((out / "run.json").read_text())
    assert run["client"]["spec"].pop("fetch") == "never"
    (out / "run.json").write_text(json.dumps(run))
    assert outputs.recorded_spec(out) == replace(SPEC, fetch=RunFetch.AUTO)
    assert list(out.parent.iterdir()) == [out]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    """When writing fails half-way, no output and no temporary folder is left, and the message says what to do."""

    def chunks(code: int) -> Iterator[bytes]:
        yield b"half"
        raise OSError(code, os.strerror(code))

    for code, kind, fix in (
        (errno.ENOSPC, ResourceExhausted, "free some space"),
        (errno.EACCES, Conflict, "another folder"),
    ):
        with (
            pytest.raises(kind, match=f"out cannot be written.*{fix}"),
            outputs.new_folder(tmp_path / "out", overwrite=False) as new,
        ):
            outputs.write_artifact(new, "report.html", chunks(code))
        assert list(tmp_path.iterdir()) == []


def test_an_existing_output_is_replaced_only_when_asked_for(tmp_path: Path) -> None:
    """Without --overwrite an output is kept; with it the new one takes its place whole, also behind a link."""
    out = write_output(tmp_path / "out", "old")
    with pytest.raises(Conflict, match="--overwrite"):
        outputs.check_folder(out, overwrite=False)
    link = tmp_path / "link"
    link.symlink_to(out)
    write_output(link, "new")
    assert link.is_symlink()
    assert (out / "report.html").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "out"]


def test_an_empty_folder_and_what_the_desktop_leaves_are_replaced(tmp_path: Path) -> None:
    """--overwrite takes an empty folder, even if a file manager has looked into it."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".DS_Store").touch()
    outputs.check_folder(tmp_path / "out", overwrite=True)


@pytest.mark.parametrize("kind", ["folder", "run.json of somebody else", "file", "addition"])
def test_what_is_not_ours_is_never_replaced(tmp_path: Path, kind: str) -> None:
    """--overwrite refuses a folder of the user's, a plain file, and an output to which the user added something."""
    out = tmp_path / "out"
    match kind:
        case "folder":
            out.mkdir()
            (out / "thesis.tex").write_text("mine")
        case "run.json of somebody else":
            out.mkdir()
            (out / "run.json").write_text('{"speed": 12}')
        case "file":
            out.write_text("mine")
        case _:
            write_output(out)
            (out / "notes.txt").write_text("mine")
    with pytest.raises(Conflict, match="not replaced"):
        outputs.check_folder(out, overwrite=True)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_place_that_cannot_be_written_is_refused_early(tmp_path: Path) -> None:
    """A read-only parent is found before any work is done."""
    tmp_path.chmod(0o500)
    with pytest.raises(Conflict, match="cannot be written"):
        outputs.check_folder(tmp_path / "out", overwrite=False)


def test_a_file_in_the_way_is_refused_early(tmp_path: Path) -> None:
    """An output cannot lie below a file."""
    (tmp_path / "file").touch()
    with pytest.raises(Conflict, match="cannot be written"):
        outputs.check_folder(tmp_path / "file" / "out", overwrite=False)


@pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil", "", "a//b", ".ssh/config", "a\\b", "a/b/c/d"])
def test_a_server_cannot_write_outside_the_output(tmp_path: Path, name: str) -> None:
    """An artefact whose name leads elsewhere is refused."""
    with pytest.raises(DataLoss, match="not safe"):
        outputs.write_artifact(tmp_path, name, [b"x"])
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_found_in_an_output_or_by_itself(tmp_path: Path) -> None:
    """Both the output folder and the model folder in it name the model; anything else is an error that says so."""
    out = write_output(tmp_path / "out")
    assert outputs.model_folder(out) == outputs.model_folder(out / "model") == out / "model"
    with pytest.raises(NotFound, match="nothere"):
        outputs.model_folder(tmp_path / "nothere")
    with pytest.raises(InvalidInput, match="holds no model"):
        outputs.model_folder(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", '{"client": {}}', '{"client": {"spec": {"dataset": 1}}}', '{"client": 3}'])
def test_an_altered_run_file_is_told(tmp_path: Path, text: str) -> None:
    """`offshelf fit` on a folder without a usable run.json says so instead of guessing."""
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(InvalidInput, match="not the output folder"):
        outputs.recorded_spec(tmp_path)
