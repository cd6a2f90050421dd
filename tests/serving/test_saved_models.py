"""Networks that are exported, served by TensorFlow's own loader, and asked through the real protocol."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offshelf.cli import main
from offshelf.errors import Conflict, EngineMismatch, InvalidInput
from offshelf.extraction.conversion import convert, network_of
from offshelf.extraction.engine import Engine
from offshelf.extraction.registry import find
from offshelf.extraction.runtime import load_openvino
from offshelf.extraction.saved_model import export_saved_model
from offshelf.extraction.spec import Network, fingerprint, served
from offshelf.extraction.weights.finding import read_weights
from offshelf.rpc.remote_engine import RemoteEngine
from offshelf.served_models import ServedModel
from tests.golden.generated import image
from tests.golden.networks import random_network
from tests.serving.conftest import NETWORKS, model_server
from tests.unit import tiny_tflite
from tests.unit.fakes import MemoryStore
from tests.unit.own_networks import put_network

if TYPE_CHECKING:
    from numpy.typing import NDArray


def engine(address: str, name: str, *, model: str = "", version: int | None = None, patience: float = 30.0) -> Any:
    """Connect to an extractor's network."""
    spec = served(find(name))
    return RemoteEngine(
        ServedModel(name, address, model or name, version),
        dimension=spec.dimension,
        fingerprint=fingerprint(spec),
        seconds=120.0,  # the first answer waits until TensorFlow has loaded the model
        patience=patience,
    )


def pixels(name: str, number: int = 0) -> NDArray[np.uint8]:
    """Draw an image of the size that a network takes."""
    network = find(name).method
    assert isinstance(network, Network)
    return image(name, number, network.size)


