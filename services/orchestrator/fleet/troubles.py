"""Why a pod does not come up: found in what the API says of it, and said in one line with the fix."""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from offshelf.errors import OffshelfError, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from offshelf.services.orchestrator.fleet.cluster_api import Manifest

_OVERLAY = "k8s/overlays/..."
"""What an installation was deployed from; which one, this process does not know."""

_LONGEST = 300
"""Characters of a message of the API that are passed on."""


class Kind(Enum):
    """What is in the way. The order is that of importance, the most important first."""

    MISSING = "missing"
    """There is no such Deployment."""
    REFUSED = "refused"
    """The API refuses what the fleet asks of it, or the Deployment's pods."""
    IMAGE = "image"
    CONFIGURATION = "configuration"
    CRASH = "crash"
    ROOM = "room"
    CREATION = "creation"
    """A container is being created; no trouble unless it takes long."""
    API = "API"
    """The API is away."""


_NOT_PULLED = (
    Kind.IMAGE,
    "{name}: the image {image} cannot be pulled ({message}); check the name and the registry's credentials.",
)
_NOT_STARTED = (Kind.CONFIGURATION, "{name}: its container cannot be started ({message}); correct the Deployment.")
_WAITING: Final[Mapping[str, tuple[Kind, str]]] = {
    "ErrImagePull": _NOT_PULLED,
    "ImagePullBackOff": _NOT_PULLED,
    "ImageInspectError": _NOT_PULLED,
    "RegistryUnavailable": _NOT_PULLED,
    "ErrImageNeverPull": (
        Kind.IMAGE,
        "{name}: the image {image} is not on the node and may not be pulled (imagePullPolicy Never); load it.",
    ),
    "InvalidImageName": (
        Kind.IMAGE,
        "{name}: {image} is not the name of an image; correct it in the Deployment.",
    ),
    "CreateContainerConfigError": (
        Kind.CONFIGURATION,
        "{name}: its configuration is not complete ({message}); add what is missing.",
    ),
    "CreateContainerError": _NOT_STARTED,
    "RunContainerError": _NOT_STARTED,
    "PostStartHookError": _NOT_STARTED,
}
"""What a container may be waiting for, by the reason in its status."""


@dataclass(frozen=True, slots=True)
class Trouble:
    """What is in the way of a role's pods."""

    kind: Kind
    line: str
    """For a person: what is wrong, and what to do."""
    error: type[OffshelfError] = OffshelfError
    """What a process that could not start named as its reason."""
    is_vague: bool = False
    """Whether an earlier line about the same says more."""


def trouble_of_pod(pod: Manifest, name: str) -> Trouble | None:
    """Find what keeps a pod that is neither ready nor about to go from being ready; None if it is just starting.

    `name` is that of its Deployment.
    """
    status = pod.get("status", {})
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("reason") == "Unschedulable":
            return Trouble(
                Kind.ROOM,
                f"no room in the cluster for {name} ({_short(condition.get('message'))}); add nodes, or lower what "
                "the Deployment requests.",
            )
    found = [_of_container(container, state, pod, name) for container, state in _containers(pod)]
    return gravest(trouble for trouble in found if trouble)


def gravest(troubles: Iterable[Trouble]) -> Trouble | None:
    """Choose what to speak of first."""
    return min(troubles, key=lambda trouble: list(Kind).index(trouble.kind), default=None)


def trouble_of_deployment(deployment: Manifest) -> Trouble | None:
    """Find why a Deployment cannot even make its pods."""
    name = deployment["metadata"]["name"]
    for condition in deployment.get("status", {}).get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            message = _short(condition.get("message"))
            if "exceeded quota" in message:
                line = f"{name}: the namespace's quota allows no more pods ({message}); raise it, or free some of it."
                return Trouble(Kind.ROOM, line)
            return Trouble(Kind.REFUSED, f"{name}: the cluster refuses its pods ({message}); correct the Deployment.")
    return None


def trouble_of_api(error: OffshelfError, what: str, namespace: str) -> Trouble:
    """Say that the API did not let something be done: it is away, or this account may not."""
    if isinstance(error, PermissionDenied):
        fix = f"Give the orchestrator its Role in {namespace} again: kubectl apply -k {_OVERLAY}"
        return Trouble(Kind.REFUSED, f"{what}: {error.message} {fix}")
    return Trouble(Kind.API, f"{what}: {error.message}")


