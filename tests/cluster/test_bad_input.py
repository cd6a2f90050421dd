"""What goes wrong in a cluster is said in one line, and the rest goes on."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.cluster import photos
from tests.cluster.installation import NAMESPACE, apply_secret, kubectl, read, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.installation import Deployed

pytestmark = [pytest.mark.cluster, pytest.mark.nightly, pytest.mark.timeout(1200)]

BROKEN = "extractor-hog"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset."""
    return photos.generate(tmp_path_factory.mktemp("few") / "few", 60)


@pytest.fixture
def mended(deployed: Deployed) -> Iterator[None]:
    """Put the broken Deployment back as it was."""
    del deployed
    before = read("get", "deployment", BROKEN, "--namespace", NAMESPACE)
    yield
    kubectl("scale", f"deployment/{BROKEN}", "--replicas=0", "--namespace", NAMESPACE)
    patch = [{"op": "replace", "path": "/spec/template", "value": before["spec"]["template"]}]
    kubectl("patch", "deployment", BROKEN, "--namespace", NAMESPACE, "--type=json", "--patch", json.dumps(patch))


CONTAINER = "/spec/template/spec/containers/0"


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("image", "localhost/nothing:here", "image"),
        ("resources", {"requests": {"memory": "40Mi"}, "limits": {"cpu": "1", "memory": "40Mi"}}, "memory"),
        ("resources", {"requests": {"cpu": "500"}, "limits": {"cpu": "500", "memory": "1Gi"}}, "room"),
        ("envFrom/-", {"secretRef": {"name": "not-there"}}, "not-there"),
        ("env/-", {"name": "OFFSHELF_PORT", "value": "x"}, "OFFSHELF_PORT"),
    ],
    ids=["image", "memory", "room", "secret", "setting"],
)
@pytest.mark.usefixtures("mended")
def test_an_extractor_that_cannot_start_is_left_out_with_the_reason(
    deployed: Deployed, few: Path, tmp_path: Path, path: str, value: object, said: str
) -> None:
    """A run goes on without an extractor that cannot be had, and says why in one line."""
    patch = [{"op": "add", "path": f"{CONTAINER}/{path}", "value": value}]
    kubectl("patch", "deployment", BROKEN, "--namespace", NAMESPACE, "--type=json", "--patch", json.dumps(patch))
    seed = len(said)  # each case is a run of its own
    done = deployed.offshelf(
        "run", few, "-e", "hog,haralick", "-c", "LR", "--folds", 3, "--seed", seed, "-o", tmp_path / "out"
    )
    left_out = [line for line in done.stderr.splitlines() if line.startswith("Left out:")]
    said_so = [line for line in left_out if BROKEN in line and said in line]
    assert said_so, done.stdout + done.stderr


def test_wrong_keys_of_the_store_are_named(deployed: Deployed) -> None:
    """An orchestrator that the store refuses says so where a platform team looks first."""
    access, secret = deployed.s3_keys
    try:
        apply_secret("offshelf-store", NAMESPACE, OFFSHELF_S3_ACCESS_KEY=access, OFFSHELF_S3_SECRET_KEY="wrong" * 8)
        kubectl("rollout", "restart", "deployment/orchestrator", "--namespace", NAMESPACE)

        def said() -> bool:
            selector = "app.kubernetes.io/name=orchestrator"
            pods = read("get", "pods", "--namespace", NAMESPACE, "--selector", selector)["items"]
            states = [each for pod in pods for each in pod["status"].get("containerStatuses", ())]
            ended = [each.get("lastState", {}).get("terminated") or each["state"].get("terminated") for each in states]
            return any("OFFSHELF_S3_SECRET_KEY" in each.get("message", "") for each in ended if each)

        wait_until("the orchestrator says what is wrong", said, 120)
    finally:
        apply_secret("offshelf-store", NAMESPACE, OFFSHELF_S3_ACCESS_KEY=access, OFFSHELF_S3_SECRET_KEY=secret)
        kubectl("rollout", "restart", "deployment/orchestrator", "--namespace", NAMESPACE)
        kubectl("rollout", "status", "deployment/orchestrator", "--namespace", NAMESPACE, "--timeout=180s")
