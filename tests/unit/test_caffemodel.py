"""Caffe's own files, read without Caffe."""

from __future__ import annotations

import os
import random
from pathlib import Path

import numpy as np
import pytest

from offshelf.errors import DataLoss
from offshelf.extraction.conversion import convert
from offshelf.extraction.engine import Engine
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import Network, WeightsFile
from offshelf.extraction.weights.arrays import arrays_digest
from offshelf.extraction.weights.caffemodel import parse_caffemodel
from offshelf.extraction.weights.flat import flat_bytes, parse_flat
from offshelf.extraction.weights.wire import MOST_FIELDS
from tests.unit.caffe_files import blob, caffemodel, field, layer, varint
from tests.unit.tiny_network import FILE, SIZE, random_arrays, tiny_spec

NAME = "net.caffemodel"
CONNECTED = ("loss3/classifier", "loss1/classifier")


@pytest.mark.parametrize("packed", [True, False], ids=["packed", "one by one"])
@pytest.mark.parametrize("old", [True, False], ids=["old", "new"])
def test_arrays_are_those_that_were_written(*, old: bool, packed: bool) -> None:
    """A file in either form of Caffe's gives each layer's weights and biases, and nothing for layers without."""
    arrays = random_arrays()
    found = parse_caffemodel(caffemodel(arrays, old=old, packed=packed, connected=CONNECTED), NAME)
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)
    assert arrays_digest(found) == arrays_digest(arrays)


def test_a_network_from_caffe_is_the_network_from_its_arrays(tmp_path: Path) -> None:
    """The authors' file, with what it holds for training alone, gives the vectors that the npz of its arrays gives."""
    arrays = random_arrays()
    spec = tiny_spec(tmp_path, arrays)
    auxiliary = {
        "loss1/conv.weight": np.ones((2, 3, 1, 1), np.float32),
        "loss1/conv.bias": np.ones(2, np.float32),
        "loss1/classifier.weight": np.ones((5, 8, 1, 1), np.float32),
        "loss1/classifier.bias": np.ones(5, np.float32),
    }
    data = caffemodel({**arrays, **auxiliary}, connected=CONNECTED)
    image = np.random.default_rng(1).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
    vectors = [
        Engine(convert(spec, WeightsFile(name, ""), content), cores=1).infer(image)
        for name, content in ((FILE, (tmp_path / FILE).read_bytes()), (NAME, data))
    ]
    assert np.array_equal(vectors[0], vectors[1])
    with pytest.raises(DataLoss, match="are not those that are registered"):
        convert(
            spec,
            WeightsFile(NAME, ""),
            caffemodel(
                {**arrays, "more.weight": arrays["conv1/7x7_s2.weight"], "more.bias": arrays["conv1/7x7_s2.bias"]}
            ),
        )


