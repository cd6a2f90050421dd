"""What goes wrong in a cluster is said in one line, and the rest goes on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from offshelf.certificate_authority import Authority
from tests.cluster import photos
from tests.cluster.installation import (
    NAMESPACE,
    STORE_NAMESPACE,
    apply_certificates,
    apply_secret,
    kubectl,
    last_words,
    read,
    wait_until,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.cluster.installation import Deployed

pytestmark = [pytest.mark.cluster, pytest.mark.nightly, pytest.mark.timeout(1200)]

BROKEN = "extractor-hog"


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset."""
    # Photos that no other test has had: features that are there need no extractor.
    return photos.generate(tmp_path_factory.mktemp("few") / "few", 60, first=100_000)


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
    assert left_out(done.stderr, said), done.stdout + done.stderr


def left_out(printed: str, said: str) -> list[str]:
    """Find the lines that say why the broken extractor is not among the results."""
    lines = [line for line in printed.splitlines() if line.startswith("Left out:")]
    return [line for line in lines if BROKEN in line and said in line]


def test_an_expired_certificate_is_named(deployed: Deployed, few: Path, tmp_path: Path) -> None:
    """A run without an extractor, because their certificate has expired, ends and says that this is why."""
    now = datetime.now(UTC)
    authority = Authority.read(deployed.folder / "certs" / "ca")
    names = [f"*.extractor-hog.{NAMESPACE}.svc", f"extractor-hog.{NAMESPACE}.svc"]
    authority.certify("extractor", names, tmp_path, now - timedelta(days=2), now - timedelta(days=1))
    try:
        expired = {name: (tmp_path / name).read_bytes() for name in ("tls.crt", "tls.key", "ca.crt")}
        apply_secret("offshelf-tls-extractor", NAMESPACE, **expired)
        kubectl("scale", f"deployment/{BROKEN}", "--replicas=0", "--namespace", NAMESPACE)
        what = ("-e", "hog", "-c", "LR", "--folds", 3, "--seed", 99)
        done = deployed.offshelf("run", few, *what, "-o", tmp_path / "out", exit_code=1)
        assert left_out(done.stderr, "expired"), done.stdout + done.stderr
    finally:
        apply_certificates(deployed.folder / "certs")
        kubectl("scale", f"deployment/{BROKEN}", "--replicas=0", "--namespace", NAMESPACE)


def test_a_bucket_that_does_not_exist_is_named(deployed: Deployed) -> None:
    """An orchestrator without a bucket says so where a platform team looks first."""
    del deployed
    setting = "OFFSHELF_STORE"
    url = f"s3://not-there?endpoint=http://s3.{STORE_NAMESPACE}.svc:9000"
    try:
        kubectl("set", "env", "deployment/orchestrator", f"{setting}={url}", "--namespace", NAMESPACE)
        wait_until("the orchestrator says what is wrong", lambda: "not-there" in last_words("orchestrator"), 120)
        assert "bucket" in last_words("orchestrator")
    finally:
        kubectl("set", "env", "deployment/orchestrator", f"{setting}-", "--namespace", NAMESPACE)
        kubectl("rollout", "status", "deployment/orchestrator", "--namespace", NAMESPACE, "--timeout=180s")


def test_wrong_keys_of_the_store_are_named(deployed: Deployed) -> None:
    """An orchestrator that the store refuses says so where a platform team looks first."""
    access, secret = deployed.s3_keys
    try:
        apply_secret("offshelf-store", NAMESPACE, OFFSHELF_S3_ACCESS_KEY=access, OFFSHELF_S3_SECRET_KEY="wrong" * 8)
        kubectl("rollout", "restart", "deployment/orchestrator", "--namespace", NAMESPACE)
        setting = "OFFSHELF_S3_SECRET_KEY"
        wait_until("the orchestrator says what is wrong", lambda: setting in last_words("orchestrator"), 120)
    finally:
        apply_secret("offshelf-store", NAMESPACE, OFFSHELF_S3_ACCESS_KEY=access, OFFSHELF_S3_SECRET_KEY=secret)
        kubectl("rollout", "restart", "deployment/orchestrator", "--namespace", NAMESPACE)
        kubectl("rollout", "status", "deployment/orchestrator", "--namespace", NAMESPACE, "--timeout=180s")
