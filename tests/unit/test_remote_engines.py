"""Networks that run on a remote engine, as far as no such engine is needed for it."""

from __future__ import annotations

import importlib.util
import inspect
import re
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offshelf.errors import EngineMismatch, EngineUnavailable, InvalidInput, NotFound, UnknownName
from offshelf.extraction.extractors import Extractors
from offshelf.extraction.pipeline import Extraction
from offshelf.extraction.registry import EXTRACTORS, find
from offshelf.extraction.saved_model import export_saved_model
from offshelf.extraction.spec import REMOTE_ENGINE, Network, fingerprint, fingerprints, served
from offshelf.extraction.weights.finding import availability
from offshelf.images import ImageStatus
from offshelf.rpc.remote_engine import connector
from offshelf.served_models import ServedModel, parse_served_models
from offshelf.settings import Settings
from tests.unit.fakes import MemoryStore
from tests.unit.own_networks import put_network
from tests.unit.test_extraction_pipeline import png

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offshelf.extraction.spec import ExtractorSpec

ROOT = Path(__file__).parents[2]
SQUEEZENET = EXTRACTORS["squeezenet"]


def test_where_networks_run_is_written_in_one_line() -> None:
    """An extractor, a server, and if need be what the server calls the network, and in which version."""
    text = "resnet50=gpu-1:8500 vgg16:max=[::1]:8500  vgg19=10.0.0.1:80/vgg xception=gpu:1/x.y/12"
    assert parse_served_models(text) == (
        ServedModel("resnet50", "gpu-1:8500", "resnet50"),
        ServedModel("vgg16:max", "[::1]:8500", "vgg16-max"),
        ServedModel("vgg19", "10.0.0.1:80", "vgg"),
        ServedModel("xception", "gpu:1", "x.y", 12),
    )


@pytest.mark.parametrize(
    "text",
    [
        *("resnet50", "resnet50=gpu", "resnet50=gpu:0", "resnet50=gpu:65536", "=gpu:1"),
        *("a=b:1/m/x", "a=b:1 a=c:1", "a=http://b:1", "a=b:1/m/1/2"),
    ],
)
def test_what_is_no_address_is_refused_with_the_form(text: str) -> None:
    """A mistyped setting names the variable and shows how it is written."""
    with pytest.raises(InvalidInput, match=r"OFFSHELF_REMOTE_ENGINES=.* expected EXTRACTOR=HOST:PORT, or"):
        Settings.from_environment({"OFFSHELF_REMOTE_ENGINES": text})


@pytest.mark.parametrize(
    ("written", "name"),
    [("resnet", "resnet50"), ("resnet:max", "resnet50:max"), ("googlenet:avg", "googlenet"), ("vgg16:f32", "vgg16")],
)
def test_an_extractor_may_be_written_as_in_a_run(written: str, name: str) -> None:
    """An alias, or a parameter that is the default, means the same extractor and the same model of the server."""
    settings = Settings.from_environment({"OFFSHELF_REMOTE_ENGINES": f"{written}=127.0.0.1:8500"})
    assert settings.remote_engines == (ServedModel(name, "127.0.0.1:8500", name.replace(":", "-")),)
    extractors = Extractors(MemoryStore(), remote=[model.extractor for model in settings.remote_engines])
    assert extractors.find(written) == extractors.find(name) == served(find(name))
    with suppress(NotFound):  # of the extra tfserving, which not every installation has
        connector(settings, patience=1.0)(extractors.find(written)).close()


def test_a_server_may_call_a_network_by_its_alias() -> None:
    """A model's name that is written out is the server's affair, and stays."""
    assert parse_served_models("resnet=gpu:8500/resnet") == (ServedModel("resnet50", "gpu:8500", "resnet"),)


@pytest.mark.parametrize("text", ["resnet=a:1 resnet50=b:1", "resnet50=a:1 resnet50:avg=a:1"])
def test_one_extractor_has_one_engine(text: str) -> None:
    """Whoever names an extractor twice, in whatever words, reads which."""
    with pytest.raises(InvalidInput, match=r"each extractor once \(resnet50 is there twice\)\.$"):
        Settings.from_environment({"OFFSHELF_REMOTE_ENGINES": text})