def difference(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    """Largest difference between two vectors, as a part of the first one's norm."""
    return float(np.abs(one - other).max() / np.linalg.norm(one))


@pytest.mark.parametrize("name", NETWORKS)
def test_both_engines_see_the_same(address: str, models: Path, name: str) -> None:
    """Features from TensorFlow Serving are those of OpenVINO, which can read the export too."""
    shown = pixels(name)
    ours = Engine(random_network(find(name)), cores=1).infer(shown)
    remote = engine(address, name)
    try:
        assert difference(ours, remote.infer(shown)) < 1e-4
    finally:
        remote.close()
    core = load_openvino().Core()
    exported = core.compile_model(core.read_model(models / name / "1"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    assert difference(ours, exported({"images": shown[np.newaxis]})["features"][0]) < 1e-4


def test_googlenet_with_its_real_weights(tmp_path: Path) -> None:
    """The real network gives the same features of a photo by both engines."""
    material = os.environ.get("OFFSHELF_TEST_MATERIAL", "")
    if not material:
        pytest.skip("OFFSHELF_TEST_MATERIAL is not set: there are no real weights here")
    weights = str(Path(material) / "weights")
    spec = find("googlenet")
    export_saved_model("googlenet", tmp_path, weights=weights)
    ours = Engine(convert(spec, *read_weights(spec, weights)), cores=1).infer(pixels("googlenet"))
    with model_server(tmp_path) as (_, address):
        remote = engine(address, "googlenet")
        try:
            assert difference(ours, remote.infer(pixels("googlenet"))) < 1e-4
        finally:
            remote.close()


def test_neighbours_change_nothing_that_counts(models: Path) -> None:
    """A server that puts images of several callers into one batch gives each the vector that it has alone, nearly."""
    core = load_openvino().Core()
    exported = core.compile_model(
        core.read_model(models / "squeezenet" / "1"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    batch = np.stack([pixels("squeezenet", number) for number in range(2)])
    together = exported({"images": batch})["features"]
    for alone, one in zip(batch, together, strict=True):
        assert difference(exported({"images": alone[np.newaxis]})["features"][0], one) < 1e-5


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"version": 7}, r"\(model squeezenet version 7\) .* expected version 7, found version 1 \(AVAILABLE\)"),
        ({"model": "vgg16"}, r"\(model vgg16\) has no model of that name"),
        ({"model": "mobilenetv2"}, r"refused an image \(INVALID_ARGUMENT: images is not"),
    ],
    ids=["version", "name", "size"],
)
def test_what_is_not_served_is_said(address: str, changes: dict[str, Any], said: str) -> None:
    """A wrong name or version is an error at once that says what the server has, and no outage that is waited for."""
    remote = engine(address, "squeezenet", patience=600.0, **changes)
    try:
        with pytest.raises(EngineMismatch, match=said):
            remote.infer(pixels("squeezenet"))
    finally:
        remote.close()


def test_an_export_of_another_network_is_found_out(address: str) -> None:
    """A model that has the right shapes and is another extractor's is not taken for it."""
    spec = served(find("squeezenet:max"))
    remote = RemoteEngine(
        ServedModel("squeezenet:max", address, "squeezenet"),
        dimension=spec.dimension,
        fingerprint=fingerprint(spec),
        seconds=120.0,
        patience=0.0,
    )
    try:
        with pytest.raises(
            EngineMismatch, match=f"expected the fingerprint {fingerprint(spec)[:12]} of squeezenet:max"
        ):
            remote.infer(pixels("squeezenet"))
    finally:
        remote.close()


def test_callers_do_not_get_each_others_vectors(address: str) -> None:
    """Images sent side by side have the vectors that they have one after another."""
    remote = engine(address, "squeezenet")
    shown = [pixels("squeezenet", number) for number in range(8)]
    found: dict[int, NDArray[np.float32]] = {}
    try:
        alone = [remote.infer(each) for each in shown]
        threads = [
            threading.Thread(target=lambda number=number: found.__setitem__(number, remote.infer(shown[number])))
            for number in range(len(shown))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        remote.close()
    assert len({vector.tobytes() for vector in alone}) == len(shown)
    assert all(difference(alone[number], found[number]) < 1e-5 for number in range(len(shown)))


def test_a_version_is_never_written_over(models: Path) -> None:
    """A folder that a server may be reading stays as it is."""
    with pytest.raises(Conflict, match="give another --version"):
        export_saved_model("squeezenet", models)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("hog", "has no network"),
        ("squeezenet:bf16", "leave bf16 out of the name"),
        ("overfeat", "made of OpenVINO's own operations"),
        ("onnx:net@0123456789ab", "only those that Offshelf itself defines"),
    ],
)
def test_what_cannot_be_served_is_not_exported(tmp_path: Path, name: str, said: str) -> None:
    """A descriptor has no network, a server its own precision, and OverFeat no definition in Keras: said at once."""
    with pytest.raises(InvalidInput, match=said):
        export_saved_model(name, tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_the_converter_writes_today_is_read() -> None:
    """A network that TensorFlow has just converted to TensorFlow Lite gives its outputs by their names."""
    store, shown = MemoryStore(), np.full((32, 32, 3), 60, np.uint8)
    for output in (tiny_tflite.MAPS, tiny_tflite.MEANS):
        own = put_network(store, tiny_tflite.converted(), format_="tflite", output=output)
        vector = Engine(network_of(own.spec, store=store, weights=""), cores=1).infer(shown)
        assert vector == pytest.approx(60.0 * np.arange(1, tiny_tflite.CHANNELS + 1), rel=1e-5)


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`offshelf weights export` without the weights names the file, and leaves nothing behind."""
    assert main(["weights", "export", "resnet50", "--saved-model", str(tmp_path), "--in", str(tmp_path)]) == 2
    assert "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_command_writes_what_servers_look_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`offshelf weights export` makes the folder of a version, and says how to use it."""
    material = os.environ.get("OFFSHELF_TEST_MATERIAL", "")
    if not material:
        pytest.skip("OFFSHELF_TEST_MATERIAL is not set: there are no real weights here")
    weights = str(Path(material) / "weights")
    command = ["weights", "export", "googlenet:max", "--saved-model", str(tmp_path), "--version", "3"]
    assert main([*command, "--in", weights]) == 0
    assert (tmp_path / "googlenet-max" / "3" / "saved_model.pb").is_file()
    assert [path.name for path in (tmp_path / "googlenet-max").iterdir()] == ["3"]
    assert "OFFSHELF_REMOTE_ENGINES=googlenet:max=HOST:8500" in capsys.readouterr().out
