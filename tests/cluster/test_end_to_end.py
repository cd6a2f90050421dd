"""The main job on a cluster, by a user outside it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from offshelf import Client, RunState
from tests.cluster.installation import NAMESPACE, figures_of, kubectl, pods_of, read, run_offshelf, wait_until
from tests.cluster.photos import generate as photos_of
from tests.unit.compositions import rbac_table

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.installation import Deployed

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def photos(material: Path | None) -> Path:
    """The paper's case study in size and shape."""
    if material is None:
        pytest.skip("OFFSHELF_TEST_MATERIAL names no folder with photographs and weights")
    return material / "images" / "dogs-cats"


@pytest.fixture(scope="module")
def short_units(deployed: Deployed) -> Deployed:
    """Units of one second, so that a few hundred images are work for several replicas."""
    deployed.set_orchestrator(OFFSHELF_UNIT_SECONDS="1", OFFSHELF_IDLE_SECONDS="600")
    return deployed


@pytest.fixture(scope="module")
def two_replicas(photos: Path, short_units: Deployed) -> Deployed:
    """Two replicas of each extractor that are there already.

    Started by the run, the first of two may have done all of it when the second is ready.
    """
    del photos  # without its weights, googlenet is never ready
    names = [f"deployment/extractor-{name}" for name in ("googlenet", "lab888")]
    kubectl("scale", *names, "--replicas=2", "--namespace", NAMESPACE)
    for name in names:
        kubectl("rollout", "status", name, "--namespace", NAMESPACE, "--timeout=180s")
    return short_units


def test_a_user_outside_gets_the_same_scores_as_on_one_machine(
    two_replicas: Deployed, photos: Path, material: Path, tmp_path: Path
) -> None:
    """Uploading a folder and running on several pods gives byte-equal scores, a report and a model that predicts."""
    deployed, what = two_replicas, ("-e", "googlenet,lab888", "-c", "LR,KNN", "--folds", "5")
    out, alone = tmp_path / "cluster", tmp_path / "alone"
    deployed.offshelf("run", photos / "train", *what, "-o", out)

    environment = {
        **{name: value for name, value in deployed.client_environment.items() if not name.startswith("OFFSHELF_")},
        "OFFSHELF_STORE": str(tmp_path / "store"),
        "OFFSHELF_WEIGHTS": str(material / "weights"),
        "OFFSHELF_UNIT_SECONDS": "1",
    }
    embedded = run_offshelf(("run", photos / "train", *what, "-o", alone), environment)
    assert embedded.returncode == 0, embedded.stderr
    assert (out / "scores.parquet").read_bytes() == (alone / "scores.parquet").read_bytes()
    assert (out / "table.csv").read_bytes() == (alone / "table.csv").read_bytes()
    assert (out / "report.html").stat().st_size > 10_000

    cats = sorted((photos / "test" / "cat").iterdir())
    printed = deployed.offshelf("predict", out, *cats, "--json").stdout
    labels = [json.loads(line)["label"] for line in printed.splitlines()]
    assert len(labels) == len(cats) == 50
    assert labels.count("cat") >= 45


def test_two_replicas_of_each_extractor_have_worked(two_replicas: Deployed) -> None:
    """Where there is more than one replica, each does some of the work."""
    del two_replicas
    for name in ("extractor-googlenet", "extractor-lab888"):
        pods = pods_of(name)
        assert len(pods) == 2
        for pod in pods:
            figures = figures_of(pod)
            call = 'offshelf_rpc_requests_total{code="OK",method="/offshelf.v1.ExtractorService/ExtractSegment"}'
            assert figures.get(call, 0) >= 1


