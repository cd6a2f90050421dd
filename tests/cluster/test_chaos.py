"""A run while pods are killed: it ends, nothing is lost, and the result is that of a quiet machine, byte for byte."""

from __future__ import annotations

import os
import random
import re
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from minio import Minio

from offshelf import Client
from tests.cluster import photos
from tests.cluster.installation import (
    BUCKET,
    NAMESPACE,
    S3_PORT,
    STORE_NAMESPACE,
    faulty_s3,
    figures_of,
    kubectl,
    pods_of,
    read,
    run_offshelf,
    state,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.cluster.installation import Deployed

pytestmark = [pytest.mark.cluster, pytest.mark.nightly, pytest.mark.timeout(7200)]

IMAGES = int(os.environ.get("CHAOS_IMAGES", "18000"))
KILLS = int(os.environ.get("CHAOS_KILLS", "20"))
PAUSE_SECONDS = 10.0
LOOK_SECONDS = 5.0
UNIT_SECONDS = "1"
"""So that there are hundreds of units, and what is computed twice can be told from what is not."""
EXTRACTORS = ("extractor-googlenet", "extractor-lab888")
ON_A_POD = 2
IN_FLIGHT = 2 * len(EXTRACTORS) * ON_A_POD
"""Two replicas of each, as `overlays/local` allows."""
COST = {**dict.fromkeys(EXTRACTORS, ON_A_POD), "orchestrator": IN_FLIGHT, "s3": IN_FLIGHT, "s3-proxy": IN_FLIGHT}
"""Most units that are begun once more when one of these dies; no others work on units of extraction, or keep them."""
_CALL = re.compile(r"offshelf_rpc_requests_total\{.*/ExtractSegment")
WHAT = ("-e", "googlenet,lab888", "-c", "LR,KNN", "--folds", "3")


@dataclass
class Writes:
    """How often each object of the store was written, seen from outside."""

    moments: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))

    def again(self, prefix: str) -> int:
        """Count the times that an object which was there was written again."""
        return sum(len(moments) - 1 for key, moments in self.moments.items() if key.startswith(prefix))


@contextmanager
def watched(deployed: Deployed) -> Iterator[Writes]:
    """Look at the store's segments every second; each new time of change of one is a write."""
    writes, done = Writes(), threading.Event()
    access, secret = deployed.s3_keys
    client = Minio(f"{deployed.host}:{S3_PORT}", access_key=access, secret_key=secret, secure=False, region="us-east-1")

    def look() -> None:
        while not done.wait(1):
            try:
                for found in client.list_objects(BUCKET, "features/", recursive=True):
                    if "/segments/" in (found.object_name or ""):
                        writes.moments[found.object_name or ""].add(str(found.last_modified))
            except Exception:  # noqa: BLE001, S112  (the server is one of those that are killed)
                continue

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield writes
    finally:
        done.set()
        looking.join()


class Killer:
    """Kills pods of any kind, without grace, and counts what that costs, by what the extractors' pods have counted."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._before: dict[tuple[str, float], float] = {}
        self._calls: dict[tuple[str, float], float] = {}
        self._uncounted = 0
        self.killed: list[str] = []

    @property
    def units_begun(self) -> int:
        """Units that an extractor has begun, those included that a killed pod had no time to count."""
        counted = sum(calls - self._before.get(process, 0) for process, calls in self._calls.items())
        return int(counted) + self._uncounted

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Take note of what is counted from now on, also by pods that go by themselves when they have no more work."""
        self.look()
        self._before = dict(self._calls)
        done = threading.Event()

        def look_on() -> None:
            while not done.wait(LOOK_SECONDS):
                with suppress(AssertionError):  # nobody answers for a moment
                    self.look()

        looking = threading.Thread(target=look_on)
        looking.start()
        try:
            yield
        finally:
            done.set()
            looking.join()
            self.look()

    @property
    def cost(self) -> int:
        """Most units that those who died may have cost."""
        return sum(COST.get(_kind(name), 0) for name in self.killed)

    def kill(self) -> None:
        """Kill somebody; somebody else, if that one has just gone by itself."""
        wait_until("a pod is killed", self._try_to_kill, 60)

    def _try_to_kill(self) -> bool:
        with suppress(AssertionError):  # an API server that has just come back may refuse for a moment
            self.look()
            pods = [
                (namespace, pod["metadata"]["name"])
                for namespace in (NAMESPACE, STORE_NAMESPACE)
                for pod in read("get", "pods", "--namespace", namespace)["items"]
                if pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
            ]
            kind = self._chance.choice(sorted({_kind(name) for _, name in pods}))
            namespace, name = self._chance.choice([pod for pod in pods if _kind(pod[1]) == kind])
            kubectl("delete", "pod", name, "--namespace", namespace, "--grace-period=0", "--force", "--wait=false")
            self.killed.append(name)
            self._uncounted += ON_A_POD * (kind in EXTRACTORS)
            return True
        return False

    def look(self) -> None:
        """Take note of the present counts."""
        for pod in pods_of(*EXTRACTORS):
            with suppress(AssertionError):  # it has just ended, or not begun
                figures = figures_of(pod)
                ended = [value for name, value in figures.items() if _CALL.match(name)]
                self._calls[pod, figures["process_start_time_seconds"]] = sum(ended)


def _kind(pod: str) -> str:
    return pod.rsplit("-", 2)[0]


