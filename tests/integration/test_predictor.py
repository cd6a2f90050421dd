"""The predictor as its users have it: a process of its own, over real gRPC, with real extraction and a real store."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import psutil
import pytest
from PIL import Image

from offshelf import errors, models
from offshelf.digests import digest_of, digest_of_bytes
from offshelf.estimators import building, persistence
from offshelf.extraction.pipeline import Extraction
from offshelf.extraction.registry import find
from offshelf.extraction.spec import fingerprint
from offshelf.rpc.channel import open_sync_channel
from offshelf.store import open_store
from offshelf.v1 import predictor_pb2 as pb
from offshelf.v1 import predictor_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf.store import ObjectStore

TOKEN = "a-token-for-tests"
EXTRACTOR = "hsv444"
CLASSES = ("blue", "red")


def photo(label: str, seed: int) -> bytes:
    """Make a picture that is mostly of one colour."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 90, (40, 60, 3))
    pixels[..., 2 if label == "blue" else 0] += 150
    encoded = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """Make a store."""
    return open_store(str(tmp_path_factory.mktemp("predictor") / "store"))


def write_model(store: ObjectStore, estimator: object, extractor: str, fingerprint: str) -> str:
    """Write a model of red and blue."""
    data = persistence.save(estimator)
    card = models.ModelCard(
        digest=digest_of([extractor, fingerprint]),
        extractor=extractor,
        fingerprint=fingerprint,
        classifier="LR",
        settings={"C": 1.0},
        classes=CLASSES,
        dataset="d" * 64,
        table="e" * 64,
        images=20,
        measure="accuracy",
        seed=0,
        versions=models.installed_versions(),
        estimator_sha256=digest_of_bytes(data),
        made_by="a test",
    )
    models.write_model(store, card, data)
    return card.digest


@pytest.fixture(scope="module")
def estimator(store: ObjectStore) -> object:
    """Fit a classifier on the features of 20 pictures."""
    labels = [CLASSES[number % 2] for number in range(20)]
    extraction = Extraction(find(EXTRACTOR), store=store, weights="", cores=1, max_pixels=10**6, decode_seconds=30.0)
    try:
        extraction.start()
        rows = extraction.extract_bytes([photo(label, seed) for seed, label in enumerate(labels)])
    finally:
        extraction.close()
    X = np.stack([row.vector for row in rows if row.vector is not None])
    y = np.array([CLASSES.index(label) for label in labels])
    return building.fit(building.build("LR", {"C": 1.0}, 0), X, y)


@pytest.fixture(scope="module")
def model(store: ObjectStore, estimator: object) -> str:
    """Write a model that can be used here."""
    return write_model(store, estimator, EXTRACTOR, fingerprint(find(EXTRACTOR)))


@pytest.fixture(scope="module")
def process(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """Start the service; in the end it is asked to stop, and must do so in order and leave nothing behind."""
    token: Path = tmp_path_factory.mktemp("token") / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    settings = {
        "OFFSHELF_STORE": store.url.removeprefix("file://"),
        "OFFSHELF_TOKEN_FILE": str(token),
        "OFFSHELF_WEIGHTS": "",
        "OFFSHELF_FETCH": "never",
        "OFFSHELF_CORES": "1",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "offshelf.services.predictor"],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        children = psutil.Process(process.pid).children(recursive=True)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.fixture(scope="module")
def stub(process: subprocess.Popen[str]) -> Iterator[predictor_pb2_grpc.PredictorServiceStub]:
    """Connect to the service once it says that it is ready."""
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    with open_sync_channel(ready["address"], token=TOKEN) as channel:
        yield predictor_pb2_grpc.PredictorServiceStub(channel)


def test_prediction(stub: predictor_pb2_grpc.PredictorServiceStub, model: str) -> None:
    """Pictures sent along get their class and its probability; a file that is no picture gets the reason instead."""
    images = [photo("red", 100), b"no picture", photo("blue", 101), b""]
    answer = stub.Predict(pb.PredictRequest(model=model, images=images), timeout=120)

    red, text, blue, empty = answer.results
    assert (red.label, blue.label) == ("red", "blue")
    assert set(red.probabilities) == set(CLASSES)
    assert red.probabilities["red"] > 0.5
    assert sum(blue.probabilities.values()) == pytest.approx(1.0)
    for unusable in (text, empty):
        assert unusable.error
        assert not unusable.label


def test_predictions_side_by_side(stub: predictor_pb2_grpc.PredictorServiceStub, model: str) -> None:
    """Many clients at once each get the answer to their own question."""
    labels = [CLASSES[number % 2] for number in range(12)]

    def classify(number: int) -> str:
        image = photo(labels[number], 200 + number)
        return str(stub.Predict(pb.PredictRequest(model=model, images=[image]), timeout=120).results[0].label)

    with ThreadPoolExecutor(len(labels)) as pool:
        assert list(pool.map(classify, range(len(labels)))) == labels


def test_models(stub: predictor_pb2_grpc.PredictorServiceStub, model: str) -> None:
    """The models of the store are listed, and each shows its card."""
    assert model in stub.ListModels(pb.ListModelsRequest()).models
    described = stub.DescribeModel(pb.DescribeModelRequest(model=model))
    assert (described.extractor, described.classifier, tuple(described.classes)) == (EXTRACTOR, "LR", CLASSES)
    assert json.loads(described.card_json)["digest"] == model


def test_refusals(
    stub: predictor_pb2_grpc.PredictorServiceStub, store: ObjectStore, model: str, estimator: object
) -> None:
    """What cannot be answered is refused with the reason and the fix, as the contract says."""
    image = photo("red", 1)
    with pytest.raises(errors.InvalidInput, match="not the digest"):
        stub.Predict(pb.PredictRequest(model="best", images=[image]))
    with pytest.raises(errors.InvalidInput, match="at least one"):
        stub.Predict(pb.PredictRequest(model=model))
    with pytest.raises(errors.NotFound):
        stub.Predict(pb.PredictRequest(model="0" * 64, images=[image]))
    with pytest.raises(errors.NotFound):
        stub.DescribeModel(pb.DescribeModelRequest(model="best"))
    with pytest.raises(errors.InvalidInput, match="page token"):
        stub.ListModels(pb.ListModelsRequest(page_token="../.."))
    older = write_model(store, estimator, EXTRACTOR, "0" * 64)
    with pytest.raises(errors.Conflict, match="another version of hsv444"):
        stub.Predict(pb.PredictRequest(model=older, images=[image]))
    network = write_model(store, estimator, "googlenet", fingerprint(find("googlenet")))
    with pytest.raises(errors.Conflict, match="needs its weights"):
        stub.Predict(pb.PredictRequest(model=network, images=[image]), timeout=120)
