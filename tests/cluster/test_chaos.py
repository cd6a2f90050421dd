"""A run while pods are killed: it ends, nothing is lost, and the result is that of a quiet machine, byte for byte."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from minio import Minio

from tests.cluster import photos
from tests.cluster.installation import (
    BUCKET,
    NAMESPACE,
    S3_PORT,
    STORE_NAMESPACE,
    kubectl,
    read,
    run_offshelf,
    state,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.installation import Deployed

pytestmark = [pytest.mark.cluster, pytest.mark.nightly, pytest.mark.timeout(7200)]

IMAGES = int(os.environ.get("CHAOS_IMAGES", "10000"))
KILLS = int(os.environ.get("CHAOS_KILLS", "20"))
PAUSE_SECONDS = 10.0
UNITS_IN_FLIGHT = 2
"""On one replica of an extractor."""
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


def kill_somebody(chance: random.Random) -> str:
    """Kill a pod of any kind, without grace; returns its name."""
    pods = [
        (namespace, pod["metadata"]["name"])
        for namespace in (NAMESPACE, STORE_NAMESPACE)
        for pod in read("get", "pods", "--namespace", namespace)["items"]
        if pod["status"].get("phase") == "Running" and not pod["metadata"].get("deletionTimestamp")
    ]
    kinds = sorted({name.rsplit("-", 2)[0] for _, name in pods})
    kind = chance.choice(kinds)
    namespace, name = chance.choice([pod for pod in pods if pod[1].rsplit("-", 2)[0] == kind])
    kubectl("delete", "pod", name, "--namespace", namespace, "--grace-period=0", "--force", "--wait=false", check=False)
    return str(name)


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
    }
    done = run_offshelf(("run", dataset, *WHAT, "-o", folder / "out"), environment)
    assert done.returncode == 0, done.stderr
    return folder / "out"


def test_a_run_survives_the_death_of_any_pod(deployed: Deployed, dataset: Path, quiet: Path, tmp_path: Path) -> None:
    """A pod of any kind, the store's own included, may die every ten seconds: the result is the same."""
    chance, out = random.Random(1), tmp_path / "out"
    killed: list[str] = []
    with (
        watched(deployed) as writes,
        subprocess.Popen(
            [sys.executable, "-m", "offshelf.cli", "run", str(dataset), *WHAT, "-o", str(out)],
            env=deployed.client_environment,
            stderr=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            text=True,
        ) as client,
    ):
        assert client.stderr is not None
        said: list[str] = []
        for line in client.stderr:  # the upload comes first; it has tests of its own
            said.append(line)
            if "has started" in line:
                break
        reader = threading.Thread(target=lambda: said.extend(client.stderr or ()))
        reader.start()
        while client.poll() is None and len(killed) < KILLS:
            time.sleep(PAUSE_SECONDS)
            if client.poll() is None:
                killed.append(kill_somebody(chance))
        client.wait()
        reader.join()
    story = f"killed: {killed}\nsaid: {''.join(said[-40:])}\n"
    print(story, f"segments written again: {writes.again('features/')}")  # noqa: T201
    assert client.returncode == 0, story + state()
    assert (out / "scores.parquet").read_bytes() == (quiet / "scores.parquet").read_bytes()
    assert (out / "table.csv").read_bytes() == (quiet / "table.csv").read_bytes()
    assert writes.again("features/") <= len(killed) * UNITS_IN_FLIGHT, story
