"""A cluster in memory that does what the API does: versions, watches, scaling; pods come up as a test says."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

from offshelf.errors import Conflict, NotFound, OffshelfError
from offshelf.services.orchestrator.fleet.cluster_api import Change, ClusterUnavailable, Listing, WatchExpired

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from offshelf.services.orchestrator.fleet.cluster_api import Manifest

NAMESPACE = "shelf"


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something to come true."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (of whatever kind)
            await asyncio.sleep(0.002)


def labels(deployment: str) -> dict[str, str]:
    """Labels of a Deployment and its pods."""
    service, _, extractor = deployment.partition("-")
    own = {"offshelf.dev/extractor": extractor} if extractor else {}
    return {"app.kubernetes.io/name": deployment, "app.kubernetes.io/component": service, **own}


def pod(deployment: str, name: str = "", **status: Any) -> dict[str, Any]:
    """Make a pod of a Deployment that has just been made."""
    name = name or f"{deployment}-1"
    return {
        "metadata": {"name": name, "namespace": NAMESPACE, "uid": f"{name}-uid", "labels": labels(deployment)},
        "spec": {
            "containers": [
                {"name": "mesh", "image": "mesh:1"},
                {
                    "name": deployment.partition("-")[0],
                    "image": "offshelf:1",
                    "ports": [{"name": "grpc", "containerPort": 7000}],
                    "resources": {"limits": {"memory": "1Gi", "cpu": "2"}},
                },
            ]
        },
        "status": {"phase": "Pending", "conditions": [], **status},
    }


def container(manifest: dict[str, Any], *, restarts: int = 0, **state: Any) -> dict[str, Any]:
    """Set the state of a pod's own container: `running={}`, `waiting={"reason": …}`, `terminated={…}`, `last={…}`."""
    last = state.pop("last", None)
    status = {"name": manifest["spec"]["containers"][1]["name"], "restartCount": restarts, "state": state}
    if last:
        status["lastState"] = {"terminated": last}
    manifest["status"]["containerStatuses"] = [status]
    return manifest


def ready(manifest: dict[str, Any], *, restarts: int = 0, ip: str = "10.0.0.1") -> dict[str, Any]:
    """Make a pod ready."""
    manifest["status"] |= {
        "phase": "Running",
        "podIP": ip,
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "True"}],
    }
    return container(manifest, restarts=restarts, running={"startedAt": "now"})


def unschedulable(manifest: dict[str, Any]) -> dict[str, Any]:
    """Leave a pod without a node."""
    message = "0/1 nodes are available: 1 Insufficient cpu."
    manifest["status"]["conditions"] = [
        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    ]
    return manifest


