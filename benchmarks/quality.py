"""What the networks are good for: the best of six classifiers on dogs and cats, and GoogLeNet's own classes.

Usage: python benchmarks/quality.py

OFFSHELF_TEST_MATERIAL names a folder with images/dogs-cats and weights/. Ten folds of dogs-cats/train, as a user runs
them; and of the photos of dogs-cats/test, how many have a kind of cat, or of dog, among GoogLeNet's first five of 1000
classes. The last line is one JSON object; the exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bars import Bar, report
from benchmarks.main_job import offshelf, table
from offshelf.extraction.pipeline import Extraction
from offshelf.extraction.registry import find
from offshelf.store import open_store

MOBILENET = "mobilenet_v1_embedding_uint8.tflite"
DESCRIPTION = {"size": 224, "colour": "RGB", "mean": 0, "scale": 1}
BEST = {"googlenet": 0.975, "squeezenet": 0.95, "tflite": 0.965}
KINDS = {"cat": range(281, 288), "dog": range(151, 269)}
"""Which of ImageNet's 1000 classes are cats and dogs."""
TOP = 5
LEAST_IN_TOP = 0.95

BARS = (
    *(Bar(f"best.{name}", "at least", limit) for name, limit in BEST.items()),
    *(Bar(f"in_top_5.{kind}", "at least", LEAST_IN_TOP) for kind in KINDS),
)


def best_of_six(train: Path, weights: Path, folder: Path, environment: dict[str, str]) -> dict[str, float]:
    """Mean accuracy over ten folds of the best classifier on each network."""
    network = folder / MOBILENET
    network.write_bytes((weights / MOBILENET).read_bytes())
    network.with_name(f"{MOBILENET}.json").write_text(json.dumps(DESCRIPTION))
    out = folder / "out"
    extractors = f"googlenet,squeezenet,tflite:{network}"
    subprocess.run(
        offshelf("run", train, "-e", extractors, "-o", out), env=environment, check=True, stdout=subprocess.DEVNULL
    )
    best: dict[str, float] = {}
    for (extractor, classifier), mean in table(out).items():
        name = extractor.partition(":")[0]
        print(extractor, classifier, mean)
        best[name] = max(mean, best.get(name, 0.0))
    return best


def in_top_five(test: Path, weights: Path, store: str) -> dict[str, float]:
    """Share of photos with one of their kind's classes among the first five."""
    extraction = Extraction(
        find("googlenet:classes"),
        store=open_store(store),
        weights=str(weights),
        cores=2,
        max_pixels=10**8,
        decode_seconds=60.0,
    )
    extraction.start()
    try:
        return {kind: _share(extraction, sorted((test / kind).iterdir()), set(KINDS[kind])) for kind in KINDS}
    finally:
        extraction.close()


def _share(extraction: Extraction, photos: list[Path], classes: set[int]) -> float:
    rows = extraction.extract_bytes([photo.read_bytes() for photo in photos])
    vectors = [row.vector for row in rows if row.vector is not None]
    hits = sum(bool(classes & set(np.argsort(vector)[-TOP:].tolist())) for vector in vectors)
    return hits / len(photos)


def main() -> int:
    """Measure, print, and return the exit status."""
    material = os.environ.get("OFFSHELF_TEST_MATERIAL")
    if not material:
        print("not measured: OFFSHELF_TEST_MATERIAL is not set")
        return report({}, ())
    photos, weights = Path(material) / "images" / "dogs-cats", Path(material) / "weights"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = {**os.environ, "OFFSHELF_STORE": str(folder / "store"), "OFFSHELF_WEIGHTS": str(weights)}
        best = best_of_six(photos / "train", weights, folder, environment)
        top = in_top_five(photos / "test", weights, str(folder / "other-store"))
    return report({"best": best, "in_top_5": top}, BARS)


if __name__ == "__main__":
    sys.exit(main())
