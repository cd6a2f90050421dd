"""Deploying, and what the platform team's guide says of it."""

from __future__ import annotations

import re
import subprocess
from copy import deepcopy

import yaml

from tests.unit.compositions import K8S, NAMES, ROOT, SECRET_SETTINGS, SETTINGS, Manifest, compose

GUIDE = ROOT / "docs/cluster.md"


def test_deploying_again_leaves_replicas_alone() -> None:
    """`make deploy` changes the number of replicas of nothing that the fleet or an autoscaler has scaled."""
    composition = compose("overlays/local")
    script = K8S / "scripts/keep-replicas.awk"
    done = subprocess.run(
        ["awk", "-v", "existing=extractor-hog trainer orchestrator", "-f", str(script)],
        input=composition.text,
        capture_output=True,
        text=True,
        check=True,
    )
    kept: list[Manifest] = [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
    assert len(kept) == len(composition.manifests)
    # A composition is rendered once for all tests: what is changed here is a copy.
    for before, after in zip(deepcopy(composition.manifests), kept, strict=True):
        if before["kind"] == "Deployment" and before["metadata"]["name"] in {"extractor-hog", "trainer"}:
            del before["spec"]["replicas"]
        assert after == before


def test_the_guide_names_settings_that_there_are() -> None:
    """What the platform team's guide calls a setting is one, and every setting of an overlay is in it."""
    of_users = {"OFFSHELF_SERVER", "OFFSHELF_TOKEN", "OFFSHELF_CA"}
    named = set(re.findall(r"OFFSHELF_[A-Z0-9_]+", GUIDE.read_text()))
    assert named <= SETTINGS | SECRET_SETTINGS | of_users
    for name in NAMES:
        for settings in compose(name).of("ConfigMap"):
            assert settings["data"].keys() <= named


def test_alerts_ask_for_figures_that_there_are() -> None:
    """An alert can fire: its metrics are counted by a service, and what to do about it is in the guide."""
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "services").rglob("*.py")]
    counted = {name for path in sources for name in re.findall(r'"(offshelf_[a-z_]+)"', path.read_text())}
    anchors = {
        re.sub(r"[^a-z -]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^### (.+)$", GUIDE.read_text(), re.MULTILINE)
    }
    (rules,) = compose("components/monitoring").of("PrometheusRule")
    for rule in rules["spec"]["groups"][0]["rules"]:
        for metric in re.findall(r"\boffshelf_[a-z_]+", rule["expr"]):
            assert re.sub(r"_(total|bucket|sum|count)$", "", metric) in counted
        document, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert document == "docs/cluster.md"
        assert anchor in anchors
        assert rule["alert"] in GUIDE.read_text()


def test_an_unknown_overlay_is_named_with_those_there_are() -> None:
    """A mistyped OVERLAY is answered with the ones there are, and nothing is touched."""
    done = subprocess.run(
        [K8S / "scripts/deploy.sh", "prodution"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "OVERLAY=local|production" in done.stderr
    assert len(done.stderr.splitlines()) == 1
