"""The orchestrator of a cluster: any store, a lease in its namespace, and services that are Deployments."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

from offshelf.errors import InvalidInput
from offshelf.rpc.auth import read_token
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.peers import GrpcPeers
from offshelf.services.orchestrator.fleet.kubernetes import KubernetesFleet
from offshelf.services.orchestrator.fleet.kubernetes_api import KubernetesApi
from offshelf.services.orchestrator.fleet.lease import ClusterOwnership
from offshelf.services.orchestrator.holdings.incoming import no_room

if TYPE_CHECKING:
    from offshelf.settings import Settings


_SCRATCH = "offshelf-scratch"
"""Below the temporary directory, which in a pod outlives a container that is killed."""


class ClusterTenure:
    """Holds the lease of an installation's namespace; a `Tenure`."""

    takes_up = True

    def __init__(self, settings: Settings, api: KubernetesApi, ownership: ClusterOwnership, scratch: Path) -> None:
        self._api = api
        self._ownership = ownership
        self._predictor = settings.predictor_address or f"predictor.{api.namespace}.svc:7000"
        self.epoch = ownership.epoch
        self.token_file = settings.token_file
        self.scratch: Path | None = scratch
        self.extractors_at_a_time = 0
        self.fleet = KubernetesFleet(api, max_replicas=settings.max_replicas, idle_seconds=settings.idle_seconds)
        pool = self.fleet.pool
        self.peers = GrpcPeers(
            # Services that have no certificates, since a mesh encrypts, know each other by a token.
            read_token(settings.token_file) if settings.token_file else None,
            settings.tls,
            settings.plaintext,
            is_ready=lambda replica: replica in pool.ready(replica.role),
        )
        self.budget = CoreBudget(None)  # each pod has cores of its own

    @classmethod
    async def begin(cls, settings: Settings) -> Self:
        """Wait for the lease, take it, and begin to follow the pods.

        Raises
        ------
        InvalidInput
            If this process is in no pod, or does not know which.
        PermissionDenied
            If the service account may not do what the orchestrator has to.
        ResourceExhausted, Unavailable
            If it cannot write temporary files.
        """
        if not settings.pod:
            raise InvalidInput("An orchestrator in a cluster needs to know its pod: set OFFSHELF_POD to its name.")
        api = await asyncio.to_thread(KubernetesApi.connect, settings.namespace)
        try:
            scratch = await asyncio.to_thread(_empty_scratch)  # this pod's own, so no lease is needed for it
            tenure = cls(settings, api, await ClusterOwnership.acquire(api, settings.pod), scratch)
        except BaseException:
            await api.close()
            raise
        tenure.fleet.start()
        return tenure

    async def locate_predictor(self) -> str:
        """See `Tenure`; the predictor is always there, at the address it was given."""
        return self._predictor

    async def announce(self, address: str) -> None:
        """See `Tenure`; a Service finds this pod by its readiness."""

    async def withdraw(self) -> None:
        """See `Tenure`; not being ready is enough."""

    async def end(self) -> None:
        """See `Tenure`; replicas stay for the next orchestrator."""
        await self.peers.close()
        await self.fleet.close()
        await self._ownership.release()
        await self._api.close()


def _empty_scratch() -> Path:
    """Make the folder for large files that are needed for a while, without what a container before left in it."""
    folder = Path(tempfile.gettempdir()) / _SCRATCH
    shutil.rmtree(folder, ignore_errors=True)
    try:
        folder.mkdir(mode=0o700)  # not one that is there: it would not be ours, or not empty
    except OSError as error:
        raise no_room(error) from error
    return folder
