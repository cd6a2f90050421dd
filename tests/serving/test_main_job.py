"""The main job with a network on a remote engine, by the command line, as a user has it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

COMMAND = (sys.executable, "-m", "offshelf.cli")
CHOICE = ("-e", "squeezenet,hsv444", "-c", "LR", "--folds", "2")


def offshelf(folder: Path, address: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command over a store in the folder, where squeezenet runs elsewhere."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OFFSHELF_")}
    environment = {
        **inherited,
        "OFFSHELF_STORE": str(folder / "store"),
        "OFFSHELF_REMOTE_ENGINES": f"squeezenet={address}",
        "OFFSHELF_ENGINE_SECONDS": "120",
    }
    return subprocess.run(
        [*COMMAND, *arguments], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def write_photos(folder: Path) -> None:
    """Write pictures of two classes that a network can tell apart."""
    generator = np.random.default_rng(0)
    for label, brightest in (("blue", 2), ("red", 0)):
        (folder / label).mkdir(parents=True)
        for number in range(8):
            pixels = generator.integers(0, 90, (40, 60, 3))
            pixels[..., brightest] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / label / f"{number}.png")


@pytest.mark.timeout(600)
def test_a_run_and_a_prediction_with_a_network_elsewhere(tmp_path: Path, address: str) -> None:
    """Nothing but a setting says where the network runs: the same commands compare, fit, report and classify."""
    write_photos(tmp_path / "photos")
    run = offshelf(tmp_path, address, "run", "photos", *CHOICE, "-o", "out")
    assert run.returncode == 0, run.stderr
    scored = (tmp_path / "out" / "table.csv").read_text()
    assert "squeezenet" in scored
    assert "hsv444" in scored
    fit = offshelf(tmp_path, address, "fit", "out", "-e", "squeezenet", "-c", "LR")
    assert fit.returncode == 0, fit.stderr
    predicted = offshelf(tmp_path, address, "predict", "out/model-squeezenet-LR", "photos/red/0.png", "--json")
    assert predicted.returncode == 0, predicted.stderr
    assert json.loads(predicted.stdout.splitlines()[0])["label"] == "red"


def test_a_server_that_has_no_such_network_costs_its_extractor_alone(tmp_path: Path, address: str) -> None:
    """A run goes on without an extractor whose network is not served, and its user reads what to do."""
    write_photos(tmp_path / "photos")
    run = offshelf(tmp_path, f"{address}/nothing", "run", "photos", *CHOICE, "-o", "out")
    assert run.returncode == 0, run.stderr
    assert "has no model of that name" in run.stdout + run.stderr
    assert "squeezenet" not in (tmp_path / "out" / "table.csv").read_text()
