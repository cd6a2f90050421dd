"""Features alone, from the command line."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from offshelf import Client, Conflict, RunGoal
from offshelf.digests import digest_of_bytes
from tests.e2e.installation import IMAGES_A_CLASS, Installation, write_photo
from tests.e2e.test_uploads import server_token

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = 3 * IMAGES_A_CLASS
EXTRACT = ("-e", "hsv444,lab:2,3,4")


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Write a picture of many pixels, which takes long to describe."""
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(pixels).save(path, compress_level=1)


def test_features_alone_are_one_file(installation: Installation, photos: Path) -> None:
    """One command gives a vector of each image by each extractor; nothing is compared, and no trainer is started."""
    shown = installation.offshelf("extract", photos, *EXTRACT, "-o", "new/folder/pets.parquet")
    assert f"Extracted {2 * IMAGES} feature vectors (0 found)." in shown.stdout
    assert "The features are in new/folder/pets.parquet." in shown.stdout
    folder = installation.folder / "new" / "folder"
    assert [path.name for path in folder.iterdir()] == ["pets.parquet"]
    found = pq.read_table(folder / "pets.parquet")
    assert found.column_names == ["path", "label", "image", "hsv444", "lab:2,3,4"]
    paths = sorted(str(path.relative_to(photos)) for path in photos.rglob("*.png"))
    assert found["path"].to_pylist() == paths
    assert found["label"].to_pylist() == [path.partition("/")[0] for path in paths]
    assert found["image"].to_pylist() == [digest_of_bytes((photos / path).read_bytes()) for path in paths]
    for name, length in (("hsv444", 64), ("lab:2,3,4", 24)):
        matrix = np.array(found[name].to_pylist(), np.float32)
        assert matrix.shape == (IMAGES, length)
        assert np.isfinite(matrix).all()
        assert len({row.tobytes() for row in matrix}) > IMAGES // 2
    logs = {path.name for path in (installation.store / ".embedded" / "logs").iterdir()}
    assert {"extractor-hsv444.log", "extractor-lab:2,3,4.log"} <= logs
    assert not logs & {"trainer.log", "stats.log"}
    assert installation.processes() == []
    assert "features of hsv444, lab:2,3,4" in installation.offshelf("runs").stdout
    (run_id,) = (line.split()[0] for line in installation.offshelf("runs").stdout.splitlines()[1:])
    assert "The features of hsv444, lab:2,3,4 are there" in installation.offshelf("watch", run_id).stdout


def test_what_is_extracted_is_found_again(installation: Installation, photos: Path) -> None:
    """The same command extracts nothing and writes the same bytes; a comparison afterwards extracts nothing, either."""
    installation.offshelf("extract", photos, *EXTRACT, "-o", "one.parquet")
    again = installation.offshelf("extract", photos, *EXTRACT, "-o", "two.parquet")
    assert f"Nothing to extract: all {2 * IMAGES} feature vectors were found." in again.stdout
    one, two = (installation.folder / name for name in ("one.parquet", "two.parquet"))
    assert one.read_bytes() == two.read_bytes()
    installation.offshelf("run", photos, *EXTRACT, "-c", "LR", "--folds", "3", "-o", "out")
    assert installation.summary()["images_extracted"] == 0
    assert installation.summary()["images_reused"] == 2 * IMAGES


def test_ctrl_c_stops_it_and_the_same_command_goes_on(installation: Installation) -> None:
    """What was extracted until then is kept, nothing is left running, and no half of a file is written."""
    large = np.random.default_rng(0).integers(0, 256, (800, 800, 3), dtype=np.uint8)
    for number in range(30):
        large[number] = number
        write_pixels(installation.folder / "large" / f"{number}.png", large)
    command, hasty = ("extract", "large", "-e", "haralick", "-o", "x.parquet"), {"OFFSHELF_UNIT_SECONDS": "0.01"}
    process = installation.start(*command, environment=hasty)
    while process.poll() is None and not list(installation.store.glob("features/*/segments/*.parquet")):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "the same command goes on from there" in " ".join(errors.split())
    assert installation.processes() == []
    assert {path.name for path in installation.folder.iterdir()} == {"large", "store"}
    assert "cancelled" in installation.offshelf("runs").stdout
    done = len(list(installation.store.glob("features/*/segments/*.parquet")))
    assert 0 < done < 30
    shown = installation.offshelf(*command, environment=hasty)
    assert f"Extracted {30 - done} feature vectors ({done} found)." in shown.stdout
    assert len(pq.read_table(installation.folder / "x.parquet").drop_null()) == 30


