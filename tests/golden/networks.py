"""Extractors' networks with generated weights, in files as their authors publish them."""

from __future__ import annotations

import io
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from offshelf.digests import digest_of_bytes
from offshelf.extraction.conversion import convert
from offshelf.extraction.spec import Network, Weights, WeightsFile
from offshelf.extraction.weights.arrays import arrays_digest
from tests.golden.registry import REFERENCES

if TYPE_CHECKING:
    from offshelf.extraction.conversion import ConvertedNetwork
    from offshelf.extraction.spec import ExtractorSpec


def random_network(spec: ExtractorSpec) -> ConvertedNetwork:
    """Convert the network of an extractor that has golden vectors, perhaps with parameters, from generated weights."""
    assert isinstance(spec.method, Network)
    data = weights_file(spec.name.partition(":")[0], classes=spec.method.output == "classes")
    return convert(*with_file(spec, data), data)


def with_file(spec: ExtractorSpec, data: bytes) -> tuple[ExtractorSpec, WeightsFile]:
    """Make the extractor that accepts this file and no other."""
    assert isinstance(spec.method, Network)
    name = spec.name.partition(":")[0]
    file = WeightsFile(REFERENCES[name].file, f"sha256:{digest_of_bytes(data)}")
    arrays = _digest(data) if spec.method.weights.arrays else ""
    weights = Weights(f"a random {name}", (file,), "none", arrays)
    return replace(spec, method=replace(spec.method, weights=weights, classes_weights=weights)), file


@lru_cache(maxsize=2)  # some have half a gigabyte
def weights_file(name: str, *, classes: bool = False) -> bytes:
    """Write a network's generated weights as the published ones are written, with the last layers or without."""
    reference = REFERENCES[name]
    return reference.classes_data() if classes and reference.classes_data else reference.data()


def _digest(data: bytes) -> str:
    """Digest the arrays of a network that is read from several formats: generated ones are NumPy's."""
    with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
        return arrays_digest(dict(arrays))
