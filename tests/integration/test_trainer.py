"""The trainer over real gRPC, with real worker processes and a real store in a directory."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from offshelf import errors, measures, models, scores
from offshelf.datasets import Dataset, Item, write_dataset
from offshelf.digests import digest_of
from offshelf.estimators import building
from offshelf.features import FeatureTable, SegmentRow, write_segment, write_table
from offshelf.images import ImageStatus
from offshelf.rpc.channel import open_channel
from offshelf.rpc.offload import Offload
from offshelf.rpc.server import start
from offshelf.services.trainer.servicer import TrainerServicer
from offshelf.services.trainer.training import Training
from offshelf.settings import Settings
from offshelf.store import keys, open_store
from offshelf.v1 import selection_pb2, trainer_pb2_grpc
from offshelf.v1 import trainer_pb2 as pb
from offshelf.workers import ONE_THREAD, WorkerPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from offshelf.store import ObjectStore

    Stub = trainer_pb2_grpc.TrainerServiceAsyncStub
    Serving = Callable[[Training], AbstractAsyncContextManager[Stub]]

TOKEN = "a-token-for-tests"
FINGERPRINT = "f" * 64
SKIPPED = 7
WAIT_SECONDS = 60
"""Bounds a wait that a defect would make endless."""


@dataclass(frozen=True)
class Material:
    """A store with a dataset and a feature table in it."""

    store: ObjectStore
    dataset: Dataset
    table: FeatureTable
    X: np.ndarray[Any, np.dtype[np.float32]]

    def cross_validate(
        self, *classifiers: str, fold: int = 0, changes: Mapping[str, str] = MappingProxyType({})
    ) -> pb.CrossValidateRequest:
        """Make a request for one of three folds."""
        return pb.CrossValidateRequest(
            **{
                "dataset": self.dataset.digest,
                "table": self.table.digest,
                "fingerprint": FINGERPRINT,
                "measure": "accuracy",
                **changes,
            },
            plan=selection_pb2.ValidationPlan(folds=3, seed=5),
            fold=fold,
            classifiers=classifiers,
        )

    def fit(self, classifier: str) -> pb.FitRequest:
        """Make a request to fit a classifier."""
        return pb.FitRequest(
            dataset=self.dataset.digest,
            table=self.table.digest,
            fingerprint=FINGERPRINT,
            extractor="hog",
            classifier=classifier,
            measure="accuracy",
            seed=5,
        )


def make_material(root: Path, name: str = "") -> Material:
    """Write a dataset of 36 images in two classes, one of them without features; another name, other images."""
    store = open_store(str(root))
    rng = np.random.default_rng(0)
    dataset = Dataset.of(Item(f"{i:02d}.png", "cat" if i % 2 else "dog", "", digest_of([name, i])) for i in range(36))
    X = (rng.normal(size=(36, 4)) + 2.0 * np.eye(2, 4)[list(dataset.targets)]).astype(np.float32)
    rows = [
        SegmentRow(item.digest, ImageStatus.UNREADABLE, "truncated", None)
        if index == SKIPPED
        else SegmentRow(item.digest, ImageStatus.OK, "", X[index])
        for index, item in enumerate(dataset.items)
    ]
    images = [item.digest for item in dataset.items]
    segment = write_segment(store, FINGERPRINT, images, rows, max_pixels=1000, dimension=4)
    table = FeatureTable(dataset.digest, FINGERPRINT, 4, (segment,))
    write_dataset(store, dataset)
    write_table(store, table)
    return Material(store, dataset, table, X)


def new_pool(root: Path, size: int, **limits: float) -> WorkerPool:
    """Make workers over a store."""
    handler = "offshelf.services.trainer.work:make_handler"
    return WorkerPool(size, handler, setup={"store": str(root)}, environment=ONE_THREAD, **limits)


class SharedWorkers:
    """Workers that outlive the service of one test, since starting them takes seconds."""

    def __init__(self, pool: WorkerPool) -> None:
        self.call = pool.call

    def start(self) -> None:
        """Leave it to the first call."""

    def close(self) -> None:
        """Leave them for the next test."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder for a store."""
    root = tmp_path_factory.mktemp("trainer") / "store"
    open_store(str(root))
    return root


@pytest.fixture(scope="module")
def workers(root: Path) -> Iterator[SharedWorkers]:
    """Make two real workers over the store."""
    pool = new_pool(root, 2)
    yield SharedWorkers(pool)
    pool.close()


@pytest.fixture
def training(workers: SharedWorkers) -> Training:
    """Make what a test serves, with real workers."""
    return Training(workers, 2)


@pytest.fixture
def material(root: Path, request: pytest.FixtureRequest) -> Material:
    """Make a dataset of its own for a test."""
    return make_material(root, request.node.name)