def test_images_that_cannot_be_used_are_listed_beside_the_file(installation: Installation, photos: Path) -> None:
    """They keep their row, without a vector, and the command says how many there are and where the reasons are."""
    (photos / "sky" / "empty.jpg").write_bytes(b"")
    (photos / "sky" / "text.jpg").write_text("not an image")
    shown = installation.offshelf("extract", photos, *EXTRACT, "-o", "pets.parquet")
    assert "2 images cannot be used: pets.skipped.csv says which and why." in shown.stdout
    with (installation.folder / "pets.skipped.csv").open() as file:
        reasons = {row["path"]: row["reason"] for row in csv.DictReader(file)}
    assert set(reasons) == {"sky/empty.jpg", "sky/text.jpg"}
    assert all(reasons.values())
    found = pq.read_table(installation.folder / "pets.parquet")
    assert len(found) == IMAGES + 2
    lost = [
        path
        for path, vector in zip(*(found[name].to_pylist() for name in ("path", "hsv444")), strict=True)
        if not vector
    ]
    assert lost == sorted(reasons)
    (photos / "sky" / "empty.jpg").unlink()
    (photos / "sky" / "text.jpg").unlink()
    installation.offshelf("extract", photos, *EXTRACT, "-o", "pets.parquet", "--overwrite")
    assert not (installation.folder / "pets.skipped.csv").exists()
    assert len(pq.read_table(installation.folder / "pets.parquet")) == IMAGES


def test_one_image_of_one_class_is_enough(installation: Installation) -> None:
    """Features need nothing to compare; a dataset of that kind is still refused where something is compared."""
    write_photo(installation.folder / "few" / "all" / "1.png", 0, 0)
    installation.offshelf("extract", "few", "-e", "hsv444", "-o", "few.parquet")
    assert len(pq.read_table(installation.folder / "few.parquet")) == 1
    refused = installation.offshelf("run", "few", "-e", "hsv444", exit_code=2)
    assert "one class" in refused.stderr


def test_images_without_labels_are_uploaded_to_a_server(installation: Installation) -> None:
    """A folder of photos is enough, also for a server that cannot see this machine's files."""
    for number in range(3):
        write_photo(installation.folder / "loose" / f"{number}.png", number, 0)
    with installation.up() as address:
        client = server_token(installation)
        shown = installation.offshelf(
            *("extract", "loose", "-e", "hsv444", "-o", "loose.parquet", "--server", address), environment=client
        )
        assert "3/3 images" in shown.stderr
        refused = installation.offshelf(
            *("run", "dataset:loose", "-e", "hsv444", "--server", address), environment=client, exit_code=2
        )
    assert "have no labels" in refused.stderr
    found = pq.read_table(installation.folder / "loose.parquet")
    assert found.column_names == ["path", "image", "hsv444"]
    assert found["path"].to_pylist() == ["0.png", "1.png", "2.png"]


def test_what_cannot_be_written_or_found_is_refused_before_any_work(installation: Installation, photos: Path) -> None:
    """A taken name, a folder, somebody else's file, an unknown extractor or none: one line, and nothing is changed."""
    (installation.folder / "taken.parquet").write_bytes(b"PAR1")
    (installation.folder / "mine.txt").write_text("a diary")
    (installation.folder / "folder").mkdir()
    cases = [
        (("-o", "taken.parquet"), "taken.parquet exists: name another file with -o, or replace it with --overwrite."),
        (("-o", "mine.txt", "--overwrite"), "mine.txt was not written by Offshelf, so it is not replaced"),
        (("-o", "folder", "--overwrite"), "folder is a folder: name a file with -o."),
        (("-o", "mine.txt/features.parquet"), "mine.txt is not a folder that you may write to."),
    ]
    for arguments, said in cases:
        refused = installation.offshelf("extract", photos, "-e", "hsv444", *arguments, exit_code=2)
        assert said in " ".join(refused.stderr.split())
    refused = installation.offshelf("extract", photos, "-e", "hog,hsv44", "-o", "x.parquet", exit_code=2)
    assert "hsv444" in refused.stderr
    refused = installation.offshelf("extract", photos, "-o", "x.parquet", exit_code=2)
    assert "Name extractors with -e" in refused.stderr
    assert (installation.folder / "mine.txt").read_text() == "a diary"
    assert not (installation.folder / "x.parquet").exists()
    assert installation.offshelf("runs").stdout == ""


def test_features_from_python_through_a_server(installation: Installation, photos: Path) -> None:
    """`Client.extract` gives a run like any other, but for the table and the model that it does not have."""
    with installation.up(), Client(store=installation.store) as client:
        run = client.extract(photos, ["hsv444", "haralick"]).watch()
        assert run.status.spec.goal is RunGoal.FEATURES
        path = run.save(installation.folder / "a" / "features.parquet")
        assert pq.read_schema(path).names[-2:] == ["hsv444", "haralick"]
        for ask in (run.table, lambda: run.best, lambda: run.verdict):
            with pytest.raises(Conflict, match="was for features alone"):
                ask()
        with pytest.raises(Conflict, match="exists"):
            run.save(path)
        run.download(installation.folder / "all")
        summary = json.loads((installation.folder / "all" / "run.json").read_text())
        assert (summary["goal"], summary["images_extracted"]) == ("features", 2 * IMAGES)
        assert (installation.folder / "all" / "features.parquet").read_bytes() == path.read_bytes()
        again = client.get(run.id)
        assert again.save(installation.folder / "b.parquet").read_bytes() == path.read_bytes()
        client.delete_dataset(run.result.dataset)
        assert not list((installation.store / "exports").rglob("*.parquet"))