def test_a_restarted_orchestrator_goes_on_at_once(short_units: Deployed, tmp_path: Path) -> None:
    """A run that was going on when the orchestrator was deleted goes on within seconds of the next one being ready."""
    deployed = short_units
    dataset = photos_of(tmp_path / "many", 1500)
    with Client(deployed.server, deployed.token, deployed.authority) as client:
        run = client.run(dataset, extractors="haralick", classifiers="LR", folds=3)
        wait_until("some images are extracted", lambda: run.refresh().progress.images_extracted > 0, 120)
        # With the time that it usually has, the orchestrator that goes could end the run.
        kubectl("delete", "pod", *pods_of("orchestrator"), "--namespace", NAMESPACE, "--grace-period=1")
        kubectl("rollout", "status", "deployment/orchestrator", "--namespace", NAMESPACE, "--timeout=120s")
        (pod,) = pods_of("orchestrator")

        def at_work() -> bool:
            figures = figures_of(pod)
            return any(name.startswith("offshelf_units_total") and "done" in name for name in figures)

        seconds = wait_until("the run goes on", at_work, 60)
        print(f"\nthe run went on {seconds:.1f} s after the new orchestrator was ready")  # noqa: T201
        assert run.watch().state is RunState.SUCCEEDED
        assert run.status.progress.images_extracted + run.status.progress.images_reused == 1500


def may(account: str) -> set[tuple[str, str, str]]:
    """Say what an account may do with which resource of which name, by the API server itself."""
    who = f"system:serviceaccount:{NAMESPACE}:{account}"
    lines = kubectl("auth", "can-i", "--list", "--as", who, "--namespace", NAMESPACE, "--no-headers").splitlines()
    found: set[tuple[str, str, str]] = set()
    for line in lines:
        columns = re.fullmatch(r"(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]", line)
        assert columns is not None
        resource, _urls, names, verbs = columns.groups()
        if resource:
            found |= {(resource, names, verb) for verb in verbs.split()}
    return found


def test_accounts_may_do_what_the_documentation_says_and_no_more(deployed: Deployed) -> None:
    """A platform team can trust the table of rights in docs/architecture.md."""
    del deployed
    everybody = may("nobody-in-particular")
    assert may("orchestrator") - everybody == rbac_table()
    accounts = [each["metadata"]["name"] for each in read("get", "serviceaccounts", "--namespace", NAMESPACE)["items"]]
    assert len(accounts) > 5
    for account in set(accounts) - {"orchestrator"}:
        assert may(account) == everybody


def test_no_process_runs_as_root_and_no_token_lies_around(deployed: Deployed) -> None:
    """A process that is taken over is not root, finds no compiler and, but in the orchestrator, no way to the API."""
    del deployed
    for pod in read("get", "pods", "--namespace", NAMESPACE)["items"]:
        name = pod["metadata"]["name"]
        script = (
            "import json, offshelf, os, pathlib, shutil; print(json.dumps([os.getuid(), "
            "pathlib.Path('/var/run/secrets/kubernetes.io').exists(), os.access('/', os.W_OK), "
            "[tool for tool in ('cc', 'gcc', 'c++', 'ld', 'make', 'pip') if shutil.which(tool)], "
            "offshelf.__cached__ and os.path.exists(offshelf.__cached__)]))"
        )
        printed = kubectl("exec", name, "--namespace", NAMESPACE, "--", "python", "-c", script)
        user, has_token, may_write, tools, compiled = json.loads(printed)
        assert user == 10001
        assert not may_write
        assert not tools
        assert compiled
        assert has_token == name.startswith("orchestrator-")


def test_replicas_go_when_nobody_needs_them(deployed: Deployed) -> None:
    """An idle installation keeps no extractor and no trainer running."""
    deployed.set_orchestrator(OFFSHELF_IDLE_SECONDS="2")

    def idle() -> bool:
        deployments = read("get", "deployments", "--namespace", NAMESPACE)["items"]
        scaled = [one for one in deployments if one["metadata"]["name"].startswith(("extractor-", "trainer"))]
        assert scaled
        return all(one["spec"]["replicas"] == 0 for one in scaled)

    wait_until("all extractors and the trainer are scaled to zero", idle, 60)
