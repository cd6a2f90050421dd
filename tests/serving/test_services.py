"""Services whose engine is remote, as they really run: processes of their own, and a server that comes and goes."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import Conflict, EngineUnavailable
from offshelf.extraction.pipeline import Extraction
from offshelf.extraction.registry import EXTRACTORS, find
from offshelf.extraction.spec import fingerprint, served
from offshelf.features import read_segment
from offshelf.rpc.remote_engine import connector
from offshelf.services.predictor.installed import InstalledExtractors
from offshelf.settings import Settings
from offshelf.store import open_store
from offshelf.v1 import extractor_pb2 as pb
from tests.integration.extractor_process import digit, make_sample, running, spawned, written
from tests.serving.conftest import model_server
from tests.serving.scripted import Script, serving
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from offshelf.extraction.spec import ExtractorSpec

NAME = "squeezenet"
SPEC = served(find(NAME))
FINGERPRINT = fingerprint(SPEC)


def free_port() -> int:
    """Find a port that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_an_extractor_with_a_remote_engine(tmp_path: Path, address: str) -> None:
    """A process without weights and without TensorFlow in its memory writes segments with what the server computes."""
    sample = make_sample(tmp_path)
    with running(tmp_path, NAME, remote_engines=f"{NAME}={address}", engine_seconds="120") as extractor:
        described = extractor.stub.Describe(pb.DescribeRequest())
        assert (described.extractor, described.fingerprint, described.dimension) == (NAME, FINGERPRINT, 512)
        answer = written(extractor.stub, sample.request(extractor=NAME, fingerprint=FINGERPRINT))
        maps = Path(f"/proc/{extractor.process.pid}/maps")
        assert not maps.exists() or "tensorflow" not in maps.read_text()
    assert (answer.images_extracted, answer.images_quarantined) == (12, 1)
    rows = read_segment(sample.store, answer.key).rows
    assert sum(row.vector is not None and row.vector.shape == (512,) for row in rows) == 12
    assert fingerprint(find(NAME)) != FINGERPRINT


def test_a_server_that_goes_costs_no_image(models: Path) -> None:
    """While the server is away a unit fails as an outage and nothing is quarantined; once it is back, work goes on."""
    store = MemoryStore()
    port = free_port()
    settings = Settings.from_environment(
        {"OFFSHELF_REMOTE_ENGINES": f"{NAME}=127.0.0.1:{port}", "OFFSHELF_ENGINE_SECONDS": "120"}
    )
    extraction = extraction_of(SPEC, store, settings, patience=120.0)
    with model_server(models, port):
        extraction.start()
        (before,) = extraction.extract_bytes([digit(1)])
    try:
        engine = extraction._engine
        engine._patience = 0.5  # type: ignore[union-attr]
        with pytest.raises(EngineUnavailable, match=f"127.0.0.1:{port}"):
            extraction.extract_bytes([digit(1), digit(2)])
        engine._patience = 120.0  # type: ignore[union-attr]
        with model_server(models, port):
            (after,) = extraction.extract_bytes([digit(1)])
    finally:
        extraction.close()
    assert before.vector is not None
    assert after.vector is not None
    assert before.vector.tobytes() == after.vector.tobytes()


def extraction_of(spec: ExtractorSpec, store: MemoryStore, settings: Settings, *, patience: float) -> Extraction:
    """Put an extraction together as services do."""
    return Extraction(
        spec,
        store=store,
        weights="",
        cores=1,
        max_pixels=10**6,
        decode_seconds=60.0,
        connect=connector(settings, patience=patience),
    )


def test_nothing_is_ready_before_the_server_has_answered(tmp_path: Path) -> None:
    """A process says that it is ready after one real inference; a server with another network is said instead."""
    with (
        serving(Script()) as address,
        spawned(tmp_path, NAME, remote_engines=f"{NAME}={address}") as process,
    ):
        assert process.stdout is not None
        said = process.stdout.readline()
        assert process.wait(60) == 2
    assert '"ready": false' in said
    assert "EngineMismatch" in said
    assert f"expected the fingerprint {FINGERPRINT[:12]} of {NAME}, found ffffffffffff" in said


@pytest.mark.parametrize(
    ("engines", "said"),
    [
        ("squeezenett=h:1", "There is no extractor 'squeezenett'. Did you mean 'squeezenet'?"),
        ("hog=h:1", "hog has no network"),
        ("squeezenet=h", "expected EXTRACTOR=HOST:PORT"),
    ],
)
def test_what_cannot_be_is_refused_at_the_start(tmp_path: Path, engines: str, said: str) -> None:
    """A mistyped setting ends the process with one line that names it."""
    with spawned(tmp_path, NAME, remote_engines=engines) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert process.wait(60) == 2
    assert "OFFSHELF_REMOTE_ENGINES" in line
    assert said in line


def test_the_predictor_asks_the_same_engine(tmp_path: Path, address: str) -> None:
    """A model is served with features from the engine it was trained on; another one is refused, with the fix."""
    store = open_store(str(tmp_path / "store"))
    settings = Settings.from_environment(
        {"OFFSHELF_REMOTE_ENGINES": f"{NAME}={address}", "OFFSHELF_ENGINE_SECONDS": "120", "OFFSHELF_CORES": "1"}
    )
    connect = connector(settings, patience=60.0)
    here = InstalledExtractors(store, settings, EXTRACTORS, connect=connect)
    embedder = here.open(NAME, FINGERPRINT)
    try:
        (row,) = embedder.extract_bytes([digit(1)])
        assert row.vector is not None
    finally:
        embedder.close()
    with pytest.raises(Conflict, match="from another engine than this installation has: set OFFSHELF_REMOTE_ENGINES"):
        here.open(NAME, fingerprint(find(NAME)))
    elsewhere = InstalledExtractors(store, Settings(store=str(tmp_path / "store")), EXTRACTORS)
    with pytest.raises(Conflict, match="from another engine"):
        elsewhere.open(NAME, FINGERPRINT)
