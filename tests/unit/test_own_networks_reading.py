"""Files of networks that users bring, read and run as extractors: good ones, bad ones, and hostile ones."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offshelf.errors import InvalidInput
from offshelf.extraction.conversion import convert, network_of
from offshelf.extraction.engine import Engine
from offshelf.extraction.networks.external_data import refuse_external_data
from offshelf.extraction.own.stored import read_file
from offshelf.extraction.pipeline import Extraction
from offshelf.extraction.spec import Network
from offshelf.store import keys
from tests.unit import tiny_onnx, tiny_tflite
from tests.unit.fakes import MemoryStore
from tests.unit.own_networks import put_network
from tests.unit.tiny_onnx import CHANNELS, model, network, node, tensor, text, value
from tests.unit.worker_handlers import ENVIRONMENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offshelf.extraction.own.stored import OwnNetwork

COLOUR = (30, 60, 90)
MEAN = 60.0
"""Of the three."""
EACH = np.arange(1, CHANNELS + 1, dtype=np.float32)


@pytest.fixture
def store() -> MemoryStore:
    """An empty store."""
    return MemoryStore()


def vector_of(store: MemoryStore, own: OwnNetwork) -> NDArray[np.float32]:
    """Compute the vector of a picture of one colour."""
    converted = network_of(own.spec, store=store, weights="")
    height, width = own.description.size
    return Engine(converted, cores=1).infer(np.full((height, width, 3), COLOUR, np.uint8))


@pytest.mark.parametrize(
    ("data", "description", "expected"),
    [
        (network(), {}, EACH * MEAN),
        (network(), {"pooling": "max"}, EACH * MEAN),
        (network(), {"pooling": "flatten"}, np.repeat(EACH * MEAN, 32 * 32)),
        (network("side", batch="n"), {"size": [48, 40]}, EACH * MEAN),
        (network(batch=4), {}, EACH * MEAN),
        (network(extra_output=True), {"output": "means"}, EACH * MEAN),
        (network(), {"mean": [30, 0, 30], "scale": [1, 2, 4]}, EACH * (0 + 30 + 15) / 3),
        (network(), {"colour": "BGR", "mean": [90, 0, 0]}, EACH * (0 + 60 + 30) / 3),
    ],
    ids=["avg", "max", "flatten", "any size", "a batch", "named output", "mean and scale", "BGR"],
)
def test_a_network_gives_what_its_description_says(
    store: MemoryStore, data: bytes, description: dict[str, Any], expected: NDArray[np.float32]
) -> None:
    """Size, order of colours, mean, scale, output and pooling are as described."""
    assert vector_of(store, put_network(store, data, **description)) == pytest.approx(expected, rel=1e-5)


def test_a_layer_inside_can_be_taken(store: MemoryStore) -> None:
    """A network that only gives classes is of use by the name of the layer before."""
    pools = [node("Conv", ["image", "w"], ["maps"]), node("GlobalAveragePool", ["maps"], ["means"])]
    weights = tensor("w", np.ones((2, 3, 1, 1), np.float32))
    data = model(pools, [value("image", [1, 3, 32, 32])], [value("means", [1, 2, 1, 1])], [weights])
    found = vector_of(store, put_network(store, data, output="maps", pooling="flatten"))
    assert found.shape == (2 * 32 * 32,)


def test_whole_numbers_go_in_rounded_and_bounded(store: MemoryStore) -> None:
    """A quantized input gets the nearest whole numbers of its range, and never one that has wrapped around."""
    nodes = [node("Cast", ["image"], ["real"], to=tiny_onnx.FLOAT), node("GlobalAveragePool", ["real"], ["means"])]
    data = model(nodes, [value("image", [1, 3, 32, 32], tiny_onnx.UINT8)], [value("means", [1, 3, 1, 1])])
    assert vector_of(store, put_network(store, data)).tolist() == [30, 60, 90]
    assert vector_of(store, put_network(store, data, mean=[-200.4, 60.6, 0], scale=[1, 1, 4])).tolist() == [230, 0, 22]
    assert vector_of(store, put_network(store, data, mean=-240)).tolist() == [255, 255, 255]


@pytest.mark.parametrize(
    ("data", "description", "message"),
    [
        (b"no network at all", {}, "cannot be read: expected a network in ONNX; found"),
        (b"", {}, "cannot be read"),
        (network()[:-40], {}, "cannot be read: .*too early"),
        (network(64), {}, r"expected an image of 32 x 32 pixels and 3 channels.*found an input of shape \[1,3,64,64\]"),
        (network(channels=1), {}, r"expected an image .* 3 channels.*found an input of shape \[1,1,32,32\]"),
        (network(extra_output=True), {}, "expected the name of one output .*found 2 .maps of .*; means of"),
        (network(), {"output": "logits"}, "expected an output 'logits', .*found maps of shape"),
        (network(scale=1e38), {}, "not finite numbers"),
        (network("side"), {"size": 300, "pooling": "flatten"}, r"1 to 200000 features .*found .*\[1,5,300,300\]"),
        (network(elsewhere="/etc/passwd"), {}, "names other files, which are never read"),
        (
            model([node("Nothing", ["image"], ["y"])], [value("image", [1, 3, 32, 32])], [value("y", [1, 5])]),
            {},
            "cannot be read: .*Nothing",
        ),
        (
            model(
                [node("Add", ["a", "b"], ["y"])], [value(name, [1, 3, 32, 32]) for name in "ab"], [value("y", [1, 3])]
            ),
            {},
            "expected one input, an image; found 2",
        ),
        (
            model([node("Relu", ["a"], ["y"])], [value("a", [1, 12])], [value("y", [1, 12])]),
            {},
            r"expected an image .*found an input of shape \[1,12\]",
        ),
    ],
)
def test_a_network_that_does_not_fit_says_why_and_leaves_nothing(
    store: MemoryStore, data: bytes, description: dict[str, Any], message: str
) -> None:
    """The message names the file, what is expected and what was found; nothing of it is cached."""
    own = put_network(store, data, name="my net.onnx", **description)
    before = set(store.objects)
    with pytest.raises(InvalidInput, match=rf"(?s)^my net\.onnx .*{message}"):
        network_of(own.spec, store=store, weights="")
    assert set(store.objects) == before


@pytest.mark.parametrize("data", [b"no network", b"", b"\x1c\x00\x00\x00TFL3" + bytes(64)])
def test_what_is_no_tensorflow_lite_is_refused(store: MemoryStore, data: bytes) -> None:
    """A broken file of the other format is refused as clearly."""
    own = put_network(store, data, name="net.tflite", format_="tflite")
    with pytest.raises(InvalidInput, match=r"net\.tflite cannot be read: expected a network in TensorFlow Lite; found"):
        network_of(own.spec, store=store, weights="")
    assert not any(key.startswith(keys.NETWORKS) for key in store.objects)


def test_a_tensorflow_lite_with_several_outputs_needs_the_name_of_one(store: MemoryStore) -> None:
    """Where its description names none, the message names the file and all outputs, and nothing of it is cached."""
    own = put_network(store, tiny_tflite.FILE.read_bytes(), name="two.tflite", format_="tflite")
    before = set(store.objects)
    with pytest.raises(InvalidInput) as refused:
        network_of(own.spec, store=store, weights="")
    assert refused.value.message == (
        "two.tflite does not fit: expected the name of one output in its description; found 2 "
        f"({tiny_tflite.MAPS} of shape [1,32,32,5]; {tiny_tflite.MEANS} of shape [1,5])."
    )
    assert set(store.objects) == before


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        ({"output": tiny_tflite.MEANS}, EACH * MEAN),
        ({"output": tiny_tflite.MAPS}, EACH * MEAN),
        ({"output": tiny_tflite.MAPS, "pooling": "flatten"}, np.tile(EACH * MEAN, 32 * 32)),
    ],
    ids=["means", "maps", "flat maps"],
)
def test_an_output_of_a_tensorflow_lite_is_taken_by_its_name(
    store: MemoryStore, description: dict[str, Any], expected: NDArray[np.float32]
) -> None:
    """Whichever of its outputs the description names is what a user gets, in TensorFlow Lite's order of channels."""
    own = put_network(store, tiny_tflite.FILE.read_bytes(), format_="tflite", **description)
    assert vector_of(store, own) == pytest.approx(expected, rel=1e-5)