def test_the_engine_is_part_of_the_fingerprint() -> None:
    """Vectors from a server are never mixed with those from the engine in process; others stay as they are."""
    remote = Extractors(MemoryStore(), remote=["squeezenet", "vgg16:max"])
    here = Extractors(MemoryStore())
    for name in ("squeezenet", "vgg16:max"):
        assert fingerprint(remote.find(name)) != fingerprint(here.find(name))
        assert remote.find(name).dimension == here.find(name).dimension
    for name in ("vgg16", "squeezenet:max", "squeezenet:bf16", "hog", "resnet50"):
        assert remote.find(name) == here.find(name)
    assert list(remote.registered) == list(EXTRACTORS)
    assert remote.registered["squeezenet"] == remote.find("squeezenet") == served(SQUEEZENET)


def test_features_of_either_engine_are_kept() -> None:
    """Garbage collection takes nothing from an unfinished run, whichever engine is set by then."""
    both = {fingerprint(SQUEEZENET), fingerprint(served(SQUEEZENET))}
    assert fingerprints(SQUEEZENET) == fingerprints(served(SQUEEZENET)) == both
    assert fingerprints(EXTRACTORS["hog"]) == {fingerprint(EXTRACTORS["hog"])}
    assert fingerprints(find("squeezenet:bf16")) == {fingerprint(find("squeezenet:bf16"))}


@pytest.mark.parametrize(
    ("name", "kind", "said"),
    [
        ("resnet5", UnknownName, "There is no extractor 'resnet5'. Did you mean 'resnet50'?"),
        ("hog", InvalidInput, "hog has no network"),
        ("squeezenet:bf16", InvalidInput, "leave bf16 out of the name"),
        ("overfeat", InvalidInput, "overfeat runs on no remote engine, and cannot be exported for one"),
        ("overfeat:classes", InvalidInput, "OpenVINO's own operations"),
        ("onnx:net@0123456789ab", InvalidInput, "a network of a user's own"),
    ],
)
def test_what_no_server_can_run_is_refused_at_the_start(name: str, kind: type[Exception], said: str) -> None:
    """No service starts with a setting that names what is not there, or cannot be served; the line names it."""
    with pytest.raises(InvalidInput) as refused:
        Extractors(MemoryStore(), remote=[name])
    assert refused.value.message.startswith("OFFSHELF_REMOTE_ENGINES cannot be used: ")
    assert said in refused.value.message
    assert isinstance(refused.value.__cause__, kind) or kind is InvalidInput