class FakeCluster:
    """One namespace: Deployments whose pods become ready at once, unless a test says how they come up.

    Attributes
    ----------
    scaled
        What was asked for, in order.
    deleted
        Pods that were to be deleted, in order, also if that was refused.
    comes_up
        Makes the state of a new pod.
    forbidden
        What scaling and deleting raise; None where they are allowed.
    away
        What every call raises; None when the API is there.
    """

    namespace = NAMESPACE

    def __init__(self, *deployments: str, replicas: int = 0, cores: str = "2") -> None:
        self.pods: dict[str, dict[str, Any]] = {}
        self.deployments: dict[str, dict[str, Any]] = {}
        self.leases: dict[str, dict[str, Any]] = {}
        self.scaled: list[tuple[str, int]] = []
        self.deleted: list[str] = []
        self.comes_up: Callable[[dict[str, Any]], dict[str, Any]] = ready
        self.away: OffshelfError | None = None
        self.forbidden: OffshelfError | None = None
        self.watches = 0
        self.lists = 0
        self._version = 1
        self._oldest = 0
        self._history: list[Change] = []
        self._changed = asyncio.Event()
        self._made = 0
        for name in deployments:
            self.deploy(name, replicas=replicas, cores=cores)

    # What a test does to the cluster.

    def deploy(self, name: str, *, replicas: int = 0, cores: str = "2") -> None:
        """Apply a Deployment."""
        containers = [{"name": "main", "resources": {"limits": {"cpu": cores}}}]
        self.deployments[name] = {
            "metadata": {"name": name, "labels": labels(name)},
            "spec": {"replicas": 0, "template": {"spec": {"containers": containers}}},
        }
        self._fill(name, replicas)

    def put(self, manifest: dict[str, Any]) -> None:
        """Make or change a pod."""
        name = manifest["metadata"]["name"]
        kind = "MODIFIED" if name in self.pods else "ADDED"
        self.pods[name] = copy.deepcopy(manifest)
        self._record(kind, self.pods[name])

    def delete(self, name: str) -> None:
        """Remove a pod; its Deployment makes another one."""
        self._remove(name)
        owner = self.deployments.get(name.rpartition("-")[0])
        if owner:
            self._fill(owner["metadata"]["name"], owner["spec"]["replicas"])

    def forget_history(self) -> None:
        """Make all versions too old to watch from, and end the watches."""
        self._oldest = self._version
        self._wake()

    def go_away(self) -> None:
        """Have every call and watch fail."""
        self.away = ClusterUnavailable("The Kubernetes API cannot be reached (test).")
        self._wake()

    def come_back(self) -> None:
        """Answer again."""
        self.away = None
        self._wake()

    def of(self, deployment: str) -> list[str]:
        """Names of the pods of a Deployment."""
        return [name for name in self.pods if name.rpartition("-")[0] == deployment]

    # The API.

    async def list_pods(self) -> Listing:
        """List the pods."""
        self._answer()
        self.lists += 1
        return Listing(tuple(copy.deepcopy(list(self.pods.values()))), str(self._version))

    async def watch_pods(self, version: str) -> AsyncGenerator[Change, None]:
        """Yield what happens to the pods."""
        self._answer()
        self.watches += 1
        seen = int(version)
        yield Change("BOOKMARK", version, {})
        while True:
            self._answer()
            if seen < self._oldest:
                raise WatchExpired("The Kubernetes API refuses: too old resource version.")
            for change in [change for change in self._history if int(change.version) > seen]:
                seen = int(change.version)
                yield change
            await self._changed.wait()

    async def list_deployments(self) -> Listing:
        """List the Deployments."""
        self._answer()
        return Listing(tuple(copy.deepcopy(list(self.deployments.values()))), str(self._version))

    async def scale(self, deployment: str, replicas: int) -> None:
        """Scale a Deployment; its pods follow at once."""
        self._answer()
        if self.forbidden:
            raise self.forbidden
        if deployment not in self.deployments:
            raise NotFound("There is none.")
        self.scaled.append((deployment, replicas))
        self._fill(deployment, replicas)

    async def delete_pod(self, name: str, uid: str) -> None:
        """Delete a pod; its Deployment makes another one at once."""
        self.deleted.append(name)
        self._answer()
        if self.forbidden:
            raise self.forbidden
        if name not in self.pods:
            raise NotFound("There is none.")
        if self.pods[name]["metadata"]["uid"] != uid:
            raise Conflict("It is another one.")
        self.delete(name)

    async def read_pod(self, name: str) -> Manifest | None:
        """Look a pod up."""
        self._answer()
        return copy.deepcopy(self.pods.get(name))

    async def read_lease(self, name: str) -> Manifest | None:
        """Look a lease up."""
        self._answer()
        return copy.deepcopy(self.leases.get(name))

    async def create_lease(self, lease: Manifest) -> Manifest:
        """Make a lease."""
        self._answer()
        name = lease["metadata"]["name"]
        if name in self.leases:
            raise Conflict("There is one.")
        return self._write_lease(name, lease)

    async def replace_lease(self, lease: Manifest) -> Manifest:
        """Write a lease at the version it was read at."""
        self._answer()
        name = lease["metadata"]["name"]
        if name not in self.leases:
            raise NotFound("There is none.")
        if self.leases[name]["metadata"]["resourceVersion"] != lease["metadata"]["resourceVersion"]:
            raise Conflict("It is at another version.")
        return self._write_lease(name, lease)

    def _write_lease(self, name: str, lease: Manifest) -> Manifest:
        self._version += 1
        written = copy.deepcopy(dict(lease))
        written["metadata"]["resourceVersion"] = str(self._version)
        self.leases[name] = written
        return copy.deepcopy(written)

    def _fill(self, deployment: str, replicas: int) -> None:
        self.deployments[deployment]["spec"]["replicas"] = replicas
        names = self.of(deployment)
        for name in names[replicas:]:
            self._remove(name)
        for _ in range(replicas - len(names)):
            self._made += 1
            self.put(self.comes_up(pod(deployment, f"{deployment}-{self._made}")))

    def _remove(self, name: str) -> None:
        self._record("DELETED", self.pods.pop(name))

    def _record(self, kind: str, manifest: dict[str, Any]) -> None:
        self._version += 1
        self._history.append(Change(kind, str(self._version), copy.deepcopy(manifest)))
        self._wake()

    def _answer(self) -> None:
        if self.away:
            raise self.away

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
