"""What the orchestrator costs: a unit sent to 1, 10 and 100 workers, a long history with many watchers, a large plan.

Usage: python benchmarks/orchestrator.py

The workers are fake and answer at once, over real gRPC from a process of their own; the store is a real S3 server
(rclone, on loopback). The last line is one JSON object; the exit status is 1 if a bar is missed.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import secrets
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from benchmarks.bars import Bar, report  # noqa: E402
from offshelf import features, scores  # noqa: E402
from offshelf.datasets import Dataset, Item  # noqa: E402
from offshelf.digests import digest_of  # noqa: E402
from offshelf.estimators import registry as classifiers  # noqa: E402
from offshelf.features import FeatureTable, SegmentRow  # noqa: E402
from offshelf.images import ImageStatus  # noqa: E402
from offshelf.services.orchestrator.dispatch.budget import CoreBudget  # noqa: E402
from offshelf.services.orchestrator.dispatch.dispatcher import TRAINER, Dispatcher  # noqa: E402
from offshelf.services.orchestrator.dispatch.peers import GrpcPeers  # noqa: E402
from offshelf.services.orchestrator.dispatch.units import ExtractionUnit, ScoringUnit  # noqa: E402
from offshelf.services.orchestrator.fleet.replicas import Replica, ReplicaPool, Role  # noqa: E402
from offshelf.services.orchestrator.runs import runlog  # noqa: E402
from offshelf.services.orchestrator.runs.planning import ExtractionPlanner, plan_scoring  # noqa: E402
from offshelf.services.orchestrator.runs.runlog import RunLog  # noqa: E402
from offshelf.services.orchestrator.runs.segment_shelf import SegmentShelf  # noqa: E402
from offshelf.store import open_store  # noqa: E402
from tests.integration.rclone_s3 import BUCKET, serve_s3  # noqa: E402
from tests.unit.fakes import MemoryStore  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from offshelf.store import ObjectStore
    from tests.integration.rclone_s3 import S3Server

WORKERS = (1, 10, 100)
UNITS = 3000
IMAGES_A_UNIT = 100
SLOTS = 2

RUNS = 1000
WATCHERS = 50
WATCH_SECONDS = 10.0

EXTRACTORS, CLASSIFIERS, SEGMENTS, IMAGES_A_SEGMENT, FOLDS = 15, 8, 200, 50, 10
KNOWN = tuple(classifiers.CLASSIFIERS)
DIMENSION = 64
MAX_PIXELS = 100_000_000

BARS = (
    Bar("units_per_s_100_workers", "at least", 200),
    Bar("history_peak_mb", "at most", 300),
    # Until work begins. Beside it what is there is verified, which is a figure and no bar: it grows with the bytes.
    Bar("plan_s3_empty_s", "at most", 1),
    Bar("plan_s3_full_s", "at most", 1),
    Bar("plan_folder_empty_s", "at most", 1),
    Bar("plan_folder_full_s", "at most", 1),
)


class BenchFleet:
    """Replicas that are simply there."""

    def __init__(self, addresses: list[str]) -> None:
        self.pool = ReplicaPool(lambda _: SLOTS)
        for role in (Role("extractor", "hog"), TRAINER):
            for number, address in enumerate(addresses):
                self.pool.add(Replica(role, f"{role}-{number}", address))

    def role_of(self, extractor: str) -> Role:
        """Have replicas for each."""
        return Role("extractor", extractor)

    @asynccontextmanager
    async def hold(self, role: Role, *, units: int = 1, tell: Callable[[str], None] = print) -> AsyncIterator[None]:
        """Do nothing."""
        del role, units, tell
        yield

    async def blames(self, replica: Replica) -> bool:
        """Blame nothing: no replica is lost here."""
        del replica
        return False

    async def close(self) -> None:
        """Do nothing."""


@contextmanager
def process(*arguments: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    """Run a part of this benchmark in a process of its own, until it is left; yields what it says first."""
    command = [sys.executable, __file__, *arguments]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as child:
        assert child.stdin is not None  # noqa: S101
        assert child.stdout is not None  # noqa: S101
        try:
            yield child, json.loads(child.stdout.readline())
        finally:
            child.stdin.close()


def megabytes(child: subprocess.Popen[str], field: str = "VmRSS") -> float:
    """Resident memory of a process: now, or at most so far (VmHWM)."""
    lines = Path(f"/proc/{child.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def cpu_seconds(pid: int) -> float:
    """Processor time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# Units


