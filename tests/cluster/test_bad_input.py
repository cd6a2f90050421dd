"""What goes wrong in a cluster is said in one line, and the rest goes on."""

from __future__ import annotations

import base64
import json
import re
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING

import pytest

from offshelf import Client
from offshelf.certificate_authority import Authority
from offshelf.runs import RunState
from tests.cluster import photos
from tests.cluster.installation import (
    NAMESPACE,
    STORE_NAMESPACE,
    apply_certificates,
    apply_secret,
    change_s3_keys,
    kubectl,
    last_words,
    pods_of,
    read,
    run_offshelf,
    wait_until,
)
from tests.wrong_clock import build_wrong_clock, wrong_clock

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


NO_SUCH_KEYS = (
    r"The store at \S+ does not (accept the secret key|let these keys \w+ in bucket 'offshelf') \([\w ]+\): "
    r"(check OFFSHELF_S3_SECRET_KEY|allow it, or check the keys)\."
)
"""Where a server answers with a status alone it does not say more."""


def test_keys_that_are_changed_while_the_orchestrator_runs_are_named(deployed: Deployed, tmp_path: Path) -> None:
    """A run that goes on when the keys of the store are changed fails with that line; with right keys the next ends."""
    dataset = photos.generate(tmp_path / "photos", 600, first=200_000)
    access, secret = deployed.s3_keys
    orchestrator = pods_of("orchestrator")
    with Client(deployed.server, deployed.token, deployed.authority) as client:
        ask = partial(client.run, dataset, extractors=("hog", "lab888"), classifiers=("LR", "KNN"), folds=10)
        run = ask()
        wait_until("the run has begun", lambda: run.refresh().progress.images_total > 0, 120)
        try:
            change_s3_keys((access, "wrong" * 8))
            watched = deployed.offshelf("watch", run.id, exit_code=1)
            said = rf"Error: The run failed: (\S+ cannot start: )?{NO_SUCH_KEYS}"
            assert re.fullmatch(said, watched.stderr.splitlines()[-1])
            listed = run_offshelf(("runs",), deployed.client_environment)
            assert re.search(f" failed .* {NO_SUCH_KEYS}$", line_of(run.id, listed.stdout))
            # Older runs, and the names of datasets, lie in the store.
            assert listed.returncode == 2
            assert re.fullmatch(f"Error: .*{NO_SUCH_KEYS}\n", listed.stderr)
        finally:
            change_s3_keys((access, secret))
        # Those that started meanwhile were refused, and would be started again later and later.
        refused = "app.kubernetes.io/name in (extractor-hog, extractor-lab888, trainer)"
        kubectl("delete", "pods", "--selector", refused, "--namespace", NAMESPACE)
        assert ask().watch().state is RunState.SUCCEEDED
    assert pods_of("orchestrator") == orchestrator


def line_of(run: str, listed: str) -> str:
    """Find the line of a run in what `offshelf runs` printed."""
    return next(line for line in listed.splitlines() if line.startswith(run))


TEN_MINUTES = 600


@pytest.fixture(scope="module")
def clock(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Name of a ConfigMap with what makes the clock of a process wrong."""
    del deployed
    library = build_wrong_clock(tmp_path_factory.mktemp("clock"))
    content = {library.name: base64.b64encode(library.read_bytes()).decode()}
    metadata = {"name": "wrong-clock", "namespace": NAMESPACE}
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "binaryData": content}
    kubectl("apply", "--filename", "-", give=json.dumps(config))
    yield "wrong-clock"
    kubectl("delete", "configmap", "wrong-clock", "--namespace", NAMESPACE)


@contextmanager
def clock_off(deployment: str, clock: str, seconds: int) -> Iterator[None]:
    """Have all pods of a Deployment believe that it is so many seconds later."""
    folder = "/opt/wrong-clock"
    variables = wrong_clock(f"{folder}/wrong_clock.so", seconds)
    additions: list[tuple[str, object]] = [
        ("/spec/template/spec/volumes/-", {"name": clock, "configMap": {"name": clock}}),
        (f"{CONTAINER}/volumeMounts/-", {"name": clock, "mountPath": folder, "readOnly": True}),
        *((f"{CONTAINER}/env/-", {"name": name, "value": value}) for name, value in variables.items()),
    ]
    patch = [{"op": "add", "path": path, "value": value} for path, value in additions]
    before = read("get", "deployment", deployment, "--namespace", NAMESPACE)["spec"]["template"]
    try:
        patch_deployment(deployment, patch)
        yield
    finally:
        patch_deployment(deployment, [{"op": "replace", "path": "/spec/template", "value": before}])


def patch_deployment(name: str, patch: list[dict[str, object]]) -> None:
    """Change a Deployment, and wait until all its pods are the changed ones."""
    kubectl("patch", "deployment", name, "--namespace", NAMESPACE, "--type=json", "--patch", json.dumps(patch))
    kubectl("rollout", "status", f"deployment/{name}", "--namespace", NAMESPACE, "--timeout=180s")


def clock_of(deployment: str) -> timedelta:
    """Find out how far ahead the clock of a pod is of that of its node, by the last line of its log."""
    (pod, *_) = pods_of(deployment)
    lines = kubectl("logs", pod, "--namespace", NAMESPACE, "--timestamps", "--tail=20").splitlines()
    node, _, written = next(line for line in reversed(lines) if '"time"' in line).partition(" ")
    return datetime.fromisoformat(json.loads(written)["time"]) - datetime.fromisoformat(node)


@pytest.mark.parametrize("ahead", [TEN_MINUTES, -TEN_MINUTES])
def test_clocks_that_are_ten_minutes_off_change_nothing(
    deployed: Deployed, clock: str, tmp_path: Path, ahead: int
) -> None:
    """A run whose orchestrator has a clock ten minutes off, and its extractor the other way, has the same scores."""
    # Photos that no other test has had: features that are there need no extractor.
    dataset = photos.generate(tmp_path / "photos", 60, first=300_000 + ahead)
    run = ("run", dataset, "-e", "lab888", "-c", "LR", "--folds", 3)
    with clock_off("extractor-lab888", clock, -ahead), clock_off("orchestrator", clock, ahead):
        done = deployed.offshelf(*run, "-o", tmp_path / "cluster")
        for deployment, seconds in (("orchestrator", ahead), ("extractor-lab888", -ahead)):
            assert abs(clock_of(deployment) - timedelta(seconds=seconds)) < timedelta(minutes=2)
        listed = deployed.offshelf("runs")
    assert "Left out" not in done.stderr
    run_id = json.loads((tmp_path / "cluster" / "run.json").read_text())["run"]
    assert re.search(r" succeeded .* lab888 \+ LR ", line_of(run_id, listed.stdout))
    names = (name for name in deployed.client_environment if not name.startswith("OFFSHELF_"))
    environment = {name: deployed.client_environment[name] for name in names}
    alone = run_offshelf((*run, "-o", tmp_path / "alone"), environment | {"OFFSHELF_STORE": str(tmp_path / "store")})
    assert alone.returncode == 0, alone.stderr
    assert (tmp_path / "cluster" / "scores.parquet").read_bytes() == (
        tmp_path / "alone" / "scores.parquet"
    ).read_bytes()
