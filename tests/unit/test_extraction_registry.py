from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from offshelf.errors import DataLoss, NotFound, UnknownName
from offshelf.extraction.registry import EXTRACTORS, find
from offshelf.extraction.registry.descriptors import COLOUR_SPACES
from offshelf.extraction.registry.networks import NO_CLASSES
from offshelf.extraction.spec import (
    CONVERTER_VERSION,
    Descriptor,
    ExtractorSpec,
    Network,
    Weights,
    WeightsFile,
    fingerprint,
)
from offshelf.extraction.weights.arrays import arrays_digest, parse_arrays
from offshelf.extraction.weights.fetching import FetchPolicy
from offshelf.extraction.weights.finding import accepted, availability, read_weights
from offshelf.extraction.weights.stock import networks
from offshelf.extraction.weights.web import check_address
from offshelf.settings import Settings
from offshelf.store import keys
from tests.unit.fakes import MemoryStore
from tests.unit.tiny_network import FILE, random_arrays, tiny_spec

GOOGLENET = EXTRACTORS["googlenet"]


@pytest.fixture
def network() -> Network:
    """Give the registered GoogLeNet's network."""
    assert isinstance(GOOGLENET.method, Network)
    return GOOGLENET.method


def test_the_extractors_of_the_paper_are_there() -> None:
    """A user finds the extractors by FrImCla's names, each described and with a cost."""
    assert {"vgg16", "vgg19", "resnet50", "inception", "xception", "densenet", "googlenet"} <= EXTRACTORS.keys()
    assert {"lab444", "lab888", "hsv444", "hsv888", "haralick", "hog"} <= EXTRACTORS.keys()
    for name, spec in EXTRACTORS.items():
        assert find(name) is spec
        assert spec.name == name
        assert spec.description.endswith(".")
        assert spec.dimension > 0
        assert spec.cost_seconds > 0


def test_an_unknown_name_is_answered_with_the_nearest() -> None:
    """A misspelt extractor gets the name that was meant and all others, also among extractors of one's own."""
    with pytest.raises(UnknownName, match=r"Did you mean 'googlenet'\? Known: .*googlenet, haarhog, haralick"):
        find("GoogleNet")
    with pytest.raises(UnknownName, match="Known: mine"):
        find("hog", {"mine": GOOGLENET})
    with pytest.raises(UnknownName, match=r"Give several as a list: \['hog', 'lab888'\]\. Known: "):
        find("hog, lab888")


def test_fingerprints_stay_what_they_are() -> None:
    """Vectors extracted by an earlier release are found again: fingerprints change only when vectors do."""
    expected = {
        "googlenet": "85747d6e54c62e6e",
        "lab444": "7a3b3af86ef435a1",
        "lab888": "521c766a39d50dc3",
        "hsv444": "556796214e2ed493",
        "hsv888": "d23de38d6523b7f5",
        "haralick": "b32ba787f18186e2",
        "hog": "33082c2174a05718",
    }
    assert {name: fingerprint(EXTRACTORS[name])[:16] for name in expected} == expected


def test_everything_that_decides_a_vector_is_in_the_fingerprint(network: Network) -> None:
    """Another network, preprocessing or parameter never finds the vectors of this one; another wording does."""
    weights = network.weights
    methods: list[Network | Descriptor] = [
        replace(network, architecture="another"),
        replace(network, weights=replace(weights, arrays="0" * 64)),
        replace(network, size=(256, 256)),
        replace(network, size=(224, 256)),
        replace(network, colour="RGB"),
        replace(network, mean=(0.0, 0.0, 0.0)),
        replace(network, scale=(2.0, 2.0, 2.0)),
        replace(network, precision="bf16"),
        replace(network, output="max"),
        Descriptor("hog", 1, {"size": 128}),
        Descriptor("hog", 2, {"size": 128}),
        Descriptor("hog", 1, {"size": 64}),
        Descriptor("haralick", 1, {"size": 128}),
    ]
    found = {fingerprint(replace(GOOGLENET, method=method)) for method in [network, *methods]}
    assert len(found) == len(methods) + 1
    assert fingerprint(replace(GOOGLENET, name="x", description="y", cost_seconds=9.0)) == fingerprint(GOOGLENET)
    same = replace(network, weights=replace(weights, files=(WeightsFile("other.caffemodel", "sha1:" + "1" * 40),)))
    assert fingerprint(replace(GOOGLENET, method=same)) == fingerprint(GOOGLENET)


