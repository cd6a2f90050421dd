"""Deploying, and what the platform team's guide says of it."""

from __future__ import annotations

import re
import subprocess
from copy import deepcopy
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.unit.compositions import (
    K8S,
    NAMES,
    ROOT,
    SECRET_SETTINGS,
    SETTINGS,
    Manifest,
    compose,
    compose_overlay,
    containers,
    pod_of,
)

if TYPE_CHECKING:
    from pathlib import Path

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
            assert {setting for setting in settings["data"] if setting.startswith("OFFSHELF_")} <= named


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


def test_strangers_raise_no_critical_alert() -> None:
    """Nobody is woken by what people without a token can cause; that calls are turned away is still told."""
    (rules,) = compose("components/monitoring").of("PrometheusRule")
    told = set()
    for rule in rules["spec"]["groups"][0]["rules"]:
        counted = set(re.findall(r"[A-Z_]{6,}", " ".join(re.findall(r'code=~?"([^"]*)"', rule["expr"]))))
        told |= counted
        if rule["labels"]["severity"] == "critical":
            assert not counted & {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED", "PERMISSION_DENIED"}
            # Nor may they hide that others' calls fail.
            assert "offshelf_rpc_requests_total" not in rule["expr"] or 'code!~"UNAUTHENTICATED|' in rule["expr"]
    assert {"UNAUTHENTICATED", "RESOURCE_EXHAUSTED"} <= told


@pytest.mark.parametrize("namespace", ["offshelf", "shelf"])
def test_a_second_installation_is_one_of_its_own(namespace: str) -> None:
    """A copy of `production` with another namespace watches its own pods, and has certificates for its own names."""
    text = (K8S / "overlays/production/kustomization.yaml").read_text()
    named = text.replace("\nnamespace: offshelf\n", f"\nnamespace: {namespace}\n")
    composition = compose_overlay("copy", named, beside="production")
    for manifest in composition.manifests:
        found = manifest["metadata"]["name" if manifest["kind"] == "Namespace" else "namespace"]
        assert found == namespace
    (binding,) = composition.of("RoleBinding")
    assert binding["subjects"][0]["namespace"] == namespace
    (rules,) = composition.of("PrometheusRule")
    for rule in rules["spec"]["groups"][0]["rules"]:
        assert re.findall(r'namespace="(\w+)"', rule["expr"]) == [namespace]
    for service in ("orchestrator", "predictor", "trainer", "stats"):
        names = composition.one("Certificate", f"offshelf-tls-{service}")["spec"]["dnsNames"]
        assert names[:3] == [service, f"{service}.{namespace}.svc", f"{service}.{namespace}.svc.cluster.local"]
    assert composition.one("Certificate", "offshelf-tls-orchestrator")["spec"]["dnsNames"][3] == "offshelf.example.com"


def test_an_overlay_can_do_without_what_names_the_namespace() -> None:
    """Whoever takes monitoring and cert-manager out of a copy of `production` can still deploy it."""
    lines = (K8S / "overlays/production/kustomization.yaml").read_text().splitlines(keepends=True)
    kept = "".join(line for line in lines if not re.search(r"monitoring|tls-cert-manager|names\.yaml", line))
    assert compose_overlay("copy", kept, beside="production").services


def test_what_the_guide_patches_can_be_patched() -> None:
    """The patches of the guide fit every overlay, and give each service the same."""
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL) if "patches:" in block]
    patches = [patch for block in blocks for patch in yaml.safe_load(block)["patches"]]
    text = yaml.safe_dump({"resources": ["../../overlays/local"], "patches": patches})
    fence = compose_overlay("guide", text.replace("overlays/local", "overlays/production")).one(
        "NetworkPolicy", "all-to-store"
    )
    assert "ipBlock" in fence["spec"]["egress"][0]["to"][0]
    for deployment in compose_overlay("guide", text).services:
        pod, container = pod_of(deployment), containers(deployment)[0]
        assert pod["imagePullSecrets"] == [{"name": "registry"}]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        added = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        assert added["SSL_CERT_FILE"] == f"{mounts['store-ca']}/ca.crt"
        assert added["OFFSHELF_TOKEN_FILE"] == f"{mounts['token']}/token"
        assert mounts.keys() <= {volume["name"] for volume in pod["volumes"]}


def test_an_extractor_goes_with_all_that_is_its_own() -> None:
    """The guide's command for leaving an extractor out leaves nothing of it behind, and takes nothing else."""
    (kinds,) = re.findall(
        r"kubectl delete (\S+) --namespace offshelf --selector offshelf.dev/extractor=NAME", GUIDE.read_text()
    )
    manifests = compose("overlays/local").manifests
    marked = [one for one in manifests if one["metadata"]["labels"].get("offshelf.dev/extractor") == "hog"]
    assert sorted(one["kind"].lower() for one in marked) == sorted(kinds.split(","))
    named = [one for one in manifests if "extractor-hog" in yaml.safe_dump(one["metadata"])]
    assert named == marked
    assert {one["metadata"]["name"] for one in marked} == {"extractor-hog"}


def test_trying_needs_nothing_else() -> None:
    """`trial` finds its store in its own namespace, with the keys that `make secrets` makes, and its bucket is made."""
    composition = compose("overlays/trial")
    for deployment in composition.services:
        settings = composition.settings(deployment)
        assert settings["OFFSHELF_S3_ENDPOINT"] == "http://seaweedfs:8333"
        assert {settings["OFFSHELF_STORE"], settings["OFFSHELF_WEIGHTS"]} == {"s3://offshelf", "s3://offshelf/weights"}
        secrets = [one["secretRef"]["name"] for one in containers(deployment)[0]["envFrom"] if "secretRef" in one]
        assert secrets == ["offshelf-store"]
    assert composition.one("Service", "seaweedfs")
    assert "s3.bucket.create -name offshelf" in containers(composition.one("Job", "seaweedfs-bucket"))[0]["args"][0]
    assert composition.of("NetworkPolicy")


@pytest.mark.parametrize(
    ("there", "asked"),
    [
        pytest.param(">   offshelf\tsize:0\tchunk:0\n> ", ["list"], id="there"),
        pytest.param("  a-offshelf\tsize:0\n  offshelf\tsize:0\n", ["list"], id="there, without prompts"),
        pytest.param(">   offshelf-weights\tsize:0\n  my.offshelf\t\n> ", ["list", "create", "list"], id="like it"),
        pytest.param("> > ", ["list", "create", "list"], id="none"),
    ],
)
def test_the_bucket_is_made_if_it_is_not_there(tmp_path: Path, there: str, asked: list[str]) -> None:
    """`trial` has its bucket, also beside others whose names are like it."""
    (container,) = containers(compose("overlays/trial").one("Job", "seaweedfs-bucket"))
    (tmp_path / "buckets").write_text(there)
    weed = """read -r asked; echo "$asked" >> asked
        case $asked in *list) cat buckets ;; *) printf '  offshelf\\tsize:0\\n' >> buckets ;; esac"""
    for name, text in (("weed", weed), ("nc", "true")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    done = subprocess.run([*container["command"], *container["args"]], cwd=tmp_path, env=path, check=False)
    assert done.returncode == 0
    assert re.findall(r"s3\.bucket\.(\w+)", (tmp_path / "asked").read_text()) == asked


def test_an_unknown_overlay_is_named_with_those_there_are() -> None:
    """A mistyped OVERLAY is answered with the ones there are, and nothing is touched."""
    done = subprocess.run(
        [K8S / "scripts/deploy.sh", "prodution"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "OVERLAY=local|production|trial" in done.stderr
    assert len(done.stderr.splitlines()) == 1
