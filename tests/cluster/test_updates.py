"""Predictions while the installation is changed under them."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from offshelf import Client
from tests.cluster import photos
from tests.cluster.installation import (
    NAMESPACE,
    ROOT,
    apply_certificates,
    kubectl,
    node_address,
    read,
    run_offshelf,
    state,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.installation import Deployed

pytestmark = [pytest.mark.cluster, pytest.mark.nightly, pytest.mark.timeout(1200)]

CLIENTS = 4
FEWEST = 2
"""Predictors where nothing scales them, and the fewest that the autoscaler leaves."""


@dataclass
class Load:
    """What became of the predictions that were asked for."""

    answered: int = 0
    failures: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def model(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
    """A fitted model, by its digest, and a photo."""
    folder = photos.generate(tmp_path_factory.mktemp("few") / "few", 60)
    with Client(deployed.server, deployed.token, deployed.authority) as client:
        run = client.run(folder, extractors="hog", classifiers="LR", folds=3).watch()
        return run.result.model, next((folder / "sea").iterdir()).read_bytes()


@contextmanager
def under_load(deployed: Deployed, model: tuple[str, bytes], folder: Path) -> Iterator[Load]:
    """Have some clients ask for predictions without a pause."""
    load, done = Load(), threading.Event()
    digest, photo = model
    path = folder / "photo.jpg"
    path.write_bytes(photo)

    def ask() -> None:
        with Client(deployed.server, deployed.token, deployed.authority) as client:
            classifier = client.model(digest)
            while not done.is_set():
                try:
                    answer = classifier.predict(path)
                except Exception as error:  # noqa: BLE001  (each is a failed request)
                    load.failures.append(repr(error))
                else:
                    load.answered += 1
                    if answer.error:
                        load.failures.append(answer.error)

    clients = [threading.Thread(target=ask) for _ in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        yield load
    finally:
        done.set()
        for client in clients:
            client.join()


def test_a_rolling_update_fails_no_prediction(deployed: Deployed, model: tuple[str, bytes], tmp_path: Path) -> None:
    """All pods of the predictor are replaced while people use it, and nobody notices."""
    with under_load(deployed, model, tmp_path) as load:
        kubectl("rollout", "restart", "deployment/predictor", "--namespace", NAMESPACE)
        kubectl("rollout", "status", "deployment/predictor", "--namespace", NAMESPACE, "--timeout=300s")
        time.sleep(10)  # the last old pod drains
    print(f"answered: {load.answered}")  # noqa: T201
    assert not load.failures, f"{load.failures[:5]}\n{state()}"
    assert load.answered > 100


def test_busy_predictors_get_company(deployed: Deployed, model: tuple[str, bytes], tmp_path: Path) -> None:
    """With the component `predictor-autoscaling` there are more predictors while many predict, and nothing fails."""
    autoscaler = ROOT / "k8s" / "components" / "predictor-autoscaling" / "autoscaler.yaml"
    kubectl("apply", "--filename", str(autoscaler))
    try:
        with under_load(deployed, model, tmp_path) as load:
            seconds = wait_until("there are more predictors", lambda: ready_predictors() > FEWEST, 300)
            time.sleep(10)  # the new pods get some of the load
        print(f"more predictors after {seconds:.0f} s; answered: {load.answered}")  # noqa: T201
        assert not load.failures, f"{load.failures[:5]}\n{state()}"
        assert load.answered > 100
    finally:
        kubectl("delete", "--filename", str(autoscaler))
        kubectl("scale", "deployment/predictor", f"--replicas={FEWEST}", "--namespace", NAMESPACE)


def ready_predictors() -> int:
    """How many pods of the predictor take calls."""
    return int(read("get", "deployment", "predictor", "--namespace", NAMESPACE)["status"].get("readyReplicas", 0))


def test_new_certificates_fail_no_prediction(deployed: Deployed, model: tuple[str, bytes], tmp_path: Path) -> None:
    """Certificates and the authority itself are renewed without a restart while people use the predictor."""
    hosts = [argument for host in (node_address(), "localhost", "127.0.0.1") for argument in ("--host", host)]
    certs = deployed.folder / "certs"
    with under_load(deployed, model, tmp_path) as load:
        for extra in ((), ("--new-authority",), ()):  # the last drops the old authority
            done = run_offshelf(("certs", certs, "--namespace", NAMESPACE, *hosts, *extra), deployed.client_environment)
            assert done.returncode == 0, done.stderr
            apply_certificates(certs)
            time.sleep(100)  # a kubelet brings a changed secret into its pods within about a minute and a half
        # Work between services goes on as well.
        with Client(deployed.server, deployed.token, deployed.authority) as client:
            found = client.run("dataset:few", extractors="haralick", classifiers="LR", folds=3).watch()
    print(f"answered: {load.answered}")  # noqa: T201
    assert found.result.scores
    assert not load.failures, f"{load.failures[:5]}\n{state()}"
    assert load.answered > 100