def test_the_registered_arrays_come_out_of_a_caffemodel_too() -> None:
    """GoogLeNet's published arrays, written as Caffe writes them, have the digest that is registered for both files."""
    folder = os.environ.get("OFFSHELF_TEST_MATERIAL", "")
    if not folder:
        pytest.skip("OFFSHELF_TEST_MATERIAL is not set: there are no real weights here")
    network = EXTRACTORS["googlenet"].method
    assert isinstance(network, Network)
    with np.load(Path(folder, "weights", "googlenet_bvlc.npz"), allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    found = parse_caffemodel(caffemodel(arrays, connected=CONNECTED), NAME)
    assert arrays_digest(found) == network.weights.arrays


WHOLE = np.ones((2, 3, 1, 1), np.float32)
MALFORMED = {
    "an HTML page": b"<html>Not found</html>",
    "an integer without an end": b"\xff" * 20,
    "a field without a number": b"\x00",
    "a group": varint(2 << 3 | 3),
    "a layer that is a number": field(2, 7),
    "a layer that ends too early": field(2, b"x" * 100)[:50],
    "weights without a name": layer("", 4, [blob(WHOLE, WHOLE.shape, old=True)], old=True),
    "a name that is a number": field(2, field(4, 7)),
    "a name of a megabyte": layer("x" * (1 << 20), 4, [blob(WHOLE, WHOLE.shape, old=True)], old=True),
    "three arrays": layer("a", 4, [blob(WHOLE, WHOLE.shape, old=True)] * 3, old=True),
    "a layer twice": layer("a", 4, [blob(WHOLE, WHOLE.shape, old=True)], old=True) * 2,
    "fewer numbers than the shape says": layer("a", 4, [blob(WHOLE[:1], WHOLE.shape, old=True)], old=True),
    "a shape that claims terabytes": layer("a", 4, [blob(WHOLE, (1 << 40, 1, 1, 1), old=True)], old=True),
    "a shape of no numbers": layer("a", 4, [blob(WHOLE, (0, 3, 1, 1), old=True)], old=True),
    "a shape of five numbers": layer("a", 4, [blob(WHOLE, (1, 2, 3, 1, 1), old=False)], old=False),
    "a shape of two numbers, of a convolution": layer("a", 4, [blob(WHOLE, (2, 3), old=False)], old=False),
    "no shape": layer("a", 4, [field(5, WHOLE.tobytes())], old=True),
    "numbers of three bytes": layer("a", 4, [field(5, b"abc") + field(1, 1)], old=True),
    "a million fields": field(9, 1) * (MOST_FIELDS + 1),
}


@pytest.mark.parametrize("data", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_network_of_caffe_is_refused_with_the_reason(data: bytes) -> None:
    """A file that is something else is named with what is wrong, whatever it claims."""
    with pytest.raises(
        DataLoss,
        match=f"^{NAME} cannot be read as a network of Caffe: it|^{NAME} cannot be read as a network of Caffe: an",
    ):
        parse_caffemodel(data, NAME)


def test_damaged_files_end_in_an_error_or_in_arrays() -> None:
    """Whatever a damaged file holds, its reader ends with a message for people, or with arrays that a digest judges."""
    weight = np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2)
    whole = caffemodel({"a.weight": weight, "a.bias": np.ones(2, np.float32)})
    generator = random.Random(0)
    for number in range(2000):
        data = bytearray(whole[: generator.randrange(len(whole))] if number % 3 == 0 else whole)
        for _ in range(generator.randrange(1, 4)):
            if data:
                data[generator.randrange(len(data))] = generator.randrange(256)
        try:
            arrays = parse_caffemodel(bytes(data), NAME)
        except DataLoss as error:
            assert error.message.startswith(NAME)  # noqa: PT017  either will do
        else:
            assert all(array.dtype == np.float32 for array in arrays.values())


def test_bare_numbers_are_read_in_their_order() -> None:
    """A file without a header gives each layer's weights and then its biases, without copying them."""
    shapes = [(2, 3, 1, 2), (4, 2, 1, 1)]
    numbers = np.arange(flat_bytes(shapes) // 4, dtype="<f4")
    (first, first_bias), (second, second_bias) = parse_flat(numbers.tobytes(), shapes, "net_weight_0")
    assert np.array_equal(np.concatenate([first.ravel(), first_bias, second.ravel(), second_bias]), numbers)
    assert (first.shape, second.shape) == ((2, 3, 1, 2), (4, 2, 1, 1))
    assert not first.flags.owndata


@pytest.mark.parametrize("change", [-4, -1, 1, 4])
def test_bare_numbers_of_another_length_are_refused(change: int) -> None:
    """A truncated file, or a longer one, is named with the bytes that it has and those that are expected."""
    expected = flat_bytes([(2, 3, 1, 2)])
    message = f"net_weight_0 has {expected + change} bytes, and {expected} are expected: get the file again"
    with pytest.raises(DataLoss, match=message):
        parse_flat(b"x" * (expected + change), [(2, 3, 1, 2)], "net_weight_0")