def test_what_no_server_can_run_is_not_exported_either(tmp_path: Path) -> None:
    """A network that TensorFlow cannot run is refused before half a gigabyte of weights is looked for and read."""
    with pytest.raises(InvalidInput, match="overfeat:-2 runs on no remote engine, and cannot be exported"):
        export_saved_model("overfeat:-2", tmp_path, weights=str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_networks_without_keras_say_so() -> None:
    """Which networks can be exported is what their definitions import: Keras, or OpenVINO's operations alone."""
    for spec in EXTRACTORS.values():
        if isinstance(spec.method, Network):
            module, _, _ = spec.method.builder.partition(":")
            source = inspect.getsource(importlib.import_module(module))
            assert spec.method.keras == bool(re.search(r"(import|from) keras\b", source)), spec.name


def test_networks_of_users_own_run_here() -> None:
    """A network that somebody brought has one fingerprint, and no server."""
    own = put_network(MemoryStore()).spec
    with pytest.raises(InvalidInput, match="a network of a user's own"):
        served(own)
    assert fingerprints(own) == {fingerprint(own)}


def test_no_weights_are_needed_for_what_runs_elsewhere() -> None:
    """An extractor with a remote engine can be used without its weights being here: the server has them."""
    assert "needs its weights" in availability(SQUEEZENET, "")
    assert availability(served(SQUEEZENET), "") == ""


class FakeEngine:
    """An engine elsewhere that answers with the mean colour, or not at all."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.closed = False
        self.stops: list[threading.Event | None] = []

    seconds_in_inference = 0.0

    def infer(self, pixels: NDArray[np.uint8], *, stop: threading.Event | None = None) -> NDArray[np.float32]:
        """Answer."""
        self.stops.append(stop)
        if self.error:
            raise self.error
        return np.asarray(pixels.mean(axis=(0, 1)), np.float32)

    def close(self) -> None:
        """Take note."""
        self.closed = True


def remote_extraction(engine: FakeEngine) -> tuple[Extraction, list[ExtractorSpec]]:
    """Make an extraction whose network is elsewhere."""
    method = SQUEEZENET.method
    assert isinstance(method, Network)
    spec = replace(served(SQUEEZENET), dimension=3)
    asked: list[ExtractorSpec] = []

    def connect(spec: ExtractorSpec) -> Any:
        asked.append(spec)
        return engine

    extraction = Extraction(
        spec, store=MemoryStore(), weights="", cores=1, max_pixels=10**6, decode_seconds=60.0, connect=connect
    )
    return extraction, asked


def test_images_go_through_the_engine_elsewhere() -> None:
    """Nothing is converted here; each image is decoded here and computed there."""
    engine = FakeEngine()
    extraction, asked = remote_extraction(engine)
    extraction.start()
    try:
        stop = threading.Event()
        rows = extraction.extract_bytes([png(seed) for seed in range(5)], stop=stop)
    finally:
        extraction.close()
    assert [row.status for row in rows] == [ImageStatus.OK] * 5
    assert len({row.vector.tobytes() for row in rows if row.vector is not None}) == 5
    assert engine.stops[1:] == [stop] * 5
    assert [spec.method.engine for spec in asked if isinstance(spec.method, Network)] == [REMOTE_ENGINE]
    assert engine.closed


@pytest.mark.parametrize("error", [EngineUnavailable("away"), EngineMismatch("another one")])
def test_an_engine_that_fails_is_no_quarantine(error: Exception) -> None:
    """No image is put aside because of an engine that is away, or serves something else."""
    engine = FakeEngine()
    extraction, _ = remote_extraction(engine)
    extraction.start()
    engine.error = error
    try:
        with pytest.raises(type(error)):
            extraction.extract_bytes([png(1), png(2)])
    finally:
        extraction.close()


@pytest.mark.parametrize("error", [EngineUnavailable("away"), EngineMismatch("another one")])
def test_nothing_is_ready_before_the_engine_has_answered(error: Exception) -> None:
    """An extractor becomes ready by one real inference; what keeps it from that is its error."""
    engine = FakeEngine(error)
    extraction, _ = remote_extraction(engine)
    with pytest.raises(type(error)):
        extraction.start()
    assert engine.closed


def test_without_the_extra_it_is_said_what_to_install(tmp_path: Path) -> None:
    """Whoever sets a remote engine, or exports a network, without TensorFlow Serving's API reads how to get it."""
    if importlib.util.find_spec("tensorflow_serving") is not None:
        pytest.skip("the extra tfserving is installed here")
    settings = Settings.from_environment({"OFFSHELF_REMOTE_ENGINES": "squeezenet=127.0.0.1:8500"})
    with pytest.raises(NotFound, match=r"pip install 'offshelf\[tfserving\]'"):
        connector(settings, patience=1.0)(served(SQUEEZENET))
    with pytest.raises(NotFound, match=r"pip install 'offshelf\[tfserving\]'"):
        export_saved_model("squeezenet", tmp_path)


def test_nothing_else_imports_tensorflow() -> None:
    """TensorFlow stays an extra: two modules name it, one that speaks to its server and one that exports for it."""
    named = re.compile(r"(import|from)\s+tensorflow|[\"']tensorflow(_serving)?[.\"']")
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "services").rglob("*.py")]
    found = {path.relative_to(ROOT / "src").as_posix() for path in sources if named.search(path.read_text())}
    assert found == {"offshelf/extraction/saved_model.py", "offshelf/rpc/serving_api.py"}