@pytest.fixture(scope="module", autouse=True)
def _short_units(deployed: Deployed) -> None:
    """Have the cluster cut its work as `quiet` does."""
    deployed.set_orchestrator(OFFSHELF_UNIT_SECONDS=UNIT_SECONDS)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Many photos."""
    return photos.generate(tmp_path_factory.mktemp("photos") / "photos", IMAGES)


@pytest.fixture(scope="module")
def quiet(dataset: Path, material: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The result of the same run on one machine where nothing happens."""
    if material is None:
        pytest.skip("OFFSHELF_TEST_MATERIAL names no folder with weights")
    folder = tmp_path_factory.mktemp("quiet")
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OFFSHELF_")},
        "OFFSHELF_STORE": str(folder / "store"),
        "OFFSHELF_WEIGHTS": str(material / "weights"),
        "OFFSHELF_UNIT_SECONDS": UNIT_SECONDS,
    }
    done = run_offshelf(("run", dataset, *WHAT, "-o", folder / "out"), environment)
    assert done.returncode == 0, done.stderr
    return folder / "out"


@dataclass
class Ordeal:
    """What a run went through, and what it said."""

    returncode: int
    said: str
    written_again: int
    """Segments that were there and were written once more."""
    segments: int
    """What the run has left in the store."""


def go_through(deployed: Deployed, dataset: Path, out: Path, killer: Killer, disturb: Callable[[int], None]) -> Ordeal:
    """Run to the end, with a disturbance every ten seconds from when the images are there, a number of times."""
    said: list[str] = []
    # Features of an earlier run would leave nothing to do.
    with Client(deployed.server, deployed.token, deployed.authority) as client:
        for old in client.datasets():
            client.delete_dataset(old.digest)
    with (
        watched(deployed) as writes,
        killer.counting(),
        subprocess.Popen(
            [sys.executable, "-m", "offshelf.cli", "run", str(dataset), *WHAT, "-o", str(out)],
            env=deployed.client_environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        for line in process.stderr:  # the upload comes first; it has tests of its own
            said.append(line)
            if "has started" in line:
                break
        reader = threading.Thread(target=lambda: said.extend(process.stderr or ()))
        reader.start()
        for number in range(KILLS):
            time.sleep(PAUSE_SECONDS)
            if process.poll() is not None:
                break
            disturb(number)
        process.wait()
        reader.join()
    return Ordeal(process.returncode, "".join(said[-40:]), writes.again("features/"), len(writes.moments))


def assert_unharmed(ordeal: Ordeal, killer: Killer, out: Path, quiet: Path) -> None:
    """Hold a run to the result of a quiet one."""
    story = f"killed: {killer.killed}\n{ordeal.said}"
    print(  # noqa: T201
        f"{story}\n{len(killer.killed)} kills; segments: {ordeal.segments}, written again: {ordeal.written_again}; "
        f"units begun: {killer.units_begun}, at most {killer.cost} of them again"
    )
    assert ordeal.returncode == 0, f"{story}\n{state()}"
    assert len(killer.killed) == KILLS, "the run was over too early: set CHAOS_IMAGES higher"
    assert (out / "scores.parquet").read_bytes() == (quiet / "scores.parquet").read_bytes()
    assert (out / "table.csv").read_bytes() == (quiet / "table.csv").read_bytes()
    assert ordeal.written_again <= killer.cost
    assert ordeal.segments <= killer.units_begun <= ordeal.segments + killer.cost


def test_a_run_survives_the_death_of_any_pod(deployed: Deployed, dataset: Path, quiet: Path, tmp_path: Path) -> None:
    """A pod of any kind, the store's own included, may die every ten seconds: the result is the same."""
    killer = Killer(seed=1)
    ordeal = go_through(deployed, dataset, tmp_path / "out", killer, lambda _: killer.kill())
    assert_unharmed(ordeal, killer, tmp_path / "out", quiet)


def test_a_run_survives_a_store_on_a_bad_day(deployed: Deployed, dataset: Path, quiet: Path, tmp_path: Path) -> None:
    """A tenth of the calls of S3 may fail, and each take a fifth of a second longer, while pods die."""
    killer = Killer(seed=2)
    with faulty_s3(deployed, fail=0.1, delay=0.2):
        ordeal = go_through(deployed, dataset, tmp_path / "out", killer, lambda _: killer.kill())
    assert_unharmed(ordeal, killer, tmp_path / "out", quiet)


def test_a_run_survives_an_absent_api_server(deployed: Deployed, dataset: Path, quiet: Path, tmp_path: Path) -> None:
    """The API server of the cluster may be away for half a minute just after a pod has died."""
    stop, start = os.environ.get("CHAOS_API_STOP"), os.environ.get("CHAOS_API_START")
    if not stop or not start:
        pytest.skip("CHAOS_API_STOP and CHAOS_API_START do not say how to stop and start the API server")
    killer = Killer(seed=3)

    def disturb(number: int) -> None:
        killer.kill()
        if number != KILLS // 3:
            return
        subprocess.run(stop, shell=True, check=True)  # noqa: S602  (given by whoever runs the tests)
        try:
            time.sleep(30)
        finally:
            subprocess.run(start, shell=True, check=True)  # noqa: S602

    ordeal = go_through(deployed, dataset, tmp_path / "out", killer, disturb)
    assert_unharmed(ordeal, killer, tmp_path / "out", quiet)
