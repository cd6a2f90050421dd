from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import product
from typing import TYPE_CHECKING

import numpy as np
import pytest

from offshelf.digests import digest_of_bytes
from offshelf.errors import DataLoss, NotFound
from offshelf.extraction.conversion import ConvertedNetwork, convert, network_of
from offshelf.extraction.engine import Engine
from offshelf.extraction.spec import CONVERTER_VERSION, Network, fingerprint
from offshelf.extraction.weights.arrays import arrays_digest
from offshelf.store import keys
from tests.unit.fakes import MemoryStore
from tests.unit.tiny_network import CLASSES, FEATURES, FILE, SIZE, random_arrays, tiny_spec

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from offshelf.extraction.spec import ExtractorSpec

MEAN_BGR = (104.0, 117.0, 123.0)


class PlainGoogLeNet:
    """The network in loops and sums over numpy arrays of shape (channels, height, width), as Caffe documents it."""

    def __init__(self, arrays: dict[str, NDArray[np.float32]]) -> None:
        self._arrays = {name: array.astype(np.float64) for name, array in arrays.items()}

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Compute the last feature maps."""
        x = (pixels[:, :, ::-1].astype(np.float64) - MEAN_BGR).transpose(2, 0, 1)
        x = self._convolution(x, "conv1/7x7_s2", stride=2, pad=3)
        x = self._normalization(self._pooling(x, stride=2))
        x = self._convolution(x, "conv2/3x3_reduce")
        x = self._convolution(x, "conv2/3x3", pad=1)
        x = self._pooling(self._normalization(x), stride=2)
        for block in ("3a", "3b", "", "4a", "4b", "4c", "4d", "4e", "", "5a", "5b"):
            x = self._inception(x, f"inception_{block}") if block else self._pooling(x, stride=2)
        return x

    def classes(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Compute the probabilities of the classes."""
        average = self.features(pixels).mean(axis=(1, 2))
        weight, bias = self._arrays["loss3/classifier.weight"], self._arrays["loss3/classifier.bias"]
        scores = np.exp(weight[:, :, 0, 0] @ average + bias)
        probabilities: NDArray[np.float64] = scores / scores.sum()
        return probabilities

    def _inception(self, x: NDArray[np.float64], name: str) -> NDArray[np.float64]:
        return np.concatenate(
            [
                self._convolution(x, f"{name}/1x1"),
                self._convolution(self._convolution(x, f"{name}/3x3_reduce"), f"{name}/3x3", pad=1),
                self._convolution(self._convolution(x, f"{name}/5x5_reduce"), f"{name}/5x5", pad=2),
                self._convolution(self._pooling(x, stride=1, pad=1), f"{name}/pool_proj"),
            ]
        )

    def _convolution(self, x: NDArray[np.float64], name: str, *, stride: int = 1, pad: int = 0) -> NDArray[np.float64]:
        weight, bias = self._arrays[f"{name}.weight"], self._arrays[f"{name}.bias"]
        side = weight.shape[-1]
        padded = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
        height, width = ((extent - side) // stride + 1 for extent in padded.shape[1:])
        result = np.empty((len(weight), height, width))
        for row, column in product(range(height), range(width)):
            top, left = row * stride, column * stride
            window = padded[:, top : top + side, left : left + side]
            result[:, row, column] = np.tensordot(weight, window, axes=3) + bias
        return np.maximum(result, 0)

    def _pooling(self, x: NDArray[np.float64], *, stride: int, pad: int = 0) -> NDArray[np.float64]:
        side = 3
        # Caffe rounds up, and cuts windows off at the border.
        height, width = (-(-(extent + 2 * pad - side) // stride) + 1 for extent in x.shape[1:])
        result = np.empty((len(x), height, width))
        for row, column in product(range(height), range(width)):
            top, left = row * stride - pad, column * stride - pad
            window = x[:, max(top, 0) : top + side, max(left, 0) : left + side]
            result[:, row, column] = window.max(axis=(1, 2))
        return result

    def _normalization(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        result = np.empty_like(x)
        for channel in range(len(x)):
            around = x[max(channel - 2, 0) : channel + 3]
            result[channel] = x[channel] / (1 + 1e-4 / 5 * (around**2).sum(axis=0)) ** 0.75
        return result


def converted(spec: ExtractorSpec, folder: Path) -> ConvertedNetwork:
    """Convert the network from the file in the folder."""
    assert isinstance(spec.method, Network)
    return convert(spec, spec.method.weights.files[0], (folder / FILE).read_bytes())


def noise(seed: int) -> NDArray[np.uint8]:
    """Make an image of the network's size."""
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a folder for weights."""
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def spec(folder: Path) -> ExtractorSpec:
    """Give an extractor with a tiny GoogLeNet."""
    return tiny_spec(folder, random_arrays())


@pytest.fixture(scope="module")
def network(spec: ExtractorSpec, folder: Path) -> ConvertedNetwork:
    """Convert the tiny GoogLeNet."""
    return converted(spec, folder)


def test_googlenet_is_the_published_one(network: ConvertedNetwork) -> None:
    """The converted network computes what a plain implementation of the publication and of Caffe's rules computes."""
    engine = Engine(network, cores=1)
    plain = PlainGoogLeNet(random_arrays())
    for seed in range(2):
        expected = plain.features(noise(seed)).mean(axis=(1, 2))
        vector = engine.infer(noise(seed))
        assert vector.shape == (FEATURES,)
        assert np.linalg.norm(vector - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.parametrize("output", ["classes", "flatten"])
def test_other_outputs_are_the_published_ones(tmp_path: Path, output: str) -> None:
    """The class probabilities and all feature maps (by row, column, channel, as in Keras) can be had as well."""
    spec = tiny_spec(tmp_path, random_arrays(), output=output)
    vector = Engine(converted(spec, tmp_path), cores=1).infer(noise(0))
    plain = PlainGoogLeNet(random_arrays())
    if output == "classes":
        expected = plain.classes(noise(0))
        assert expected.shape == (CLASSES,)
    else:
        expected = plain.features(noise(0)).transpose(1, 2, 0).ravel()
    assert np.linalg.norm(vector - expected) < 1e-5 * np.linalg.norm(expected)


def test_vectors_are_the_same_to_the_last_bit(network: ConvertedNetwork) -> None:
    """A vector depends on its image alone: not on the number of cores, nor on what is inferred at the same time."""
    images = [noise(seed) for seed in range(20)]
    alone = Engine(network, cores=1)
    expected = [alone.infer(image) for image in images]
    together = Engine(network, cores=3)
    with ThreadPoolExecutor(6) as threads:
        for _ in range(3):
            assert all(map(np.array_equal, threads.map(together.infer, images), expected))
        backwards = list(threads.map(together.infer, images[::-1]))
    assert all(map(np.array_equal, backwards[::-1], expected))


def test_an_answer_is_not_overwritten_by_the_next(network: ConvertedNetwork) -> None:
    """A vector stays what it was when the engine is asked again."""
    engine = Engine(network, cores=1)
    first = engine.infer(noise(0))
    kept = first.copy()
    engine.infer(noise(1))
    assert np.array_equal(first, kept)


def test_conversion_is_repeatable(network: ConvertedNetwork, spec: ExtractorSpec, folder: Path) -> None:
    """Two replicas that convert the same network at the same time write the same bytes."""
    again = converted(spec, folder)
    assert (again.xml, again.bin) == (network.xml, network.bin)


def test_a_network_is_converted_once(network: ConvertedNetwork, spec: ExtractorSpec, folder: Path) -> None:
    """After the first start the network comes from the store, and weights are not needed any more."""
    store = MemoryStore()
    with pytest.raises(NotFound, match="OFFSHELF_WEIGHTS"):
        network_of(spec, store=store, weights="")
    assert store.objects == {}
    assert network_of(spec, store=store, weights=str(folder)) == network
    assert [info.key.rpartition("/")[2] for info in store.list("ir/")] == ["network.bin", "network.json", "network.xml"]
    assert list(store.objects)[-1].endswith("network.json")
    assert network_of(spec, store=store, weights="") == network


@pytest.mark.parametrize("damage", ["no json", "bad json", "no bin", "altered bin", "altered xml"])
def test_a_damaged_network_is_made_again(network: ConvertedNetwork, spec: ExtractorSpec, damage: str) -> None:
    """A network that was half written, or altered in the store, is never used: it has to be converted again."""
    store = MemoryStore()

    def key(name: str) -> str:
        return keys.network(fingerprint(spec), CONVERTER_VERSION, name)

    network_of(spec, store=_holding(store, spec, network), weights="")
    match damage:
        case "no json":
            store.delete(key("network.json"))
        case "bad json":
            store.put(key("network.json"), b"[")
        case "no bin":
            store.delete(key("network.bin"))
        case "altered bin":
            store.put(key("network.bin"), network.bin[:-1] + b"\x00\x00")
        case "altered xml":
            store.put(key("network.xml"), network.xml.replace(b"f32", b"f16"))
    # It asks for the weights, which it would not do if it used what is there.
    with pytest.raises(NotFound, match=FILE):
        network_of(spec, store=store, weights="")


def _holding(store: MemoryStore, spec: ExtractorSpec, network: ConvertedNetwork) -> MemoryStore:
    digests = {"xml": digest_of_bytes(network.xml), "bin": digest_of_bytes(network.bin)}
    for name, data in (("xml", network.xml), ("bin", network.bin), ("json", json.dumps(digests).encode())):
        store.put(keys.network(fingerprint(spec), CONVERTER_VERSION, f"network.{name}"), data)
    return store


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    """Weights that are registered for a network they do not fit are refused with the layer's name."""
    arrays = random_arrays()
    del arrays["inception_4c/5x5.weight"]
    spec = tiny_spec(tmp_path, arrays)
    with pytest.raises(DataLoss, match="inception_4c/5x5"):
        converted(spec, tmp_path)


def test_arrays_other_than_registered_are_refused(tmp_path: Path) -> None:
    """A weights file whose arrays are not the ones in the registry is not converted."""
    spec = tiny_spec(tmp_path, random_arrays(seed=1))
    other = arrays_digest(random_arrays(seed=2))
    assert isinstance(spec.method, Network)
    method = replace(spec.method, weights=replace(spec.method.weights, arrays=other))
    with pytest.raises(DataLoss, match="not those that are registered"):
        converted(replace(spec, method=method), tmp_path)


def test_openvino_cannot_call_out() -> None:
    """The engine's telemetry cannot even be imported, in whatever order things are."""
    program = (
        "import sys, openvino_telemetry\n"
        "from offshelf.extraction.runtime import load_openvino\n"
        "ov = load_openvino()\n"
        "import openvino.tools.ovc.telemetry_utils as used\n"
        "print(used.tm.__name__, [name for name in sys.modules if name.startswith('openvino_telemetry.')])\n"
        "try:\n"
        "    import openvino_telemetry\n"
        "except ImportError:\n"
        "    print('forbidden')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split("\n")[:2] == ["openvino.tools.ovc.telemetry_stub []", "forbidden"]
