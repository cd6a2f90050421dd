"""The main job: a folder of labelled images in; a table, a report and a model out."""

from __future__ import annotations

import json
import re
import shutil
from typing import TYPE_CHECKING

from tests.e2e.installation import CLASSIFIERS, EXTRACTORS, FOLDS, IMAGES_A_CLASS, Installation, write_photo

if TYPE_CHECKING:
    from pathlib import Path

IMAGES = 3 * IMAGES_A_CLASS
PAIRS = len(EXTRACTORS.split(",")) * IMAGES
SCORES = len(EXTRACTORS.split(",")) * len(CLASSIFIERS.split(",")) * FOLDS


def test_a_folder_becomes_a_table_a_report_and_a_model_that_predicts(installation: Installation, photos: Path) -> None:
    """One command gives all that the README promises, and the model classifies an image it has not seen."""
    shown = installation.offshelf("run", photos, "-e", EXTRACTORS, "-c", CLASSIFIERS, "--folds", FOLDS, "-o", "out")
    out = installation.folder / "out"

    names = {str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()}
    expected = {"report.html", "table.csv", "scores.parquet", "skipped.csv", "run.json"}
    assert names == expected | {"model/model.skops", "model/model.json"}
    for word in (*EXTRACTORS.split(","), *CLASSIFIERS.split(",")):
        assert word in shown.stdout
    summary = installation.summary()
    assert summary["images_extracted"] == PAIRS
    assert summary["scores_computed"] == SCORES
    assert summary["scores"][0]["mean"] > 0.8
    assert not re.search(r"(src|href)=[\"']?(https?:)?//", (out / "report.html").read_text())

    write_photo(installation.folder / "new.png", 1, 999)
    answer = installation.offshelf("predict", "out", "new.png", "missing.png", "--json", exit_code=1)
    lines = [json.loads(line) for line in answer.stdout.splitlines()]
    assert lines[0]["path"] == "new.png"
    assert lines[0]["label"] == "sky"
    assert abs(sum(lines[0]["probabilities"].values()) - 1) < 1e-6
    assert set(lines[1]) == {"path", "error"}
    assert installation.processes() == []


def test_what_is_known_is_not_computed_again(installation: Installation, photos: Path) -> None:
    """A rerun costs lookups, a classifier more its scores alone, a corrected label no extraction, ten images ten."""
    installation.run(photos)
    again = installation.run(photos, "again")
    assert (again["images_extracted"], again["scores_computed"]) == (0, 0)
    assert (again["images_reused"], again["scores_reused"]) == (PAIRS, SCORES)
    assert (installation.folder / "out" / "scores.parquet").read_bytes() == (
        installation.folder / "again" / "scores.parquet"
    ).read_bytes()

    more = installation.run(photos, "more", "-c", "RF")
    assert (more["images_extracted"], more["scores_computed"]) == (0, 2 * FOLDS)

    shutil.move(photos / "sky" / "003.png", photos / "grass" / "moved.png")
    flipped = installation.run(photos, "flipped")
    assert (flipped["images_extracted"], flipped["scores_reused"]) == (0, 0)
    assert flipped["scores_computed"] == SCORES

    for number in range(10):
        write_photo(photos / "sky" / f"new{number}.png", 1, 500 + number)
    added = installation.run(photos, "added")
    assert added["images_extracted"] == 10 * len(EXTRACTORS.split(","))


def test_scores_do_not_depend_on_the_number_of_workers(installation: Installation, photos: Path) -> None:
    """The same seed gives byte-equal scores on one core and on two, from nothing each time."""
    installation.run(photos, "two", environment={"OFFSHELF_CORES": "2"})
    installation.run(
        photos, "one", environment={"OFFSHELF_CORES": "1", "OFFSHELF_STORE": str(installation.folder / "other")}
    )
    assert (installation.folder / "two" / "scores.parquet").read_bytes() == (
        installation.folder / "one" / "scores.parquet"
    ).read_bytes()


def test_another_combination_than_the_best_can_be_fitted(installation: Installation, photos: Path) -> None:
    """`offshelf fit` gives the model of any combination, says how far behind it is, and computes nothing twice."""
    summary = installation.run(photos)
    best, last = summary["scores"][0], summary["scores"][-1]
    shown = installation.offshelf("fit", "out", "-e", last["extractor"], "-c", last["classifier"], "-o", "other-model")
    assert re.search(r"behind|as good", shown.stdout)
    card = json.loads((installation.folder / "other-model" / "model.json").read_text())
    assert (card["extractor"], card["classifier"]) == (last["extractor"], last["classifier"])
    assert (best["extractor"], best["classifier"]) != (last["extractor"], last["classifier"])
    write_photo(installation.folder / "new.png", 0, 999)
    installation.offshelf("predict", "other-model", "new.png", "--json")


def test_a_model_folder_works_with_an_empty_store(installation: Installation, photos: Path) -> None:
    """A model folder copied to another machine predicts there."""
    installation.run(photos)
    write_photo(installation.folder / "new.png", 2, 999)
    elsewhere = {"OFFSHELF_STORE": str(installation.folder / "elsewhere")}
    answer = installation.offshelf("predict", "out/model", "new.png", "--json", environment=elsewhere)
    assert json.loads(answer.stdout)["label"] == "grass"


def test_images_that_cannot_be_used_are_listed_and_never_stop_a_run(installation: Installation, photos: Path) -> None:
    """Broken files are quarantined with their reasons; the rest is compared as if they were not there."""
    (photos / "sky" / "empty.jpg").write_bytes(b"")
    (photos / "sky" / "text.jpg").write_text("not an image")
    (photos / "sky" / "other.heic").write_bytes(b"another kind of image")
    (photos / "sky" / "half.png").write_bytes((photos / "sky" / "001.png").read_bytes()[:900])
    summary = installation.run(photos)
    skipped = (installation.folder / "out" / "skipped.csv").read_text()
    assert summary["images_skipped"] == 3
    for name in ("sky/empty.jpg", "sky/text.jpg", "sky/half.png"):
        assert name in skipped
        assert name in (installation.folder / "out" / "report.html").read_text()
    assert any(reason.startswith("One file") for reason in summary["left_out"])  # the .heic
    again = installation.run(photos, "again")
    assert (again["images_extracted"], again["scores_computed"]) == (0, 0)
