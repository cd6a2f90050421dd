"""The main job as a user runs it: quality and wall-clock time of whole commands.

Usage: python benchmarks/main_job.py [FOLDER]

FOLDER holds dogs-cats/train and dogs-cats/test as class folders, and OFFSHELF_WEIGHTS names googlenet's weights; both
default to the test material that OFFSHELF_TEST_MATERIAL names (its images/ and weights/). Without them only the sample
is measured. The last line is one JSON object; the exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bars import Bar, report

EXTRACTORS = "googlenet,lab888,hsv888"
PAPER_BEST = 0.968
"""GoogLeNet's best classifier in Table 1 of the paper."""

BARS = (
    Bar("import_s", "at most", 0.5),
    Bar("sample_s", "at most", 120),
)
DOGS_CATS_BARS = (
    Bar("dogs_cats_recomputed_when_warm", "at most", 0),
    Bar("dogs_cats_best", "at least", 0.975),
    Bar("dogs_cats_colours_least", "at least", 0.50),
    Bar("dogs_cats_colours_most", "at most", 0.66),
    Bar("dogs_cats_test", "at least", 0.97),
)
"""The paper's figures, with room for what differs between two implementations; and a rerun that computes nothing."""


def timed(command: list[str | Path], environment: dict[str, str]) -> float:
    """Run a command to its end and return its seconds."""
    began = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def offshelf(*arguments: str | Path) -> list[str | Path]:
    """The command line of this environment."""
    return [sys.executable, "-m", "offshelf.cli", *arguments]


def table(out: Path) -> dict[tuple[str, str], float]:
    """Mean score of every combination."""
    with (out / "table.csv").open(newline="") as lines:
        return {(row["extractor"], row["classifier"]): float(row["mean"]) for row in csv.DictReader(lines)}


def measure_import(environment: dict[str, str]) -> float:
    """Median seconds that importing the SDK takes in a new interpreter, whose own start does not count."""
    script = "import time; t = time.perf_counter(); from offshelf import Client; print(time.perf_counter() - t)"
    times = [
        float(subprocess.run([sys.executable, "-c", script], env=environment, check=True, capture_output=True).stdout)
        for _ in range(5)
    ]
    return statistics.median(times)


def measure_sample(folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Time what `make run` does once the environment is there."""
    sample, out = folder / "digits", folder / "digits-out"
    seconds = timed([sys.executable, "-m", "offshelf.sample", sample], environment)
    run = offshelf("run", sample, "-e", "hog,haralick,hsv444", "--folds", "5", "-o", out, "--overwrite")
    cold = timed(run, environment)
    return {
        "sample_s": seconds + cold,
        "sample_warm_s": timed(run, environment),
        "sample_best": max(table(out).values()),
    }


def measure_dogs_cats(folder: Path, images: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Quality on the paper's case study, and the time of the first run, of the same again, and of predicting."""
    out = folder / "dogs-cats-out"
    run = offshelf("run", images / "train", "-e", EXTRACTORS, "-o", out, "--overwrite")
    cold, warm = timed(run, environment), timed(run, environment)
    again = json.loads((out / "run.json").read_text())
    scores = table(out)
    colours = [mean for (extractor, _), mean in scores.items() if extractor != "googlenet"]
    photos = sorted((images / "test").glob("*/*"))
    began = time.perf_counter()
    answers = subprocess.run(
        offshelf("predict", out, *photos, "--json"), env=environment, check=True, capture_output=True, text=True
    )
    predicted = [json.loads(line) for line in answers.stdout.splitlines()]
    return {
        "dogs_cats_cold_s": cold,
        "dogs_cats_warm_s": warm,
        "dogs_cats_recomputed_when_warm": again["images_extracted"] + again["scores_computed"],
        "dogs_cats_best": max(scores.values()),
        "dogs_cats_best_over_paper": max(scores.values()) / PAPER_BEST,
        "dogs_cats_colours_least": min(colours),
        "dogs_cats_colours_most": max(colours),
        "dogs_cats_test": statistics.fmean(answer["label"] == Path(answer["path"]).parent.name for answer in predicted),
        "dogs_cats_test_images": len(predicted),
        "predict_s": time.perf_counter() - began,
        "dogs_cats_table": {f"{extractor}+{classifier}": mean for (extractor, classifier), mean in scores.items()},
    }


def main(arguments: list[str]) -> int:
    """Measure everything that can be measured here, and return the exit status."""
    material = os.environ.get("OFFSHELF_TEST_MATERIAL")
    images = Path(arguments[0]) if arguments else Path(material) / "images" if material else None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "OFFSHELF_STORE": str(folder / "store")}
        if material:
            environment.setdefault("OFFSHELF_WEIGHTS", str(Path(material) / "weights"))
        figures: dict[str, Any] = {"import_s": measure_import(environment), **measure_sample(folder, environment)}
        if images is None:
            print("dogs-cats is not measured: OFFSHELF_TEST_MATERIAL is not set and no folder was given")
            return report(figures, BARS)
        figures |= measure_dogs_cats(folder, images / "dogs-cats", environment)
    return report(figures, BARS + DOGS_CATS_BARS)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