async def serve_workers(count: int) -> None:
    """Be so many workers: one process that listens on as many ports, and has done every unit at once."""
    import grpc.aio

    from offshelf.v1 import extractor_pb2, extractor_pb2_grpc, trainer_pb2, trainer_pb2_grpc

    class Workers(extractor_pb2_grpc.ExtractorServiceServicer, trainer_pb2_grpc.TrainerServiceServicer):
        async def ExtractSegment(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
            del context
            images = len(request.images)
            yield extractor_pb2.ExtractSegmentResponse(progress=extractor_pb2.ExtractionProgress(images_done=images))
            yield extractor_pb2.ExtractSegmentResponse(
                written=extractor_pb2.SegmentWritten(key="key", images_extracted=images)
            )

        async def CrossValidate(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
            del context
            for classifier in request.classifiers:
                score = trainer_pb2.FoldScore(classifier=classifier, fold=request.fold, measures={"accuracy": 1.0})
                yield trainer_pb2.CrossValidateResponse(score=score)

    server = grpc.aio.server()
    workers = Workers()  # type: ignore[abstract]  # what is not here is not called
    extractor_pb2_grpc.add_ExtractorServiceServicer_to_server(workers, server)
    trainer_pb2_grpc.add_TrainerServiceServicer_to_server(workers, server)
    ports = [server.add_insecure_port("127.0.0.1:0") for _ in range(count)]
    await server.start()
    print(json.dumps({"addresses": [f"127.0.0.1:{port}" for port in ports]}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await server.stop(None)


async def dispatch(addresses: list[str]) -> dict[str, float]:
    """Send units to workers, all at once as a run does."""
    fleet, peers = BenchFleet(addresses), GrpcPeers()
    work = Dispatcher(fleet=fleet, peers=peers, budget=CoreBudget(None), store=MemoryStore(), cores=1)
    digests = [digest_of(number) for number in range(IMAGES_A_UNIT)]
    extractions = [
        ExtractionUnit("hog", digest_of("f"), str(number), "store:", tuple(digests)) for number in range(UNITS)
    ]
    names = tuple(f"C{number}" for number in range(CLASSIFIERS))
    folds = [ScoringUnit("d", "t", "f", UNITS, 0, number, names, "accuracy") for number in range(UNITS // 10)]

    async def ignore(*_: object) -> None:
        """Take a result."""

    await work.extract(extractions[0], lambda _: None)
    began, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work.extract(unit, lambda _: None) for unit in extractions))
    extracted, cpu_extracted = time.perf_counter(), time.process_time()
    await asyncio.gather(*(work.score(unit, ignore, ignore) for unit in folds))
    scored = time.perf_counter()
    await peers.close()
    return {
        "units_per_s": UNITS / (extracted - began),
        "cpu_ms_per_unit": (cpu_extracted - cpu) / UNITS * 1000,
        "folds_per_s": len(folds) / (scored - extracted),
    }


def measure_dispatch() -> dict[str, Any]:
    """Units a second, and what each costs this process, by the number of workers."""
    figures: dict[str, Any] = {}
    for count in WORKERS:
        with process("workers", str(count)) as (_, said):
            found = asyncio.run(dispatch(said["addresses"]))
        figures |= {f"{name}_{count}_workers": value for name, value in found.items()}
    return figures | {"dispatch_peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


# History


def write_history(store: MemoryStore) -> str:
    """Write many runs that have ended, and one that has not; returns the id of that one."""
    from ulid import ULID

    log = RunLog(store, epoch=1)
    spec: dict[str, Any] = {
        "source": f"store:{digest_of('dataset')}",
        "extractors": [f"extractor{number}" for number in range(EXTRACTORS)],
        "classifiers": [f"classifier{number}" for number in range(CLASSIFIERS)],
        "measure": "accuracy",
        "folds": FOLDS,
        "seed": 0,
        "choice": None,
    }
    names = [(extractor, classifier) for extractor in spec["extractors"] for classifier in spec["classifiers"]]
    result = {
        "dataset": digest_of("dataset"),
        "classes": [f"class{number}" for number in range(20)],
        "scores": [
            {
                "extractor": extractor,
                "classifier": classifier,
                "mean": 0.9,
                "standard_deviation": 0.01,
                "p_value": 0.5,
                "different_from_best": False,
            }
            for extractor, classifier in names
        ],
        "verdict": "The best is clearly better than all others. " * 5,
        "model": digest_of("model"),
        "fitted": {"extractor": names[0][0], "classifier": names[0][1]},
        "artifacts": {name: f"reports/{digest_of('r')}/{name}" for name in ("report.html", "table.csv", "run.json")},
    }
    ids = sorted(str(ULID()) for _ in range(RUNS + 1))
    for run_id in ids:
        history = log.create(run_id, spec, request_id=run_id, user="ann")
        log.append(history, runlog.DATASET_READ, dataset=digest_of("dataset"), images=10_000)
        for name in spec["extractors"]:
            log.append(history, runlog.TABLE_WRITTEN, extractor=name, table=digest_of(name))
        if run_id != ids[-1]:
            log.append(history, runlog.SUCCEEDED, result=result)
    return ids[-1]


async def serve_runs(url: str) -> None:
    """Be an orchestrator on a store: all of it but replicas. Its runs only change, twenty times a second."""
    # Their memory counts: a cluster's orchestrator has them all.
    import kubernetes.client  # noqa: F401
    import pyarrow.parquet  # noqa: F401

    import offshelf.services.orchestrator.application
    import offshelf.services.orchestrator.tenure.cluster  # noqa: F401
    from offshelf.rpc.server import start
    from offshelf.services.orchestrator.runs.orchestration import Orchestrator
    from offshelf.services.orchestrator.servicer import OrchestratorServicer
    from offshelf.settings import Settings
    from offshelf.v1 import orchestrator_pb2_grpc

    class Changing:
        def __init__(self, journal: Any) -> None:
            self._journal = journal

        async def run(self) -> None:
            for number in range(10**9):
                self._journal.say(f"step {number}")
                await asyncio.sleep(0.05)

    class Service:
        name = "offshelf.v1.OrchestratorService"

        def __init__(self, store: ObjectStore) -> None:
            self._store = store
            self.runs = Orchestrator(
                store=store,
                log=RunLog(store, 2),
                intake=None,  # type: ignore[arg-type]  # nothing is created
                execute=Changing,  # type: ignore[arg-type]
                take_up=True,
            )
            self.seconds = 0.0

        def register(self, server: Any) -> None:
            servicer = OrchestratorServicer(self.runs, self._store, lambda: None)  # type: ignore[arg-type, return-value]
            orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(servicer, server)

        async def warm_up(self) -> None:
            began = time.perf_counter()
            await self.runs.start()
            self.seconds = time.perf_counter() - began

        async def close(self) -> None:
            await self.runs.drain()

    service = Service(open_store(url))
    server = await start(service, Settings(store=url, token_file=Path(os.environ["TOKEN_FILE"])))
    print(json.dumps({"address": server.address, "seconds": service.seconds}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    hurry = asyncio.Event()
    hurry.set()
    await server.drain(hurry)


async def use_history(child: subprocess.Popen[str], address: str, token: str, open_run: str) -> dict[str, float]:
    """List all runs, and watch the one that goes on from many clients."""
    from offshelf.rpc.channel import open_channel
    from offshelf.v1 import orchestrator_pb2 as pb
    from offshelf.v1 import orchestrator_pb2_grpc

    async def watch() -> int:
        heard = 0
        async with open_channel(address, token=token) as channel:
            stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
            async for _ in stub.WatchRun(pb.WatchRunRequest(run_id=open_run)):
                heard += 1
                if time.perf_counter() > end:
                    break
        return heard

    async with open_channel(address, token=token) as channel:
        stub = orchestrator_pb2_grpc.OrchestratorServiceStub(channel)
        began, cpu = time.perf_counter(), cpu_seconds(child.pid)
        end = began + WATCH_SECONDS
        watchers = [asyncio.create_task(watch()) for _ in range(WATCHERS)]
        found, page_token, first_page = 0, "", 0.0
        while True:
            page = await stub.ListRuns(pb.ListRunsRequest(page_size=200, page_token=page_token), timeout=60)
            found, page_token = found + len(page.runs), page.next_page_token
            first_page = first_page or time.perf_counter() - began
            if not page_token:
                break
        listed = time.perf_counter() - began
        heard = sum(await asyncio.gather(*watchers))
        cpu = cpu_seconds(child.pid) - cpu
    return {
        "runs_listed": found,
        "list_page_of_200_s": first_page,
        "list_all_s": listed,
        "watch_messages_per_s": heard / WATCH_SECONDS,
        "history_cpu_share": cpu / WATCH_SECONDS,
    }


def measure_history(s3: S3Server, folder: Path) -> dict[str, Any]:
    """Start on a long history, and serve it to many."""
    store = MemoryStore()
    open_run = write_history(store)
    upload(store, s3, "history")
    token = secrets.token_hex(16)
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    environment = {**s3.environ, "TOKEN_FILE": str(token_file)}
    with process("runs", s3.url("history"), **environment) as (child, said):
        before = megabytes(child)
        used = asyncio.run(use_history(child, said["address"], token, open_run))
        return {
            "history_start_s": said["seconds"],
            "history_started_mb": before,
            **used,
            "history_peak_mb": megabytes(child, "VmHWM"),
        }


def upload(store: MemoryStore, s3: S3Server, prefix: str) -> None:
    """Put objects where the S3 server serves them, past it: writing them is not what is measured."""
    MemoryStore.put(store, "store.json", b'{"store_version":1}')
    for key, data in store.objects.items():
        path = s3.folder / BUCKET / prefix / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


# Plans


class PlannedSpec:
    """As much of an extractor as a plan looks at: units of as many images as the segments have."""

    name = "hog"
    cost_seconds = 1.0


def plan(store: ObjectStore, dataset: Dataset) -> dict[str, float]:
    """Plan a run of all extractors and classifiers; returns its units, and the seconds of planning and verifying."""
    began, units = time.perf_counter(), 0
    planners = []
    for number in range(EXTRACTORS):
        fingerprint = digest_of(number)
        planner = ExtractionPlanner(
            SegmentShelf(store, fingerprint, MAX_PIXELS),
            spec=PlannedSpec(),  # type: ignore[arg-type]
            fingerprint=fingerprint,
            dataset=dataset,
            source=f"store:{dataset.digest}",
            unit_seconds=IMAGES_A_SEGMENT,
        )
        planners.append(planner)
        found = planner.draft()
        segments = tuple(part for part in found.parts if isinstance(part, str))
        table = found.table or FeatureTable(dataset.digest, fingerprint, DIMENSION, segments)
        folds = scores.ValidationPlan(FOLDS, 0)
        units += len(found.units)
        # There are fewer classifiers than this plan is to have: some are planned by another measure too.
        for measure, names in (("accuracy", KNOWN), ("f1", KNOWN[: CLASSIFIERS - len(KNOWN)])):
            scoring = plan_scoring(
                store, dataset=dataset.digest, table=table, plan=folds, classifiers=names, measure=measure
            )
            units += len(scoring.units)
    planned = time.perf_counter()
    for planner in planners:
        planner.plan()
    return {"units": units, "s": planned - began, "verified_s": time.perf_counter() - planned}


def write_segments(store: MemoryStore, dataset: Dataset) -> None:
    """Write what all extractors would, without tables: as interrupted runs leave it, which is the most to look at."""
    import numpy as np

    images = sorted(item.digest for item in dataset.items)
    vector = np.ones(DIMENSION, np.float32)
    for number in range(EXTRACTORS):
        for begin in range(0, len(images), IMAGES_A_SEGMENT):
            part = images[begin : begin + IMAGES_A_SEGMENT]
            rows = [SegmentRow(image, ImageStatus.OK, "", vector) for image in part]
            features.write_segment(store, digest_of(number), part, rows, max_pixels=MAX_PIXELS, dimension=DIMENSION)


def measure_plans(s3: S3Server, folder: Path) -> dict[str, Any]:
    """Plan a large run, with nothing in the store and with all features in it."""
    dataset = Dataset.of(
        Item(f"{'cat' if number % 2 else 'dog'}/{number:05}.png", "cat" if number % 2 else "dog", "", digest_of(number))
        for number in range(SEGMENTS * IMAGES_A_SEGMENT)
    )
    full = MemoryStore()
    write_segments(full, dataset)
    upload(full, s3, "full")
    upload(MemoryStore(), s3, "empty")
    figures: dict[str, Any] = {"plan_images": len(dataset.items), "plan_segments": EXTRACTORS * SEGMENTS}
    stores = {
        "s3_empty": open_store(s3.url("empty"), environ=s3.environ),
        "s3_full": open_store(s3.url("full"), environ=s3.environ),
        "folder_empty": open_store(str(folder / "empty")),
        "folder_full": open_store(str(s3.folder / BUCKET / "full")),
    }
    for name, store in stores.items():
        figures |= {f"plan_{name}_{what}": figure for what, figure in plan(store, dataset).items()}
    return figures


def main(arguments: list[str]) -> int:
    """Measure, or be one of the processes that are needed for it; returns the exit status."""
    match arguments:
        case ["workers", count]:
            asyncio.run(serve_workers(int(count)))
        case ["runs", url]:
            asyncio.run(serve_runs(url))
        case _:
            with tempfile.TemporaryDirectory() as name:
                (Path(name) / "s3").mkdir()
                figures = measure_dispatch()
                with serve_s3(Path(name) / "s3") as s3:
                    figures |= measure_history(s3, Path(name))
                    figures |= measure_plans(s3, Path(name))
            return report(figures, BARS)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
