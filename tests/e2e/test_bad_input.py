"""What cannot be used gets one clear line, exit code 2, and leaves nothing half-written."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.installation import Installation


def refused(installation: Installation, *arguments: object, environment: dict[str, str] | None = None) -> str:
    """Run a command that must be refused; returns its one line."""
    shown = installation.offshelf(*arguments, exit_code=2, environment=environment)
    lines = shown.stderr.strip().splitlines()
    assert len(lines) == 1, shown.stderr
    assert not (installation.folder / "out").exists()
    assert installation.processes() == []
    return lines[0]


def make(folder: Path, **classes: int) -> Path:
    """Make a folder with so many files a class."""
    for label, count in classes.items():
        (folder / label).mkdir(parents=True)
        for number in range(count):
            (folder / label / f"{number}.png").write_bytes(b"x")
    folder.mkdir(exist_ok=True)
    return folder


@pytest.mark.parametrize(
    ("classes", "said"),
    [
        ({}, "class"),
        ({"cat": 12}, "one class"),
        ({"cat": 12, "dog": 4}, "dog"),
    ],
)
def test_a_folder_that_is_no_dataset(installation: Installation, classes: dict[str, int], said: str) -> None:
    """An empty folder, one class, and a class with fewer images than folds are refused before any work."""
    folder = make(installation.folder / "data", **classes)
    assert said in refused(installation, "run", folder, "-o", "out")


def test_a_folder_that_is_not_there(installation: Installation) -> None:
    """A misspelt path is named; an empty one is refused, and not taken for the folder we are in."""
    assert "nowhere" in refused(installation, "run", "nowhere", "-o", "out")
    assert "cannot be the path" in refused(installation, "run", "", "-o", "out")


@pytest.mark.parametrize(
    ("flag", "name", "meant"), [("-e", "halarick", "haralick"), ("-c", "SWM", "SVM"), ("-m", "acuracy", "accuracy")]
)
def test_a_name_that_does_not_exist(installation: Installation, photos: Path, flag: str, name: str, meant: str) -> None:
    """The nearest match is named for an unknown extractor, classifier or measure."""
    line = refused(installation, "run", photos, flag, name, "-o", "out")
    assert name in line
    assert meant in line


def test_an_output_folder_that_exists(installation: Installation, photos: Path) -> None:
    """Nothing is overwritten unless asked for, and never a folder that is not ours."""
    (installation.folder / "mine").mkdir()
    (installation.folder / "mine" / "thesis.txt").write_text("years of work")
    for more in ((), ("--overwrite",)):
        assert "mine" in refused(installation, "run", photos, "-o", "mine", *more)
    assert (installation.folder / "mine" / "thesis.txt").exists()


def test_a_server_that_is_not_there(installation: Installation, photos: Path) -> None:
    """The address that does not answer is named."""
    line = refused(
        installation, "run", photos, "-o", "out", "--server", "127.0.0.1:9", environment={"OFFSHELF_TOKEN": "t"}
    )
    assert "127.0.0.1:9" in line


def test_a_second_server_on_the_same_store_and_a_wrong_token(installation: Installation, photos: Path) -> None:
    """A store in use is refused with the address of who has it; that server refuses a wrong token."""
    with installation.up() as address:
        second = installation.offshelf("up", exit_code=2)
        assert address in second.stderr
        assert len(second.stderr.strip().splitlines()) == 1
        wrong = installation.offshelf(
            *("run", photos, "-o", "out", "--server", address), exit_code=2, environment={"OFFSHELF_TOKEN": "wrong"}
        )
        assert "token" in wrong.stderr
    assert installation.processes() == []


def test_a_store_of_another_version(installation: Installation, photos: Path) -> None:
    """A store that a newer Offshelf made is refused, not misread."""
    installation.run(photos)
    (installation.store / "store.json").write_text('{"store_version": 99}')
    shutil.rmtree(installation.folder / "out")
    assert "99" in refused(installation, "run", photos, "-o", "out")
