"""The main job on real photographs, with a real network's real weights."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.installation import Installation

CLASSIFIERS = "SVM,LR,KNN"


@pytest.fixture(scope="module")
def material() -> Path:
    """Photos and weights that cannot be redistributed."""
    folder = os.environ.get("OFFSHELF_TEST_MATERIAL")
    if not folder:
        pytest.skip("needs the photos and weights of the test material: OFFSHELF_TEST_MATERIAL is not set")
    return Path(folder)


def test_dogs_and_cats(installation: Installation, material: Path) -> None:
    """On the paper's case study the network is as good as published, and colours alone are as poor as published."""
    images = material / "images" / "dogs-cats"
    weights = {"OFFSHELF_WEIGHTS": str(material / "weights")}
    installation.offshelf(
        *("run", images / "train", "-e", "googlenet,lab888", "-c", CLASSIFIERS, "-o", "out"), environment=weights
    )
    with (installation.folder / "out" / "table.csv").open(newline="") as lines:
        means = {(row["extractor"], row["classifier"]): float(row["mean"]) for row in csv.DictReader(lines)}
    assert max(mean for (extractor, _), mean in means.items() if extractor == "googlenet") >= 0.975
    assert all(0.50 <= mean <= 0.66 for (extractor, _), mean in means.items() if extractor == "lab888")

    photos = sorted((images / "test").glob("*/*"))
    shown = installation.offshelf("predict", "out", *photos, "--json", environment=weights)
    answers = [json.loads(line) for line in shown.stdout.splitlines()]
    right = sum(answer["label"] == Path(answer["path"]).parent.name for answer in answers)
    assert right >= 0.97 * len(photos)


def test_a_network_without_weights_is_left_out_with_the_fix(installation: Installation, photos: Path) -> None:
    """Where the weights cannot be had the rest is compared, and one line says what is missing and what to do."""
    shown = installation.offshelf("run", photos, "-e", "googlenet,hsv444", "-c", "KNN", "--folds", "3", "-o", "out")
    told = [line for line in (shown.stdout + shown.stderr).splitlines() if "googlenet_bvlc.npz" in line]
    assert len(told) == 1
    assert "OFFSHELF_WEIGHTS" in told[0]
    assert installation.summary()["left_out"]
    assert {score["extractor"] for score in installation.summary()["scores"]} == {"hsv444"}
    assert "googlenet_bvlc.npz" in (installation.folder / "out" / "report.html").read_text()
