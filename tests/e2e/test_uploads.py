"""A dataset on this machine, run on a server that cannot see this machine's files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.store.ownership import read_server
from tests.e2e.installation import CLASSIFIERS, EXTRACTORS, FOLDS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.installation import Installation

CHOICE = ("-e", EXTRACTORS, "-c", CLASSIFIERS, "--folds", FOLDS)


def server_token(installation: Installation) -> dict[str, str]:
    """Make the environment of a client that knows the server by its address alone."""
    server = read_server(installation.store)
    assert server is not None
    return {"OFFSHELF_TOKEN": server.token.read_text().strip()}


def test_a_folder_runs_on_a_server_as_it_does_here(installation: Installation, photos: Path) -> None:
    """`offshelf run FOLDER --server` uploads, runs, and brings back the table that embedded mode gives, byte for byte.

    After that the dataset is run by its name, nothing is computed anew, and deleting it leaves no image and no feature.
    """
    installation.run(photos, "here", "--store", installation.folder / "other")
    with installation.up() as address:
        client = server_token(installation)
        first = installation.offshelf("run", photos, *CHOICE, "-o", "out", "--server", address, environment=client)
        assert "uploading, 36/36 images" in first.stderr
        assert (installation.folder / "out" / "table.csv").read_bytes() == (
            installation.folder / "here" / "table.csv"
        ).read_bytes()
        again = installation.offshelf(
            "run", "dataset:photos", *CHOICE, "-o", "again", "--server", address, environment=client
        )
        assert "Nothing to compute" in again.stdout
        assert "uploading" not in again.stderr
        shown = installation.offshelf("runs", "--server", address, environment=client).stdout
        assert shown.count("photos (dataset:") == 2
        there = installation.offshelf(
            "run", f"server:{photos}", *CHOICE, "-o", "there", "--server", address, environment=client
        )
        assert "Nothing to compute" in there.stdout
        gone = installation.offshelf("datasets", "delete", "photos", "--yes", "--server", address, environment=client)
        assert "1 dataset, 36 images" in gone.stdout
    for folder in ("images", "features", "scores", "models"):
        assert not [path for path in (installation.store / folder).rglob("*") if path.is_file()]


def test_datasets_work_without_a_server(installation: Installation, photos: Path) -> None:
    """On one machine a dataset can be put into the store, run from there after its folder is gone, and deleted."""
    digest = installation.offshelf("datasets", "add", photos).stdout.strip()
    assert digest.startswith("dataset:")
    photos.rename(installation.folder / "elsewhere")
    installation.run(digest)  # type: ignore[arg-type]
    line = installation.offshelf("datasets", "list").stdout.splitlines()[1]
    assert line.split()[:3] == [digest.removeprefix("dataset:")[:12], "photos", "36"]
    assert "Would be deleted: nothing" in installation.offshelf("gc").stdout
    installation.offshelf("datasets", "delete", digest[len("dataset:") :][:8], "--yes")
    assert installation.processes() == []