@pytest.fixture
def serving(tmp_path: Path) -> Serving:
    """Serve the trainer on a free port of this process."""

    @asynccontextmanager
    async def serving(training: Training) -> AsyncIterator[Stub]:
        token_file = tmp_path / "token"
        token_file.touch(mode=0o600)
        token_file.write_text(TOKEN)
        settings = Settings(store=str(tmp_path / "store"), token_file=token_file, drain_seconds=1.0)
        servicer = TrainerServicer(training, Offload(threads=4, queue=4), idle=0.01)
        server = await start(servicer, settings)
        try:
            async with open_channel(server.address, token=TOKEN) as channel:
                yield trainer_pb2_grpc.TrainerServiceStub(channel)
        finally:
            hurry = asyncio.Event()
            hurry.set()
            await server.drain(hurry)

    return serving


async def results(call: Any) -> list[pb.FoldScore]:
    """Read a stream of scores to its end."""
    return [answer.score async for answer in call if answer.HasField("score")]


class PatientWorkers:
    """Workers that work until somebody stops them."""

    def __init__(self) -> None:
        self.working = threading.Event()
        self.stopped = threading.Event()

    def start(self) -> None:
        """Do nothing."""

    def call(self, header: dict[str, Any], *, stop: threading.Event | None = None) -> tuple[dict[str, Any], bytearray]:
        """Work until stopped."""
        if header["task"] == "warm_up":
            return {}, bytearray()
        assert stop is not None
        self.working.set()
        stop.wait()
        self.stopped.set()
        raise errors.Cancelled("Stopped.")

    def close(self) -> None:
        """Do nothing."""


async def test_each_classifier_is_scored_and_then_fitted(
    material: Material, training: Training, serving: Serving
) -> None:
    """A fold's scores arrive one by one, lie in the store, and the chosen classifier becomes a model that predicts."""
    async with serving(training) as stub:
        found = await results(stub.CrossValidate(material.cross_validate("LR", "KNN", "SVM", fold=1)))
        assert sorted(score.classifier for score in found) == ["KNN", "LR", "SVM"]
        for score in found:
            stored = scores.read_fold(material.store, score.scores, 1)
            assert score.fold == 1
            assert dict(score.measures) == dict(stored.measures)
            assert set(score.measures) == set(measures.MEASURES)
            assert SKIPPED not in stored.items
            assert stored.classes == ("cat", "dog")

        answers = [answer.model async for answer in stub.Fit(material.fit("LR"))]
        assert not any(answers[:-1])
        card = models.read_card(material.store, answers[-1])
        assert (card.images, card.extractor, card.classifier) == (35, "hog", "LR")
        estimator = models.read_estimator(material.store, card)
        predicted = building.class_probabilities(estimator, material.X, 2).argmax(axis=1)
        assert (predicted == material.dataset.targets).mean() > 0.8


async def test_what_is_there_is_not_made_again(material: Material, training: Training, serving: Serving) -> None:
    """Asking again for scores or a model computes nothing; what was damaged is made again as it was."""
    async with serving(training) as stub:
        [score] = await results(stub.CrossValidate(material.cross_validate("LR")))
        [*_, model] = [answer.model async for answer in stub.Fit(material.fit("LR"))]
        kept = [keys.fold_scores(score.scores, 0), keys.model(model), keys.model_card(model)]
        before = [material.store.stat(key) for key in kept]
        contents = [material.store.get(key) for key in kept]
        assert await results(stub.CrossValidate(material.cross_validate("LR"))) == [score]
        assert [answer.model async for answer in stub.Fit(material.fit("LR"))][-1] == model
        assert [material.store.stat(key) for key in kept] == before

        for key in kept[:2]:
            material.store.put(key, material.store.get(key)[:-9])
        await results(stub.CrossValidate(material.cross_validate("LR")))
        assert [answer.model async for answer in stub.Fit(material.fit("LR"))][-1] == model
        assert [material.store.get(key) for key in kept] == contents


async def test_scores_do_not_depend_on_the_number_of_workers(
    tmp_path: Path, root: Path, training: Training, serving: Serving
) -> None:
    """One worker process and two write the same bytes."""
    classifiers = ("RF", "MLP", "GB", "SVM")
    contents = []
    alone = tmp_path / "alone"
    for place, size in ((root, 2), (alone, 1)):
        material = make_material(place, "the same")
        async with serving(training if size == 2 else Training(new_pool(alone, 1), 1)) as stub:
            found = await results(stub.CrossValidate(material.cross_validate(*classifiers)))
        written = {score.classifier: keys.fold_scores(score.scores, 0) for score in found}
        contents.append({name: material.store.get(key) for name, key in written.items()})
    assert set(contents[0]) == set(classifiers)
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"measure": "acuracy"}, errors.UnknownName),
        ({"table": "0" * 64}, errors.NotFound),
        ({"table": "../../x"}, errors.NotFound),
        ({"dataset": "0" * 64}, errors.InvalidInput),
    ],
)
async def test_a_wrong_request_is_an_error_of_one_line(
    material: Material, training: Training, serving: Serving, changes: dict[str, str], expected: type[Exception]
) -> None:
    """Names and digests that do not exist are answered with what is wrong."""
    async with serving(training) as stub:
        with pytest.raises(expected):
            await results(stub.CrossValidate(material.cross_validate("LR", changes=changes)))


