"""Offshelf on a cluster against the same on one machine: how long until it is there, and what the cluster costs.

Usage: python benchmarks/cluster.py [PHOTOS]

Needs KUBECONFIG, with the images in the node (`make e2e` puts them there), and OFFSHELF_TEST_MATERIAL for googlenet's
weights. Without a cluster it says so and measures nothing. The comparison is fair on a node that is this machine: both
sides then have the same cores, and one replica with as many threads as embedded mode. The last line is one JSON object;
the exit status is 1 if a bar is missed. What the orchestrator costs by itself needs no cluster: see orchestrator.py.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.bars import Bar, report
from offshelf import Client
from tests.cluster import installation, photos
from tests.cluster.installation import NAMESPACE, kubectl, read, run_offshelf, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.cluster.installation import Deployed

WHAT = ("-e", "googlenet,lab888", "-c", "LR,KNN", "--folds", "3")

BARS = (
    Bar("deploy_seconds", "at most", 60),
    Bar("start_googlenet_seconds", "at most", 15),
    Bar("start_lab888_seconds", "at most", 15),
    Bar("first_answer_seconds", "at most", 15),
    Bar("ratio", "at most", 1.3),
    Bar("byte_equal", "at least", True),
)


def seconds(work: Callable[[], object]) -> float:
    """Time something."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def settled(name: str, replicas: int) -> bool:
    """Whether a Deployment has so many pods, all of them ready; those that are still ending count too."""
    pods = read("get", "pods", "--namespace", NAMESPACE, "--selector", f"app.kubernetes.io/name={name}")["items"]
    status = read("get", "deployment", name, "--namespace", NAMESPACE)["status"]
    return bool(len(pods) == status.get("readyReplicas", 0) == replicas)


def scale(name: str, replicas: int) -> float:
    """Scale a Deployment and return the seconds until its pods are ready, or gone."""
    began = time.perf_counter()
    kubectl("scale", f"deployment/{name}", f"--replicas={replicas}", "--namespace", NAMESPACE)
    wait_until(f"{name} has {replicas} ready replicas", lambda: settled(name, replicas), 180)
    return time.perf_counter() - began


def connect(deployed: Deployed) -> Client:
    """Open a connection from outside the cluster."""
    return Client(deployed.server, deployed.token, deployed.authority)


def first_answer(deployed: Deployed, model: str, photo: Path) -> float:
    """Seconds from the birth of a predictor pod to its first prediction."""
    scale("predictor", 0)
    began = time.perf_counter()
    kubectl("scale", "deployment/predictor", "--replicas=1", "--namespace", NAMESPACE)

    def answers() -> bool:
        try:
            with connect(deployed) as client:
                return not client.model(model).predict(photo).error
        except Exception:  # noqa: BLE001  (whatever it is, there is no answer yet)
            return False

    wait_until("the predictor answers", answers, 120)
    return time.perf_counter() - began


def measure(folder: Path, count: int, weights: Path) -> dict[str, Any]:
    """Deploy, measure, and remove it all."""
    dataset = photos.generate(folder / "photos", count)
    few = photos.generate(folder / "few", 60)
    installation.undeploy()
    keys = installation.start_s3(weights)
    token = installation.make_secrets(folder, keys)
    deploying = seconds(lambda: installation.make("deploy", "OVERLAY=local"))
    installation.take_kernels()
    deployed = installation.Deployed(installation.node_address(), folder, token, keys)
    starts = {"googlenet_first": scale("extractor-googlenet", 1)}  # converts the weights, once for all pods ever
    scale("extractor-googlenet", 0)
    for name in ("extractor-googlenet", "extractor-lab888", "trainer"):
        starts[name.removeprefix("extractor-")] = scale(name, 1)

    deployed.set_orchestrator(OFFSHELF_MAX_REPLICAS="1", OFFSHELF_IDLE_SECONDS="3600")
    wait_until("the orchestrator answers", lambda: connect(deployed).catalog(), 60)
    with connect(deployed) as client:
        upload = seconds(lambda: client.upload(dataset, name="photos"))
        client.run(few, extractors=("googlenet", "lab888"), classifiers=("LR", "KNN"), folds=3).watch()
        run = client.run("dataset:photos", extractors=("googlenet", "lab888"), classifiers=("LR", "KNN"), folds=3)
        cluster = seconds(run.watch)
        run.download(folder / "cluster")
        model = run.result.model
    answer = first_answer(deployed, model, next((dataset / "sea").iterdir()))
    for name in ("extractor-googlenet", "extractor-lab888", "trainer"):
        scale(name, 0)

    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("OFFSHELF_")},
        "OFFSHELF_STORE": str(folder / "store"),
        "OFFSHELF_WEIGHTS": str(weights),
    }
    # The weights are converted before, on both sides, and the orchestrator is there already.
    run_offshelf(("run", few, *WHAT, "-o", folder / "few-out"), environment)
    with subprocess.Popen(
        [sys.executable, "-m", "offshelf.cli", "up"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as up:
        assert up.stdout is not None  # noqa: S101
        up.stdout.readline()
        try:
            embedded = seconds(lambda: run_offshelf(("run", dataset, *WHAT, "-o", folder / "embedded"), environment))
        finally:
            up.terminate()
    same = (folder / "cluster/scores.parquet").read_bytes() == (folder / "embedded/scores.parquet").read_bytes()
    installation.undeploy()
    return {
        "photos": count,
        "deploy_seconds": deploying,
        **{f"start_{name}_seconds": value for name, value in starts.items()},
        "first_answer_seconds": answer,
        "upload_seconds": upload,
        "cluster_seconds": cluster,
        "embedded_seconds": embedded,
        "ratio": cluster / embedded,
        "byte_equal": same,
    }


def main() -> int:
    """Measure and print, and return the exit status."""
    material = os.environ.get("OFFSHELF_TEST_MATERIAL")
    if not os.environ.get("KUBECONFIG") or not material:
        print("no cluster, or no weights: KUBECONFIG and OFFSHELF_TEST_MATERIAL must be set")
        return report({"cluster": None}, ())
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 5000
    with tempfile.TemporaryDirectory() as folder:
        return report(measure(Path(folder), count, Path(material) / "weights"), BARS)


if __name__ == "__main__":
    sys.exit(main())
