"""What each network must pass: it computes what TensorFlow computes from the same weights and images.

Another one of Keras is a line in `tests/golden/definitions.py`, any other a module like `tests/golden/googlenet.py` and
its name in `tests/golden/registry.py`; and the vectors that `tests/golden/make.py` computes for it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from offshelf.extraction.engine import Engine
from offshelf.extraction.registry import EXTRACTORS, find
from offshelf.extraction.spec import Network
from tests.golden import generated
from tests.golden.definitions import DEFINITIONS
from tests.golden.keras_process import preprocessed
from tests.golden.networks import random_network
from tests.golden.registry import REFERENCES

GOLDEN = Path(generated.__file__).parent
NAMES = [
    name if reference.quick else pytest.param(name, marks=pytest.mark.nightly) for name, reference in REFERENCES.items()
]


def network(name: str) -> Network:
    """Look the network of an extractor up."""
    method = find(name).method
    assert isinstance(method, Network)
    return method


def named(name: str, output: str) -> str:
    """Name an extractor that takes this output, as users do."""
    return name if output == network(name).output else f"{name}:{output}"


@pytest.mark.parametrize("name", NAMES)
def test_vectors_are_those_of_tensorflow(name: str) -> None:
    """An extractor gives the features, and the class probabilities, that TensorFlow gives."""
    with np.load(GOLDEN / f"{name}.npz", allow_pickle=False) as golden:
        assert set(golden.files) == set(REFERENCES[name].outputs)
        for output in golden.files:
            engine = Engine(random_network(find(named(name, output))), cores=1)
            for number, expected in enumerate(golden[output]):
                vector = engine.infer(generated.image(name, number, network(name).size))
                assert vector.shape == (find(named(name, output)).dimension,)
                assert np.linalg.norm(vector - expected) < 1e-5 * np.linalg.norm(expected)


@pytest.mark.nightly
@pytest.mark.parametrize("name", DEFINITIONS)
def test_outputs_are_what_the_catalogue_says(name: str) -> None:
    """Each output has the length that is registered; pooling pools the feature maps; classes have probabilities."""
    image = generated.image(name, 0, network(name).size)
    vectors = {
        output: Engine(random_network(find(named(name, output))), cores=1).infer(image)
        for output in network(name).outputs
    }
    assert {output: vector.size for output, vector in vectors.items()} == dict(network(name).outputs)
    if not DEFINITIONS[name].normalizes:
        maps = vectors["flatten"].reshape(-1, vectors["avg"].size)
        np.testing.assert_allclose(maps.mean(axis=0), vectors["avg"], rtol=1e-4, atol=1e-5 * maps.max())
        np.testing.assert_allclose(maps.max(axis=0), vectors["max"], rtol=1e-4, atol=1e-5 * maps.max())
    if "classes" in vectors:
        assert vectors["classes"].sum() == pytest.approx(1, abs=1e-4)


def test_preprocessing_is_each_networks_own() -> None:
    """The registered order of colours, mean and scale do what the authors' own function does to any pixel."""
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    for name, expected in preprocessed(pixels).items():
        method = network(name)
        ordered = pixels[:, :, ::-1] if method.colour == "BGR" else pixels
        found = (ordered - np.array(method.mean)) / np.array(method.scale)
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5, err_msg=name)


def test_every_network_has_golden_vectors() -> None:
    """No network is offered without having been compared with another implementation."""
    networks = {name for name, spec in EXTRACTORS.items() if isinstance(spec.method, Network)}
    assert networks == set(REFERENCES)
    assert networks == {path.stem for path in GOLDEN.glob("*.npz")}


def test_a_network_is_one_registration() -> None:
    """Whoever adds a network adds its reference and nothing else: what makes and compares vectors names none."""
    for part in ("make.py", "networks.py", "keras_process.py", "reference.py"):
        source = (GOLDEN / part).read_text()
        assert not [name for name in REFERENCES if name in source], part