async def test_an_impossible_request_is_refused_before_any_work(material: Material, serving: Serving) -> None:
    """An unknown classifier, no classifier, or a fold outside the plan never reaches a worker."""
    workers = PatientWorkers()
    async with serving(Training(workers, 1)) as stub:
        for request in (
            material.cross_validate("LR", "XGB"),
            material.cross_validate(),
            material.cross_validate("LR", fold=3),
        ):
            with pytest.raises(errors.InvalidInput):
                await results(stub.CrossValidate(request))
    assert not workers.working.is_set()


async def test_an_altered_segment_is_not_learned_from(material: Material, training: Training, serving: Serving) -> None:
    """Features that are not what was written end in an error that says so."""
    [segment] = material.table.segments
    material.store.put(segment, material.store.get(segment)[:-5])
    async with serving(training) as stub:
        with pytest.raises(errors.DataLoss):
            await results(stub.CrossValidate(material.cross_validate("LR")))


@pytest.mark.parametrize("method", ["CrossValidate", "Fit"])
async def test_long_work_gives_signs_of_life_and_stops_when_left(
    material: Material, serving: Serving, method: str
) -> None:
    """A client hears something while the work goes on, and the work ends when the client leaves."""
    workers = PatientWorkers()
    request = material.cross_validate("LR", "RF") if method == "CrossValidate" else material.fit("LR")
    async with serving(Training(workers, 2)) as stub:
        call = getattr(stub, method)(request)
        assert await call.read() == type(await call.read())()
        assert await asyncio.to_thread(workers.working.wait, WAIT_SECONDS)
        call.cancel()
        assert await asyncio.to_thread(workers.stopped.wait, WAIT_SECONDS)


async def test_a_worker_that_dies_costs_one_call(root: Path, serving: Serving) -> None:
    """A dead worker process is answered with "try again", and trying again works."""
    material = make_material(root, "dies")
    before = set(psutil.Process().children())
    async with serving(Training(new_pool(root, 1), 1)) as stub:
        [worker] = set(psutil.Process().children()) - before
        worker.kill()
        with pytest.raises(errors.Unavailable, match="worker process of the trainer died"):
            await results(stub.CrossValidate(material.cross_validate("LR")))
        [score] = await results(stub.CrossValidate(material.cross_validate("LR")))
        assert score.classifier == "LR"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what processor time a process uses")
async def test_a_worker_that_is_stuck_costs_one_call(root: Path, serving: Serving) -> None:
    """A worker process that does nothing for ever is noticed and said, and trying again works."""
    material = make_material(root, "stuck")
    before = set(psutil.Process().children())
    async with serving(Training(new_pool(root, 1, stuck_seconds=3), 1)) as stub:
        [worker] = set(psutil.Process().children()) - before
        worker.suspend()
        with pytest.raises(errors.Unavailable, match="did nothing for 5 minutes and was ended"):
            await results(stub.CrossValidate(material.cross_validate("LR")))
        [score] = await results(stub.CrossValidate(material.cross_validate("LR")))
        assert score.classifier == "LR"


async def test_the_process_starts_and_ends_as_it_should(tmp_path: Path, root: Path, material: Material) -> None:
    """The service says that it is ready, works, and on SIGTERM exits 0 and leaves no process behind."""
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(TOKEN)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "offshelf.services.trainer",
        env={
            **os.environ,
            "OFFSHELF_STORE": str(root),
            "OFFSHELF_TOKEN_FILE": str(token_file),
            "OFFSHELF_CORES": "1",
            "OFFSHELF_LOG_LEVEL": "warning",
        },
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        ready = json.loads(await process.stdout.readline())
        assert ready["ready"] is True
        async with open_channel(ready["address"], token=TOKEN) as channel:
            stub = trainer_pb2_grpc.TrainerServiceStub(channel)
            assert len(await results(stub.CrossValidate(material.cross_validate("LR")))) == 1
        children = psutil.Process(process.pid).children(recursive=True)
        assert children
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), WAIT_SECONDS) == 0
        gone, alive = psutil.wait_procs(children, timeout=WAIT_SECONDS)
        assert len(gone) == len(children)
        assert not alive
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
