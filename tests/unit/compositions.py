"""What kubectl makes of k8s/, as objects: every composition that users can put together."""

from __future__ import annotations

import functools
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from offshelf.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
K8S = ROOT / "k8s"
SERVICES = ("orchestrator", "trainer", "stats", "predictor", "extractor")
SECRET_SETTINGS = {"OFFSHELF_S3_ACCESS_KEY", "OFFSHELF_S3_SECRET_KEY"}
SETTINGS = {f"OFFSHELF_{name.upper()}" for name in Settings.__dataclass_fields__} | {"OFFSHELF_S3_ENDPOINT"}

Manifest = dict[str, Any]


@dataclass(frozen=True)
class Composition:
    """Manifests that are applied together."""

    name: str
    manifests: tuple[Manifest, ...]
    text: str
    """As kubectl prints them."""

    def of(self, *kinds: str) -> list[Manifest]:
        """Those of some kinds."""
        return [manifest for manifest in self.manifests if manifest["kind"] in kinds]

    def one(self, kind: str, name: str) -> Manifest:
        """The one of a kind and name."""
        (found,) = (manifest for manifest in self.of(kind) if manifest["metadata"]["name"] == name)
        return found

    @property
    def workloads(self) -> list[Manifest]:
        """What starts pods."""
        return self.of("Deployment", "StatefulSet", "DaemonSet", "Job", "CronJob", "Pod", "ReplicaSet")

    @property
    def services(self) -> list[Manifest]:
        """Deployments of our own services."""
        return self.of("Deployment")

    def settings(self, deployment: Manifest) -> dict[str, str]:
        """The plain environment of a Deployment's container: its ConfigMaps, and what it is given directly."""
        container = containers(deployment)[0]
        references = [source["configMapRef"]["name"] for source in container["envFrom"] if "configMapRef" in source]
        environment: dict[str, str] = {}
        for reference in references:
            environment |= self.one("ConfigMap", reference)["data"]
        return environment | {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def pod_of(workload: Manifest) -> Manifest:
    """Specification of the pods that a workload starts."""
    pod: Manifest = workload["spec"]["template"]["spec"]
    return pod


def pod_labels(workload: Manifest) -> dict[str, str]:
    """Labels of the pods that a workload starts."""
    labels: dict[str, str] = workload["spec"]["template"]["metadata"]["labels"]
    return labels


def containers(workload: Manifest) -> list[Manifest]:
    """All containers of a workload's pods."""
    pod = pod_of(workload)
    return [*pod.get("initContainers", ()), *pod["containers"]]


def selects(selector: Manifest, labels: dict[str, str]) -> bool:
    """Whether a selector with matchLabels and matchExpressions (operator In) takes a pod with these labels."""
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    expressions = selector.get("matchExpressions", ())
    return wanted and all(
        expression["operator"] == "In" and labels.get(expression["key"]) in expression["values"]
        for expression in expressions
    )


def variables(workload: Manifest) -> Iterator[str]:
    """Names of the OFFSHELF_ variables that containers are given by name."""
    for container in containers(workload):
        yield from (entry["name"] for entry in container.get("env", ()) if entry["name"].startswith("OFFSHELF_"))


NAMES = (
    "base",
    *sorted(f"extractors/{path.parent.name}" for path in K8S.glob("extractors/*/kustomization.yaml")),
    *sorted(f"components/{path.parent.name}" for path in K8S.glob("components/*/kustomization.yaml")),
    *sorted(f"overlays/{path.parent.name}" for path in K8S.glob("overlays/*/kustomization.yaml")),
)
"""Every folder with a kustomization; a component stands for itself on base."""

INSTALLATIONS = tuple(name for name in NAMES if not name.startswith("extractors/"))
"""Those that are a whole installation, or base and one thing more."""


@functools.cache
def compose(name: str) -> Composition:
    """Render a composition; skips the test where kubectl is missing, and fails it in CI."""
    _need_kubectl()
    if not name.startswith("components/"):
        return _parse(name, _kustomize(K8S / name))
    return compose_overlay(name, f"resources: [../../base]\ncomponents: [../../{name}]\n")


def compose_overlay(name: str, kustomization: str, beside: str = "") -> Composition:
    """Render an overlay of somebody's own; `beside` is the overlay whose other files lie beside it, as in a copy."""
    _need_kubectl()
    with tempfile.TemporaryDirectory() as folder:
        if beside:
            shutil.copytree(K8S / "overlays" / beside, folder, dirs_exist_ok=True)
        # Kustomize takes no absolute paths.
        up = os.path.relpath(K8S, Path(folder).resolve())
        (Path(folder) / "kustomization.yaml").write_text(kustomization.replace("../../", f"{up}/"))
        return _parse(name, _kustomize(Path(folder)))


def _kustomize(folder: Path) -> str:
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, done.stderr
    return done.stdout


def _parse(name: str, text: str) -> Composition:
    return Composition(name, tuple(yaml.load_all(text, yaml.CSafeLoader)), text)


def rbac_table() -> set[tuple[str, str, str]]:
    """The orchestrator's rights as docs/architecture.md lists them: (resource with its group, name or "", verb)."""
    section = (ROOT / "docs/architecture.md").read_text().split("\n### RBAC\n")[1].split("\n## ")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return {
        (resource.strip("`"), name.strip("`"), verb)
        for resource, name, verbs, _ in rows[2:]
        for verb in re.findall(r"`(\w+)`", verbs)
    }


def _need_kubectl() -> None:
    if shutil.which("kubectl") is None:
        # CI must not be green without a look at a single manifest.
        (pytest.fail if os.environ.get("CI") else pytest.skip)("kubectl is missing: k8s/ cannot be rendered")
