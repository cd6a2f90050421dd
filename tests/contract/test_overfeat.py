"""What OverFeat must pass besides `test_networks`: every layer that can be named, computed here with numpy alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offshelf.errors import DataLoss
from offshelf.extraction.conversion import convert
from offshelf.extraction.engine import Engine
from offshelf.extraction.networks.blueprint import Blueprint
from offshelf.extraction.networks.overfeat import LAYERS, Layer, assemble, shapes
from offshelf.extraction.registry import find
from offshelf.extraction.runtime import load_openvino
from offshelf.extraction.spec import Network, fingerprint
from offshelf.extraction.weights.finding import accepted, availability
from offshelf.extraction.weights.flat import flat_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

OUTPUTS = ("-1", "-2", "-3", "-4", "classes")
SMALL = (
    Layer(4, 11, stride=4, halved=True),
    Layer(6, 5, halved=True),
    Layer(5, 3, padding=1),
    Layer(7, 3, padding=1),
    Layer(6, 3, padding=1, halved=True),
    Layer(9, 6),
    Layer(8, 1),
    Layer(5, 1),
)
"""The network with few filters: sides, strides, padding and pooling are its own."""


def network(name: str = "overfeat") -> Network:
    """Look the network up."""
    method = find(name).method
    assert isinstance(method, Network)
    return method


def weights(layers: Sequence[Layer], seed: int = 0) -> bytes:
    """Draw weights, in the layout of `net_weight_0`."""
    generator = np.random.default_rng(seed)
    pieces = []
    for shape in shapes(layers):
        scale = np.float32(np.sqrt(2 / np.prod(shape[1:])))
        pieces.append(generator.standard_normal(shape, np.float32).ravel() * scale)
        pieces.append(generator.standard_normal(shape[0], np.float32) * np.float32(0.1))
    return np.concatenate(pieces).tobytes()


def plain(layers: Sequence[Layer], data: bytes, image: NDArray[np.float32]) -> dict[str, NDArray[np.float64]]:
    """Compute all outputs of a prepared image, of shape (3, height, width), as the authors' release documents them.

    Weights and then biases, layer after layer; filters are laid over the image as they are, not mirrored.
    """
    numbers, position = np.frombuffer(data, "<f4"), 0
    x: NDArray[np.float64] = image.astype(np.float64)
    outputs: dict[str, NDArray[np.float64]] = {}
    for number, (layer, shape) in enumerate(zip(layers, shapes(layers), strict=True)):
        size = int(np.prod(shape))
        kernel = numbers[position : position + size].reshape(shape[0], -1)
        bias = numbers[position + size : position + size + shape[0]]
        position += size + shape[0]
        x = np.pad(x, ((0, 0), *[(layer.padding, layer.padding)] * 2))
        windows = np.lib.stride_tricks.sliding_window_view(x, (layer.side, layer.side), axis=(1, 2))
        windows = windows[:, :: layer.stride, :: layer.stride]
        columns = windows.transpose(1, 2, 0, 3, 4).reshape(*windows.shape[1:3], -1)
        x = (columns @ kernel.T.astype(np.float64) + bias).transpose(2, 0, 1)
        if number < len(layers) - 1:
            x = np.maximum(x, 0)
        if layer.halved:
            height, width = x.shape[1] // 2, x.shape[2] // 2
            x = x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2).max(axis=(2, 4))
        outputs[str(number - len(layers))] = x.ravel()
    scores = np.exp(outputs["-1"] - outputs["-1"].max())
    return {**outputs, "classes": scores / scores.sum()}


def prepared(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Prepare an image as the authors do: one mean and one deviation for all colours."""
    standardized: NDArray[np.float32] = ((image.astype(np.float32) - 118.380948) / 61.896913).transpose(2, 0, 1)
    return standardized


def picture(seed: int) -> NDArray[np.uint8]:
    """Draw an image."""
    return np.random.default_rng(seed).integers(0, 256, (*network().size, 3), dtype=np.uint8)


@pytest.mark.parametrize("output", OUTPUTS)
def test_layers_are_those_of_the_authors(output: str) -> None:
    """Each layer that can be named gives what its authors' description gives, in few filters."""
    data = weights(SMALL)
    method = network()
    blueprint = Blueprint(method.weights, "net_weight_0", method.size, output)
    compiled: Any = (
        load_openvino()
        .Core()
        .compile_model(assemble(SMALL, blueprint, data), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    )
    image = prepared(picture(1))
    found = compiled(image[np.newaxis])[0][0]
    expected = plain(SMALL, data, image)[output]
    assert found.shape == expected.shape
    assert np.linalg.norm(found - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.nightly
def test_the_whole_network_gives_the_registered_outputs() -> None:
    """A file of the real layout gives the outputs that have no golden vectors in their registered length, to 1e-5."""
    data = weights(LAYERS)
    expected = plain(LAYERS, data, prepared(picture(2)))
    for output in ("-1", "-4"):
        spec = find(f"overfeat:{output}")
        found = Engine(convert(spec, accepted(spec)[0], data), cores=2).infer(picture(2))
        assert found.shape == (spec.dimension,)
        assert np.linalg.norm(found - expected[output]) < 1e-5 * np.linalg.norm(expected[output])


def test_its_file_is_known_by_its_length(tmp_path: Path) -> None:
    """A truncated file is named with what it has and what is expected, before anything of it is parsed."""
    (file,) = accepted(find("overfeat"))
    assert file.size == flat_bytes(shapes(LAYERS)) == 583_683_488
    (tmp_path / file.name).write_bytes(b"x" * 1000)
    message = availability(find("overfeat"), str(tmp_path))
    assert message == (
        "net_weight_0 is not the file it should be: it has 1000 bytes, and 583683488 are expected: replace it."
    )
    with pytest.raises(DataLoss, match="net_weight_0 has 1000 bytes, and 583683488 are expected"):
        convert(find("overfeat"), file, b"x" * 1000)


def test_frimclas_layer_is_the_default() -> None:
    """FrImCla's layer -3 is what a user gets; others are asked for by their number, and are other extractors."""
    spec = find("overfeat")
    assert network().output == "-3"
    assert find("overfeat:-3") is spec
    assert {output: find(f"overfeat:{output}").dimension for output in OUTPUTS} == dict(network().outputs)
    assert len({fingerprint(find(f"overfeat:{output}")) for output in OUTPUTS}) == len(OUTPUTS)


def test_its_licence_is_said() -> None:
    """Who looks at the catalogue reads that the weights are for research alone; nobody downloads them for a user."""
    spec = find("overfeat")
    assert "research" in spec.restriction
    assert all(not file.source for file in accepted(spec))
