"""Pods and Deployments as the fleet sees them: replicas of a role, ready or not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from offshelf.services.orchestrator.fleet.replicas import Replica, Role
from offshelf.services.orchestrator.fleet.troubles import Trouble, trouble_of_deployment, trouble_of_pod

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.services.orchestrator.fleet.cluster_api import Manifest

SERVICES: Final = ("extractor", "trainer", "stats", "predictor")
"""Values of the label app.kubernetes.io/component whose pods are replicas."""

_TAKEN: Final = {"Evicted", "NodeAffinity", "NodeLost", "NodeShutdown", "Preempting", "Shutdown", "Terminated"}
"""Reasons of a pod's status that say that somebody or something took it away."""

_PORT = 7000
_PORT_NAME = "grpc"

_QUANTITY: Final[Mapping[str, float]] = {"n": 1e-9, "u": 1e-6, "m": 1e-3, "k": 1e3}


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod, as it was last seen."""

    name: str
    uid: str
    role: Role
    restarts: int
    """How often its container was started again."""
    address: str
    """Where its service is reached; empty as long as it has no address."""
    ready: bool
    leaving: bool
    """Somebody or something is taking the pod away, or has done so: deleted, evicted, preempted, its node gone."""
    ended: bool
    """Its container has ended and is not yet started again."""
    backing_off: bool
    """Kubernetes waits before it starts the container again, each time longer."""
    by_itself: bool
    """The container that ended last did so by itself, and not with its node."""
    trouble: Trouble | None

    @property
    def replica(self) -> Replica:
        """The process in the pod. A container that was started again is another one."""
        name = f"{self.name}/{self.uid[:8]}/{self.restarts}"
        return Replica(self.role, name, self.address, server_name=self.role.service)


@dataclass(frozen=True, slots=True)
class Deployment:
    """One Deployment, as it was last seen."""

    name: str
    role: Role
    replicas: int
    """How many pods it should have."""
    cores: int
    """Cores of each of its pods, rounded up."""
    trouble: Trouble | None


def read_pod(pod: Manifest) -> Pod | None:
    """Take from a pod what the fleet needs to know; None for one that is no replica (the orchestrator's own)."""
    metadata, status = pod["metadata"], pod.get("status", {})
    role = _role(metadata)
    if role is None:
        return None
    conditions = {condition["type"]: condition for condition in status.get("conditions") or ()}
    leaving = (
        bool(metadata.get("deletionTimestamp"))
        # Replicas are always started again in their pod, so that a pod as a whole ends only when it is taken away.
        or status.get("phase") in {"Failed", "Succeeded"}
        or status.get("reason") in _TAKEN
        or conditions.get("DisruptionTarget", {}).get("status") == "True"
    )
    container = _container(pod["spec"])
    process: Manifest = next(
        (one for one in status.get("containerStatuses") or () if one["name"] == container["name"]), {}
    )
    state: Manifest = process.get("state", {})
    backing_off = state.get("waiting", {}).get("reason") == "CrashLoopBackOff"
    ended = "terminated" in state or backing_off
    last = state.get("terminated") or process.get("lastState", {}).get("terminated") or {}
    is_ready = conditions.get("Ready", {}).get("status") == "True" and bool(status.get("podIP"))
    ready = is_ready and not (leaving or ended)
    return Pod(
        name=metadata["name"],
        uid=metadata["uid"],
        role=role,
        restarts=process.get("restartCount", 0),
        address=_address(status.get("podIP", ""), container),
        ready=ready,
        leaving=leaving,
        ended=ended,
        backing_off=backing_off and not leaving,
        by_itself=last.get("reason") not in {"ContainerStatusUnknown", "Unknown"},
        trouble=None if ready or leaving else trouble_of_pod(pod, str(role)),
    )


def read_deployment(deployment: Manifest) -> Deployment | None:
    """Take from a Deployment what the fleet needs to know; None for one whose pods are no replicas."""
    role = _role(deployment["metadata"])
    if role is None:
        return None
    resources = _container(deployment["spec"]["template"]["spec"]).get("resources", {})
    # Without a limit a process sees all cores of its node, but is promised no more than it requests.
    cores = resources.get("limits", {}).get("cpu") or resources.get("requests", {}).get("cpu") or "1"
    return Deployment(
        name=deployment["metadata"]["name"],
        role=role,
        replicas=deployment["spec"].get("replicas", 1),
        cores=max(1, math.ceil(_number(cores))),  # as Kubernetes tells it to the process itself
        trouble=trouble_of_deployment(deployment),
    )


def _role(metadata: Manifest) -> Role | None:
    labels = metadata.get("labels") or {}
    service = labels.get("app.kubernetes.io/component", "")
    extractor = labels.get("offshelf.dev/extractor", "")
    if service not in SERVICES or (service == "extractor") != bool(extractor):
        return None
    return Role(service, extractor)


def _container(specification: Manifest) -> Manifest:
    """Find the container of the service: others may have been put beside it, by a mesh for example."""
    containers = specification["containers"]
    ours = (one for one in containers if any(port.get("name") == _PORT_NAME for port in one.get("ports") or ()))
    found: Manifest = next(ours, containers[0])
    return found


def _address(ip: str, container: Manifest) -> str:
    ports = {port.get("name"): port["containerPort"] for port in container.get("ports") or ()}
    port = ports.get(_PORT_NAME, _PORT)
    if not ip:
        return ""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _number(quantity: str | float) -> float:
    """Read a Kubernetes quantity of cores: "2", "1500m", 0.5."""
    text = str(quantity)
    factor = _QUANTITY.get(text[-1:], None)
    return float(text) if factor is None else float(text[:-1]) * factor
