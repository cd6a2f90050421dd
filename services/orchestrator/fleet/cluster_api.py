"""What this service asks of the Kubernetes API, and what can come of asking.

Objects cross as the API's own JSON: they are read where they are used (`pods`, `deployments`, `lease`), so that a newer
or older API, which has more or fewer fields, changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from offshelf.errors import Conflict, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

Manifest: TypeAlias = Mapping[str, Any]
"""An object of the API as it writes it."""

PART_OF = "offshelf"
"""Value of the label app.kubernetes.io/part-of on all that belongs to an installation."""


class ClusterUnavailable(Unavailable):
    """The API cannot be reached, or not for us, at the moment."""


class WatchExpired(Conflict):
    """The version to watch from is too old to be told what came after it: list again."""


@dataclass(frozen=True, slots=True)
class Listing:
    """All objects of a kind at one version."""

    items: tuple[Manifest, ...]
    version: str


@dataclass(frozen=True, slots=True)
class Change:
    """What a watch tells: "ADDED", "MODIFIED", "DELETED", or "BOOKMARK" for nothing but the version."""

    kind: str
    version: str
    item: Manifest


class PodApi(Protocol):
    """Pods and Deployments of one installation, in one namespace.

    Every method raises `ClusterUnavailable` when the API is away, and `PermissionDenied` when it does not allow it.
    """

    namespace: str

    async def list_pods(self) -> Listing:
        """List the pods of the installation."""
        ...

    def watch_pods(self, version: str) -> AsyncGenerator[Change, None]:
        """Yield what happens to the pods after a version, first a bookmark once the watch stands; ends now and then.

        Raises
        ------
        WatchExpired
            The version is too old.
        """
        ...

    async def list_deployments(self) -> Listing:
        """List the Deployments of the installation."""
        ...

    async def scale(self, deployment: str, replicas: int) -> None:
        """Set how many pods a Deployment should have.

        Raises
        ------
        NotFound
            There is none of that name.
        """
        ...

    async def delete_pod(self, name: str, uid: str) -> None:
        """Delete a pod.

        Raises
        ------
        Conflict
            The pod of that name is another one, with another uid.
        NotFound
            There is none of that name.
        """
        ...


class LeaseApi(Protocol):
    """Leases (coordination.k8s.io) of one namespace, and a look at the pods that hold them; errors as of `PodApi`."""

    namespace: str

    async def read_pod(self, name: str) -> Manifest | None:
        """Look a pod up."""
        ...

    async def read_lease(self, name: str) -> Manifest | None:
        """Look a lease up."""
        ...

    async def create_lease(self, lease: Manifest) -> Manifest:
        """Make a lease.

        Raises
        ------
        Conflict
            There is one of that name.
        """
        ...

    async def replace_lease(self, lease: Manifest) -> Manifest:
        """Write a lease, if it is still at the version that this one was read at.

        Raises
        ------
        Conflict
            It is not.
        NotFound
            It is gone.
        """
        ...