def missing_deployment(name: str, extractor: str, namespace: str) -> Trouble:
    """Say that something is not installed."""
    folder = f"k8s/extractors/{extractor}" if extractor else _OVERLAY
    return Trouble(
        Kind.MISSING, f"There is no Deployment {name} in the namespace {namespace}: kubectl apply -k {folder}"
    )


def nothing_deployed(name: str, namespace: str) -> Trouble:
    """Say that a Deployment that the fleet does not scale has no replicas."""
    fix = f"kubectl scale -n {namespace} deployment/{name} --replicas=1"
    return Trouble(Kind.CONFIGURATION, f"{name} is scaled to zero: {fix}")


def _containers(pod: Manifest) -> Iterator[tuple[Manifest, Manifest]]:
    """Yield the specification and the status of each container that has one."""
    for kind in ("initContainers", "containers"):
        specifications = {container["name"]: container for container in pod["spec"].get(kind) or ()}
        for status in pod.get("status", {}).get(f"{kind[:-1]}Statuses") or ():
            if status["name"] in specifications:
                yield specifications[status["name"]], status


def _of_container(container: Manifest, status: Manifest, pod: Manifest, name: str) -> Trouble | None:
    waiting = status.get("state", {}).get("waiting") or {}
    reason = waiting.get("reason", "")
    if known := _WAITING.get(reason):
        kind, line = known
        message = _short(waiting.get("message"))
        line = line.format(name=name, image=container.get("image"), message=message)
        # Between two tries to pull an image there is no word of why the last one failed.
        return Trouble(kind, line, is_vague=reason == "ImagePullBackOff")
    if reason in {"ContainerCreating", "PodInitializing"}:
        return Trouble(Kind.CREATION, _slow_creation(name, pod))
    ended = status.get("state", {}).get("terminated") or status.get("lastState", {}).get("terminated")
    if (
        "running" in status.get("state", {})
        or not ended
        or (ended.get("exitCode") == 0 and ended.get("reason") == "Completed")
    ):
        return None
    return _crash(name, container, ended, pod)


def _crash(name: str, container: Manifest, ended: Manifest, pod: Manifest) -> Trouble:
    if ended.get("reason") == "OOMKilled":
        limit = container.get("resources", {}).get("limits", {}).get("memory")
        had = f" (its limit is {limit})" if limit else ""
        return Trouble(Kind.CRASH, f"{name}: ran out of memory{had}; raise the memory limit of the Deployment.")
    if said := _last_words(ended.get("message") or ""):
        kind = OffshelfError.named(str(said.get("kind")))
        return Trouble(Kind.CRASH, f"{name} cannot start: {' '.join(said['error'].split())}", kind)
    log = f"kubectl logs -n {pod['metadata']['namespace']} {pod['metadata']['name']} -c {container['name']} --previous"
    line = f"{name}: its process ends (exit status {ended.get('exitCode')}) instead of becoming ready; {log} says why."
    return Trouble(Kind.CRASH, line)


def _last_words(message: str) -> Manifest | None:
    """Find the line in which one of our services says why it cannot start.

    Nothing else of the message is used: it may be the end of the log of anything.
    """
    for line in reversed(message.splitlines()):
        with suppress(ValueError):
            said = json.loads(line)
            if isinstance(said, dict) and said.get("ready") is False and isinstance(said.get("error"), str):
                return said
    return None


def _slow_creation(name: str, pod: Manifest) -> str:
    needs: set[str] = set()
    for volume in pod["spec"].get("volumes") or ():
        for kind, key in (("secret", "secretName"), ("configMap", "name"), ("persistentVolumeClaim", "claimName")):
            source = volume.get(kind) or {}
            if key in source and not source.get("optional"):
                needs.add(f"{kind} {source[key]}")
    missing = f", or one of its volumes is missing ({', '.join(sorted(needs))})" if needs else ""
    look = f"kubectl describe pod -n {pod['metadata']['namespace']} {pod['metadata']['name']}"
    return (
        f"{name}: its container takes long to be created: its image is still being pulled{missing}; {look} says which."
    )


def _short(message: object) -> str:
    text = " ".join(str(message or "no reason given").split()).rstrip(".;: ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
