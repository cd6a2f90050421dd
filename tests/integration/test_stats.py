"""Stats as its users have it: a process of its own, over real gRPC, with a real store in a directory."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pyarrow.parquet as pq
import pytest

from offshelf import errors, measures, scores
from offshelf.datasets import Dataset, Item, write_dataset
from offshelf.digests import digest_of, digest_of_bytes
from offshelf.rpc.channel import open_sync_channel
from offshelf.store import keys, open_store
from offshelf.v1 import selection_pb2, stats_pb2_grpc
from offshelf.v1 import stats_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf.store import ObjectStore

TOKEN = "a-token-for-tests"
PLAN = scores.ValidationPlan(4, 0)
ABILITY = {("googlenet", "SVM"): 6.0, ("googlenet", "RF"): 2.5, ("hog", "SVM"): 0.2}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> ObjectStore:
    """Make a store."""
    return open_store(str(tmp_path_factory.mktemp("stats") / "store"))


@pytest.fixture(scope="module")
def process(store: ObjectStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[subprocess.Popen[str]]:
    """Start the service; in the end it is asked to stop and must do so in order."""
    token: Path = tmp_path_factory.mktemp("token") / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    process = subprocess.Popen(
        [sys.executable, "-m", "offshelf.services.stats"],
        env={**os.environ, "OFFSHELF_STORE": store.url.removeprefix("file://"), "OFFSHELF_TOKEN_FILE": str(token)},
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0


@pytest.fixture(scope="module")
def stub(process: subprocess.Popen[str]) -> Iterator[stats_pb2_grpc.StatsServiceStub]:
    """Connect to the service once it says that it is ready."""
    assert process.stdout is not None
    ready = json.loads(process.stdout.readline())
    with open_sync_channel(ready["address"], token=TOKEN) as channel:
        yield stats_pb2_grpc.StatsServiceStub(channel)


@pytest.fixture(scope="module")
def request_(store: ObjectStore) -> pb.CompareRequest:
    """Make scores of three combinations and the request to compare them."""
    labels = ["cat", "dog"] * 40
    dataset = Dataset.of(
        Item(f"{label}/{number:02}.jpg", label, "", digest_of_bytes(bytes([number])))
        for number, label in enumerate(labels)
    )
    write_dataset(store, dataset)
    rng = np.random.default_rng(0)
    targets = np.array(dataset.targets)
    entries = []
    for (extractor, classifier), ability in ABILITY.items():
        digest = scores.scores_digest(dataset.digest, digest_of(extractor), classifier, PLAN, "accuracy")
        evidence = rng.normal(size=len(targets)) + ability * (targets - 0.5)
        second = 1 / (1 + np.exp(-evidence))
        probabilities = np.stack([1 - second, second], axis=1)
        for fold in range(PLAN.folds):
            items = np.arange(fold, len(targets), PLAN.folds)
            scores.write_fold(
                store,
                digest,
                scores.FoldScores(
                    dataset=dataset.digest,
                    table=digest_of(extractor),
                    classifier=classifier,
                    fold=fold,
                    classes=dataset.classes,
                    items=tuple(items.tolist()),
                    images=tuple(dataset.items[item].digest for item in items),
                    labels=tuple(targets[items].tolist()),
                    probabilities=probabilities[items],
                    measures=measures.compute(targets[items], probabilities[items], 2),
                    settings={"C": 1.0},
                ),
            )
        scores.write_manifest(store, digest, classes=dataset.classes, folds=PLAN.folds)
        combination = selection_pb2.Combination(extractor=extractor, classifier=classifier)
        entries.append(pb.CompareRequest.Entry(combination=combination, scores=digest))
    return pb.CompareRequest(dataset=dataset.digest, measure="accuracy", entries=entries)


def test_comparison(stub: stats_pb2_grpc.StatsServiceStub, store: ObjectStore, request_: pb.CompareRequest) -> None:
    """A run's combinations come back ranked, with what the test says of each, and a verdict in words."""
    answer = stub.Compare(request_)

    best, _, worst = answer.scores
    assert (best.combination.extractor, best.combination.classifier) == ("googlenet", "SVM")
    assert (best.p_value, best.different_from_best) == (1.0, False)
    assert worst.combination.extractor == "hog"
    assert worst.different_from_best
    assert worst.p_value < 0.05 < best.mean - worst.mean
    assert answer.verdict.startswith("The best is googlenet + SVM: accuracy ")
    assert json.loads(store.get(keys.comparison(answer.comparison)))["dataset"] == request_.dataset
    assert stub.Compare(request_) == answer


def test_report(stub: stats_pb2_grpc.StatsServiceStub, store: ObjectStore, request_: pb.CompareRequest) -> None:
    """The report of a comparison is in the store afterwards: page, table and scores."""
    comparison = stub.Compare(request_).comparison
    answer = stub.RenderReport(
        pb.RenderReportRequest(
            comparison=comparison,
            title="Pets & <friends>",
            skipped=[pb.SkippedImage(path="cat/broken.jpg", status="unreadable", reason="it is empty")],
            left_out=["vgg16 is left out: its weights are missing."],
        )
    )

    assert set(answer.keys) == {"report.html", "table.csv", "scores.parquet"}
    page = store.get(answer.keys["report.html"]).decode()
    for text in ("Pets &amp; &lt;friends&gt;", "cat/broken.jpg", "it is empty", "vgg16 is left out"):
        assert text in page
    assert store.get(answer.keys["table.csv"]).decode().count("\n") == 1 + len(ABILITY)
    assert pq.read_table(io.BytesIO(store.get(answer.keys["scores.parquet"]))).num_rows == PLAN.folds * len(ABILITY)


def test_refusals(stub: stats_pb2_grpc.StatsServiceStub, request_: pb.CompareRequest) -> None:
    """What cannot be compared or reported is refused with the reason, as the contract says."""
    with pytest.raises(errors.UnknownName, match="Did you mean 'accuracy'"):
        stub.Compare(pb.CompareRequest(dataset=request_.dataset, measure="acuracy", entries=request_.entries))
    with pytest.raises(errors.InvalidInput, match="nothing to compare"):
        stub.Compare(pb.CompareRequest(dataset=request_.dataset, measure="accuracy"))
    missing = pb.CompareRequest.Entry(combination=request_.entries[0].combination, scores="0" * 64)
    with pytest.raises(errors.NotFound):
        stub.Compare(pb.CompareRequest(dataset=request_.dataset, measure="accuracy", entries=[missing]))
    with pytest.raises(errors.NotFound):
        stub.RenderReport(pb.RenderReportRequest(comparison="0" * 64))
