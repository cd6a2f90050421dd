"""Networks of a user's own, from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.e2e.installation import Installation, write_photo
from tests.unit import tiny_onnx
from tests.unit.own_networks import PLAIN

if TYPE_CHECKING:
    from pathlib import Path


def write_network(folder: Path, name: str, data: bytes) -> None:
    """Write a network and its description."""
    (folder / name).write_bytes(data)
    (folder / f"{name}.json").write_text(json.dumps(PLAIN | {"licence": "MIT"}))


def test_a_network_of_ones_own_is_an_extractor(installation: Installation, photos: Path) -> None:
    """It is compared with the others, can win, stands in the report, predicts, and is found again by the next run."""
    sides = [1, 3, 32, 32]
    colours = tiny_onnx.model(
        [tiny_onnx.node("Relu", ["image"], ["maps"])],
        [tiny_onnx.value("image", sides)],
        [tiny_onnx.value("maps", sides)],
    )
    write_network(installation.folder, "colours.onnx", colours)
    run = ("run", photos, "-e", "onnx:colours.onnx", "-c", "LR", "--folds", "3", "-o")
    installation.offshelf(*run, "out")
    summary = installation.summary()
    (score,) = summary["scores"]
    assert score["extractor"].startswith("onnx:colours@")
    assert score["mean"] > 0.8
    assert summary["images_extracted"] == 36
    report = (installation.folder / "out" / "report.html").read_text()
    assert "A network of your own, colours.onnx: sees 32 x 32 pixels. Licence: MIT." in report

    installation.offshelf(*run, "again")
    again = installation.summary("again")
    assert (again["images_extracted"], again["scores_computed"], again["images_reused"]) == (0, 0, 36)

    write_photo(photos / "sky" / "more.png", 1, 999)
    named = ("run", photos, "-e", score["extractor"], "-c", "LR", "--folds", "3", "-o", "more")
    installation.offshelf(*named)
    assert installation.summary("more")["images_extracted"] == 1

    answer = installation.offshelf("predict", "out", photos / "sky" / "more.png", "--json")
    assert json.loads(answer.stdout)["label"] in {"brick", "sky", "grass"}
    assert score["extractor"] in installation.offshelf("catalog").stdout
    assert installation.processes() == []


def test_a_network_that_does_not_fit_is_left_out_with_its_reason(installation: Installation, photos: Path) -> None:
    """The rest of the run goes on, and nothing of the network is cached."""
    write_network(installation.folder, "large.onnx", tiny_onnx.network(64))
    installation.offshelf("run", photos, "-e", "onnx:large.onnx,hsv444", "-c", "LR", "--folds", "3", "-o", "out")
    summary = installation.summary()
    assert [score["extractor"] for score in summary["scores"]] == ["hsv444"]
    assert any(
        "large.onnx does not fit: expected an image of 32 x 32 pixels and 3 channels, as its description says; "
        "found an input of shape [1,3,64,64]." in line
        for line in summary["left_out"]
    )
    assert not (installation.store / "ir").exists()


def test_a_network_without_a_description_is_refused_at_once(installation: Installation, photos: Path) -> None:
    """The message shows what to write, and no run has begun."""
    (installation.folder / "net.onnx").write_bytes(tiny_onnx.network())
    refused = installation.offshelf("run", photos, "-e", "onnx:net.onnx", exit_code=2)
    assert 'write net.onnx.json, for example {"size": 224' in refused.stderr.replace("\n", " ")
    assert installation.offshelf("runs").stdout.count("\n") <= 1