def test_a_name_that_a_tensorflow_lite_lacks_is_answered_with_those_it_has(store: MemoryStore) -> None:
    """A misspelt output of a description is not taken for another."""
    own = put_network(store, tiny_tflite.FILE.read_bytes(), name="two.tflite", format_="tflite", output="logits")
    with pytest.raises(InvalidInput, match=r"^two\.tflite .*expected an output 'logits', .*found P.*:0 .*; P.*:1 "):
        network_of(own.spec, store=store, weights="")


def test_a_file_that_ends_its_reader_ends_nothing_else(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network that makes the process crash that reads it is refused like any other bad one."""
    spec = put_network(store).spec
    assert isinstance(spec.method, Network)
    found = read_file(spec, store)
    assert found is not None
    for variable, given in ENVIRONMENT.items():
        monkeypatch.setenv(variable, given)
    deadly = replace(spec, method=replace(spec.method, builder="tests.unit.worker_handlers:end_at_once"))
    with pytest.raises(InvalidInput, match=r"net\.onnx cannot be read: it ended the process that tried"):
        convert(deadly, *found)


def test_a_network_that_wants_more_memory_than_there_is_is_refused(store: MemoryStore) -> None:
    """A file of some hundred bytes that asks for terabytes costs its reader alone, and no other process its memory."""
    nodes = [
        node("ConstantOfShape", ["shape"], ["zeros"]),
        node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
        node("Add", ["image", "zero"], ["maps"]),
    ]
    data = model(
        nodes,
        [value("image", [1, 3, 32, 32])],
        [value("maps", [1, 3, 32, 32])],
        [tensor("shape", np.array([2_000_000, 1_000_000], np.int64))],
    )
    with pytest.raises(InvalidInput, match=r"net\.onnx cannot be used: it wants more memory than"):
        network_of(put_network(store, data).spec, store=store, weights="")


@pytest.mark.parametrize("where", ["initializer", "constant", "subgraph", "function", "sparse"])
def test_other_files_are_named_in_vain_wherever_they_are_named(where: str) -> None:
    """No path in a network is ever opened, however deep it is hidden."""
    hidden = tensor("w", np.ones(1, np.float32), elsewhere="../secret")
    constant = text(4, "Constant") + text(5, text(1, "value") + text(5, hidden))
    branch = text(4, "If") + text(5, text(1, "then_branch") + text(6, text(1, constant)))
    graphs = {
        "initializer": text(7, text(5, hidden)),
        "constant": text(7, text(1, constant)),
        "subgraph": text(7, text(1, branch)),
        "function": text(7, b"") + text(25, text(7, constant)),
        "sparse": text(7, text(15, text(1, hidden))),
    }
    with pytest.raises(InvalidInput, match="names other files"):
        refuse_external_data(graphs[where], "net.onnx")
    refuse_external_data(network(), "net.onnx")


def test_a_file_that_nests_without_end_is_refused() -> None:
    """It costs neither the stack nor time."""
    message = b""
    for _ in range(5000):
        message = text(1, text(5, text(6, message)))
    with pytest.raises(InvalidInput, match="nests too deep"):
        refuse_external_data(text(7, message), "net.onnx")


def test_an_extraction_learns_the_length_of_its_vectors(store: MemoryStore) -> None:
    """Nobody has to say how many features a network gives."""
    own = put_network(store)
    extraction = Extraction(own.spec, store=store, weights="", cores=1, max_pixels=10**6, decode_seconds=30)
    assert extraction.dimension == 0
    extraction.start()
    try:
        assert extraction.dimension == CHANNELS
        (row,) = extraction.extract_bytes([b"P6 2 2 255\n" + bytes(12)])
        assert row.vector is not None
        assert row.vector.tolist() == [0] * CHANNELS
    finally:
        extraction.close()


@pytest.fixture(scope="module")
def material() -> Path:
    """The folder with real networks and photos."""
    folder = os.environ.get("OFFSHELF_TEST_MATERIAL", "")
    if not folder:
        pytest.skip("OFFSHELF_TEST_MATERIAL is not set: there are no real networks and photos here")
    return Path(folder)


def tflite(store: MemoryStore, material: Path, name: str) -> Extraction:
    """Start the extractor of a real, quantized network, which takes pixels as they are."""
    data = (material / "weights" / name).read_bytes()
    own = put_network(store, data, name=name, format_="tflite", size=224)
    extraction = Extraction(own.spec, store=store, weights="", cores=2, max_pixels=10**8, decode_seconds=30)
    extraction.start()
    return extraction


def test_a_quantized_tflite_knows_cats_and_dogs(store: MemoryStore, material: Path) -> None:
    """With mean 0 and scale 1 a uint8 network sees what it was trained on: its classes are right."""
    extraction = tflite(store, material, "mobilenet_v2_uint8.tflite")
    try:
        for kind, classes in (("cat", range(281, 288)), ("dog", range(151, 269))):
            photos = sorted((material / "images" / "dogs-cats" / "test" / kind).iterdir())[:20]
            vectors = [row.vector for row in extraction.extract_bytes([photo.read_bytes() for photo in photos])]
            # Class 0 of these 1001 is "background".
            best = [np.argsort(-vector)[:5] - 1 for vector in vectors if vector is not None]
            assert sum(any(number in classes for number in found) for found in best) >= 18
            assert all(vector is not None and vector.size == 1001 and vector.max() <= 1 for vector in vectors)
    finally:
        extraction.close()


def test_a_tflite_embedding_is_dequantized(store: MemoryStore, material: Path) -> None:
    """Its features are real numbers from 0 to about 6, as the network means them, and not bytes."""
    extraction = tflite(store, material, "mobilenet_v1_embedding_uint8.tflite")
    try:
        photos = sorted((material / "images" / "dogs-cats" / "test" / "cat").iterdir())[:4]
        vectors = [row.vector for row in extraction.extract_bytes([photo.read_bytes() for photo in photos])]
    finally:
        extraction.close()
    for vector in vectors:
        assert vector is not None
        assert vector.shape == (1024,)
        assert 0 == vector.min() < vector.max() < 6.1
