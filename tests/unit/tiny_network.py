"""A GoogLeNet with few filters and random weights: the product's own network, small enough for a test."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from offshelf.digests import digest_of_bytes
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import ExtractorSpec, Network, Weights, WeightsFile
from offshelf.extraction.weights.arrays import arrays_digest

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

SIZE = 64
BRANCHES = (3, 4, 2, 3)  # filters of 1x1, 3x3, 5x5 and pool_proj
FEATURES = sum(BRANCHES)
CLASSES = 5
FILE = "tiny.npz"


def random_arrays(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    """Make the arrays of the network."""
    generator = np.random.default_rng(seed)
    arrays: dict[str, NDArray[np.float32]] = {}

    def layer(name: str, filters: int, channels: int, side: int) -> None:
        scale = np.sqrt(2 / (channels * side**2))
        arrays[f"{name}.weight"] = generator.normal(0, scale, (filters, channels, side, side)).astype(np.float32)
        arrays[f"{name}.bias"] = generator.normal(0, 0.1, filters).astype(np.float32)

    layer("conv1/7x7_s2", 6, 3, 7)
    layer("conv2/3x3_reduce", 4, 6, 1)
    layer("conv2/3x3", 7, 4, 3)
    channels = 7
    for block in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b"):
        name = f"inception_{block}"
        layer(f"{name}/1x1", BRANCHES[0], channels, 1)
        layer(f"{name}/3x3_reduce", 3, channels, 1)
        layer(f"{name}/3x3", BRANCHES[1], 3, 3)
        layer(f"{name}/5x5_reduce", 2, channels, 1)
        layer(f"{name}/5x5", BRANCHES[2], 2, 5)
        layer(f"{name}/pool_proj", BRANCHES[3], channels, 1)
        channels = FEATURES
    layer("loss3/classifier", CLASSES, FEATURES, 1)
    return arrays


def tiny_spec(folder: Path, arrays: dict[str, NDArray[np.float32]], **changes: Any) -> ExtractorSpec:
    """Write the arrays as a weights file into the folder, and make the extractor that accepts it."""
    np.savez(folder / FILE, allow_pickle=False, **arrays)
    file = WeightsFile(FILE, f"sha256:{digest_of_bytes((folder / FILE).read_bytes())}")
    googlenet = EXTRACTORS["googlenet"].method
    assert isinstance(googlenet, Network)
    weights = Weights("a tiny network", (file,), "none", arrays_digest(arrays))
    method = replace(googlenet, weights=weights, size=(SIZE, SIZE), **changes)
    return replace(EXTRACTORS["googlenet"], name="tiny", dimension=FEATURES, cost_seconds=0.01, method=method)