def test_the_catalogue_is_light() -> None:
    """The planner and the catalogue know all extractors without importing a heavy library."""
    program = (
        "import sys, offshelf.extraction.registry, offshelf.extraction.weights.finding as w;"
        "w.availability(offshelf.extraction.registry.EXTRACTORS['googlenet'], '/nowhere');"
        "print([m for m in ('numpy', 'PIL', 'openvino', 'keras', 'skimage', 'grpc') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["lab444", "hsv888", "haralick", "hog"])
def test_descriptors_are_always_available(name: str) -> None:
    """A descriptor needs no weights."""
    assert availability(EXTRACTORS[name], "") == ""


def test_missing_weights_are_named_with_the_fix(tmp_path: Path) -> None:
    """A network without its weights says in one line which file is missing, where it was looked for, and the fix."""
    assert availability(GOOGLENET, "") == (
        "googlenet needs its weights, googlenet_bvlc.npz or bvlc_googlenet.caffemodel, and OFFSHELF_WEIGHTS is not "
        "set, and your cache has no such file: put the file into a folder and set OFFSHELF_WEIGHTS to it (it is "
        "published at https://dl.caffe.berkeleyvision.org/bvlc_googlenet.caffemodel)."
    )
    absent = availability(GOOGLENET, str(tmp_path))
    assert "googlenet_bvlc.npz" in absent
    assert "OFFSHELF_WEIGHTS" in absent
    assert str(tmp_path) not in absent
    with pytest.raises(NotFound, match="googlenet_bvlc"):
        read_weights(GOOGLENET, str(tmp_path))


def test_an_address_of_weights_that_nobody_reads_from_is_refused_with_the_fix() -> None:
    """An address of another kind is not mistaken for a folder."""
    assert "set it to a folder, s3://bucket/prefix or https://" in availability(GOOGLENET, "ftp://example.org/weights")


def test_weights_that_may_be_downloaded_are_missing_with_how(tmp_path: Path) -> None:
    """A catalogue downloads nothing, and says by what command it is done, how much comes and from where."""
    fetch = FetchPolicy.of(Settings(store="/s"))
    assert availability(EXTRACTORS["vgg16"], str(tmp_path), fetch) == (
        "vgg16 needs its weights, vgg16_weights_tf_dim_ordering_tf_kernels_notop.h5, and the folder that "
        "OFFSHELF_WEIGHTS names has no such file that can be read: `offshelf weights pull vgg16`, or a run that names "
        "it (-e vgg16), "
        "downloads it (58.9 MB from storage.googleapis.com)."
    )
    assert list(tmp_path.iterdir()) == []


def test_the_changelog_names_all_extractors() -> None:
    """Who reads what there is since which version finds every extractor that the catalogue has."""
    said = (Path(__file__).parents[2] / "CHANGELOG.md").read_text()
    names = [*EXTRACTORS, *(f"{space}:x,y,z" for space in COLOUR_SPACES)]
    assert [name for name in names if f"`{name}`" not in said] == []


def test_networks_without_classes_say_so() -> None:
    """Nobody looks in vain for the classes of a network: the catalogue and the README name those that have none."""
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    (row,) = (line for line in readme.splitlines() if line.startswith("| `googlenet:classes`"))
    for spec in EXTRACTORS.values():
        if isinstance(spec.method, Network):
            without = "classes" not in spec.method.outputs
            assert (NO_CLASSES in spec.description) is without
            assert (f"not of `{spec.name}`" in row or f"and `{spec.name}`" in row) is without


def test_every_source_is_among_the_hosts_that_are_asked() -> None:
    """Each address in the registry can be fetched from with the settings as they come."""
    fetch = FetchPolicy.of(Settings(store="/s"))
    for spec in networks():
        for source in fetch.sources(accepted(spec)):
            check_address(source.url, source.hosts)
            assert source.file.digest


def test_a_wrong_file_is_refused_before_it_is_parsed(tmp_path: Path) -> None:
    """A weights file with another SHA-256 makes its extractor unavailable, with what was expected and found."""
    (tmp_path / "googlenet_bvlc.npz").write_bytes(b"not an npz")
    reason = availability(GOOGLENET, str(tmp_path))
    assert "is not the file it should be" in reason
    assert "cf4ea6d9d5b6" in reason
    with pytest.raises(DataLoss, match="replace it"):
        read_weights(GOOGLENET, str(tmp_path))


def test_the_right_file_is_read(tmp_path: Path) -> None:
    """A weights file with the registered SHA-256 gives the registered arrays."""
    arrays = random_arrays()
    spec = tiny_spec(tmp_path, arrays)
    assert availability(spec, str(tmp_path)) == ""
    assert isinstance(spec.method, Network)
    parsed = parse_arrays(read_weights(spec, str(tmp_path))[1], spec.method.weights)
    assert parsed.keys() == arrays.keys()
    assert all(np.array_equal(parsed[name], arrays[name]) for name in arrays)


def test_a_converted_network_needs_no_weights(tmp_path: Path) -> None:
    """A network that is in the store already is available where the weights are not."""
    spec = tiny_spec(tmp_path, random_arrays())
    store = MemoryStore()
    assert FILE in availability(spec, "", store=store)
    store.put(keys.network(fingerprint(spec), CONVERTER_VERSION, "network.json"), b"{}")
    assert availability(spec, "", store=store) == ""


@pytest.mark.parametrize("change", ["type", "value", "shape", "name", "pickle", "truncated"])
def test_arrays_are_checked(tmp_path: Path, change: str) -> None:
    """A weights file whose arrays are not the registered ones is refused, whatever its own digest says."""
    arrays = random_arrays()
    weights = Weights("a tiny network", (), "none", arrays_digest(arrays))
    name = "conv2/3x3.weight"
    altered: dict[str, np.ndarray] = dict(arrays)
    match change:
        case "type":
            altered[name] = arrays[name].astype(np.float64)
        case "value":
            altered[name] = arrays[name] + np.float32(1e-3)
        case "shape":
            altered[name] = arrays[name].reshape(-1)
        case "name":
            altered["other"] = altered.pop(name)
        case "pickle":
            altered[name] = np.array([{}], dtype=object)
    path = tmp_path / "w.npz"
    np.savez(path, allow_pickle=change == "pickle", **altered)
    data = path.read_bytes()
    with pytest.raises(DataLoss):
        parse_arrays(data[:1000] if change == "truncated" else data, weights)


def test_one_network_from_two_files_is_one() -> None:
    """The digest of arrays does not depend on their order or the file they came from."""
    arrays = random_arrays()
    backwards = {name: np.asfortranarray(arrays[name]) for name in reversed(arrays)}
    assert arrays_digest(backwards) == arrays_digest(arrays)


def test_an_extractor_is_one_registration() -> None:
    """An extractor of one's own is a spec: it has a fingerprint and is found by name."""
    spec = ExtractorSpec("mine", "Mine.", 13, 0.1, Descriptor("haralick", version=7))
    assert find("mine", {"mine": spec}) is spec
    assert fingerprint(spec) != fingerprint(EXTRACTORS["haralick"])
