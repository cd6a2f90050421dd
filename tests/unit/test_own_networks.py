"""Networks of users' own: their descriptions, their names, and how they are found in a store."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from offshelf.errors import DataLoss, InvalidInput, NotFound
from offshelf.extraction.extractors import Extractors
from offshelf.extraction.own.description import name_of, parse_description
from offshelf.extraction.own.stored import find_network, list_networks, read_file, read_network
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import Network, fingerprint
from offshelf.store import keys
from tests.unit.fakes import MemoryStore
from tests.unit.own_networks import PLAIN, described, put_network


def test_a_description_is_read_with_what_it_leaves_out() -> None:
    """One number stands for all channels or both sides; what an output of feature maps becomes is their average."""
    found = parse_description(b'{"size": [96, 128], "colour": "BGR", "mean": [1, 2.5, 3], "scale": 2}', "net.json")
    assert (found.size, found.colour, found.mean, found.scale) == ((96, 128), "BGR", (1.0, 2.5, 3.0), (2.0, 2.0, 2.0))
    assert (found.output, found.pooling, found.licence) == ("", "avg", "")
    assert parse_description(json.dumps(found.to_json()), "again") == found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": 0}, r"net\.json: size must be pixels from 1 to 2048: one number, or \[height, width\]; found 0\."),
        ({"size": 2049}, "size must be .* found 2049"),
        ({"size": [10, 20, 3]}, "size must be"),
        ({"size": 224.0}, "size must be"),
        ({"size": True}, "size must be"),
        ({"colour": "rgb"}, 'colour must be "RGB" or "BGR"; found "rgb"'),
        ({"colour": ["RGB"]}, "colour must be"),
        ({"mean": "0"}, "mean must be a number, or a list of three, one a channel"),
        ({"mean": [1, 2]}, "mean must be"),
        ({"mean": float("nan")}, "mean must be"),
        ({"mean": 10**400}, "mean must be"),
        ({"scale": [1, 1, float("inf")]}, "scale must be"),
        ({"scale": [1, 0, 1]}, "scale must be .* none of them 0"),
        ({"pooling": "mean"}, 'pooling must be "avg" or "max" or "flatten"; found "mean"'),
        ({"output": 3}, "output must be a line of text; found 3"),
        ({"licence": "two\nlines"}, "licence must be a line of text"),
        ({"std": 1}, r'net\.json has "std", which means nothing; it may have size, colour'),
    ],
)
def test_a_description_that_cannot_be_used_says_what_is_expected(change: dict[str, Any], expected: str) -> None:
    """The message names the file, what is expected and what was found."""
    with pytest.raises(InvalidInput, match=expected):
        parse_description(json.dumps(PLAIN | change), "net.json")


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "3", "null", "[" * 10_000, '{"size": 224}', " " * 20_000, b"\xff\xfe"]
)
def test_what_is_no_description_is_answered_with_an_example(text: str | bytes) -> None:
    """A file of another kind, or one that lacks something, is refused with the text of one that would do."""
    with pytest.raises(InvalidInput, match=r'net\.json .*\{"size": 224, "colour": "RGB"'):
        parse_description(text, "net.json")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("net.onnx", "onnx:net@0123456789ab"),
        ("My Net (2).ONNX", "onnx:my-net-2@0123456789ab"),
        ("/some/where/resnet_50.v1.onnx", "onnx:resnet_50.v1@0123456789ab"),
        ("C:\\nets\\a.onnx", "onnx:a@0123456789ab"),
        ("猫.onnx", "onnx:network@0123456789ab"),
        ("x" * 300, f"onnx:{'x' * 40}@0123456789ab"),
    ],
)
def test_networks_are_named_after_their_file_and_content(file: str, name: str) -> None:
    """A name fits on a line and into every place where extractors are named, and is of this very network."""
    assert name_of("onnx", file, "0123456789abcdef" * 4) == name


def test_a_network_is_found_by_its_name(store: MemoryStore) -> None:
    """What stands before the @ is for people; the precision is a parameter."""
    network = put_network(store, licence="MIT")
    extractors = Extractors(store)
    spec = extractors.find(network.name)
    assert re.fullmatch(r"onnx:net@[0-9a-f]{12}", spec.name)
    assert spec == network.spec == extractors.find(network.name.replace("net@", "other@"))
    assert "net.onnx" in spec.description
    assert "MIT" in spec.description
    half = extractors.find(f"{network.name}:bf16")
    assert isinstance(half.method, Network)
    assert (half.name, half.method.precision) == (f"{network.name}:bf16", "bf16")
    assert fingerprint(half) != fingerprint(spec)
    assert extractors.own() == [spec]
    assert extractors.find("hog") is EXTRACTORS["hog"]


@pytest.mark.parametrize(
    "name", ["onnx:net@0123456789ab", "tflite:net@0123456789ab", "onnx:net", "onnx:", "tflite:a@b"]
)
def test_a_network_that_is_not_there_says_how_to_bring_it(store: MemoryStore, name: str) -> None:
    """A name from another installation, or of a network that went with the garbage, is answered with what to do."""
    put_network(store)
    with pytest.raises(NotFound, match="Name its file"):
        Extractors(store).find(name)
    assert Extractors(store).lookup(name) is None


def test_a_name_of_the_other_format_is_not_taken_for_it(store: MemoryStore) -> None:
    """An ONNX file is not found as TensorFlow Lite."""
    network = put_network(store)
    with pytest.raises(NotFound):
        find_network(store, network.name.replace("onnx:", "tflite:"))


def test_what_decides_the_vectors_decides_the_fingerprint(store: MemoryStore) -> None:
    """Another file, preprocessing, output or pooling is another extractor; another licence or file name is not."""
    network = put_network(store)
    own = fingerprint(network.spec)
    for changes in (
        {"size": 64},
        {"colour": "BGR"},
        {"mean": 1},
        {"scale": 2},
        {"pooling": "max"},
        {"output": "maps"},
    ):
        assert fingerprint(replace(network, description=described(**changes)).spec) != own
    assert fingerprint(replace(network, file="0" * 64).spec) != own
    assert fingerprint(replace(network, description=described(licence="MIT")).spec) == own
    assert fingerprint(replace(network, file_name="other.onnx", user="bob").spec) == own


@pytest.mark.parametrize("damaged", [b"", b"{}", b"[]", b'{"version":2}', b"\xff"])
def test_a_damaged_card_is_no_network(store: MemoryStore, damaged: bytes) -> None:
    """It is said to be damaged where it is named, and does not keep others from being listed."""
    whole, network = put_network(store), put_network(store, size=64)
    store.put(keys.own_network_card(network.digest), damaged)
    with pytest.raises(DataLoss, match="damaged"):
        find_network(store, network.name)
    assert list_networks(store) == [whole]


def test_a_card_under_anothers_name_is_refused(store: MemoryStore) -> None:
    """Nobody gets another network than the one that a name stands for."""
    network = put_network(store)
    store.put(keys.own_network_card("0" * 64), network.to_json())
    with pytest.raises(DataLoss, match="not its own"):
        read_network(store, "0" * 64)


def test_a_file_that_was_altered_is_not_read(store: MemoryStore) -> None:
    """Its digest is checked before anything is parsed; one that has gone says so."""
    network = put_network(store)
    assert read_file(EXTRACTORS["hog"], store) is None
    key = keys.own_network_file(network.digest, "onnx")
    store.put(key, b"something else")
    with pytest.raises(DataLoss, match=r"net\.onnx, .* is not the file that was uploaded"):
        read_file(network.spec, store)
    store.delete(key)
    with pytest.raises(NotFound, match="not in the store any more"):
        read_file(network.spec, store)


@pytest.fixture
def store() -> MemoryStore:
    """An empty store."""
    return MemoryStore()
