"""Why a pod does not come up: found in what the API says of it, and said in one line with the fix."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from offshelf.errors import OffshelfError, PermissionDenied

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from offshelf.services.orchestrator.fleet.cluster_api import Manifest

_DEPLOY = "make deploy OVERLAY=..."
"""What an installation was deployed from; which one, this process does not know."""

_MAKE_SECRETS = "make secrets OVERLAY=..."
"""What makes the Secrets of an installation that are missing, and lists those that only its operator can make."""

_NOT_FOUND: Final = re.compile(r'secret "([^"]+)" not found')
_NOT_SYNCED: Final = re.compile(r"failed to sync (secret|configmap) cache")
"""What a node says of a missing Secret as long as it has not begun to watch it; which one, it does not say.

It says the same, and nothing is missing, while it cannot reach the API.
"""

_VOLUME_KEYS: Final[Mapping[str, tuple[str, ...]]] = {
    "configMap": ("name",),
    "persistentVolumeClaim": ("claimName",),
    "secret": ("secretName", "name"),  # as a part of a volume it is named differently
}
"""What of a volume's source names something that may be missing."""

_SANDBOX: Final = "PodReadyToStartContainers"

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
        fix = f"Give the orchestrator its Role in {namespace} again: {_DEPLOY}"
        return Trouble(Kind.REFUSED, f"{what}: {error.message} {fix}")
    return Trouble(Kind.API, f"{what}: {error.message}")


def missing_deployment(name: str, namespace: str) -> Trouble:
    """Say that something is not installed."""
    return Trouble(Kind.MISSING, f"There is no Deployment {name} in the namespace {namespace}: {_DEPLOY}")


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
        if kind is Kind.CONFIGURATION:
            kind = Kind.CREATION if _NOT_SYNCED.search(message) else kind  # the former may mend itself
            if missing := _missing_secret(message, pod):
                return Trouble(kind, f"{name}: {missing}; {_MAKE_SECRETS} makes it, or says what belongs in it.")
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


def _missing_secret(message: str, pod: Manifest) -> str:
    """Say which Secret keeps a container from getting its environment, if it is that; else ""."""
    where = f"missing in the namespace {pod['metadata']['namespace']}"
    if found := _NOT_FOUND.search(message):
        return f"the secret {found[1]} is {where}"
    names = sorted(set(_environment_secrets(pod)))
    not_synced = _NOT_SYNCED.search(message)
    if not_synced is None or not_synced[1] != "secret" or not names:
        return ""
    which = f"the secret {names[0]}" if len(names) == 1 else f"one of the secrets {', '.join(names)}"
    return f"{which} may be {where} ({message})"


def _environment_secrets(pod: Manifest) -> Iterator[str]:
    for container in (*(pod["spec"].get("initContainers") or ()), *pod["spec"]["containers"]):
        sources = [all_of.get("secretRef") for all_of in container.get("envFrom") or ()]
        sources += [(one.get("valueFrom") or {}).get("secretKeyRef") for one in container.get("env") or ()]
        yield from (source["name"] for source in sources if source and not source.get("optional"))


def _volume_needs(pod: Manifest) -> Iterator[tuple[str, str]]:
    """Yield the kind and the name of what the volumes of a pod are made of."""
    for volume in pod["spec"].get("volumes") or ():
        for part in (volume, *((volume.get("projected") or {}).get("sources") or ())):
            for kind, keys in _VOLUME_KEYS.items():
                source = part.get(kind) or {}
                if not source.get("optional"):
                    yield from ((kind, source[key]) for key in keys if key in source)


def _slow_creation(name: str, pod: Manifest) -> str:
    needs = sorted(set(_volume_needs(pod)))
    conditions = {one.get("type"): one.get("status") for one in pod["status"].get("conditions") or ()}
    causes = []
    # A pod gets its sandbox when its volumes are mounted, and images are pulled when it has one.
    if conditions.get(_SANDBOX) != "False" or not needs:
        causes.append("its image is still being pulled")
    if conditions.get(_SANDBOX) != "True" and needs:
        has_secrets = needs[-1][0] == "secret"
        makes = f"; {_MAKE_SECRETS} makes the secrets, or says what belongs in them" if has_secrets else ""
        causes.append(f"one of its volumes is missing ({', '.join(f'{kind} {what}' for kind, what in needs)}{makes})")
    look = f"kubectl describe pod -n {pod['metadata']['namespace']} {pod['metadata']['name']}"
    return f"{name}: its container takes long to be created: {', or '.join(causes)}; {look} says more."


def _short(message: object) -> str:
    text = " ".join(str(message or "no reason given").split()).rstrip(".;: ")
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} …"
