"""The fleet of a cluster: replicas are pods of Deployments, which are scaled to the work there is."""

from __future__ import annotations

import asyncio
import logging
import math
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from offshelf.errors import NotFound, OffshelfError
from offshelf.extraction.extractors import replicas_of
from offshelf.services.orchestrator.fleet.losses import Losses, answers
from offshelf.services.orchestrator.fleet.needs import Holder, Need
from offshelf.services.orchestrator.fleet.outlook import Outlook, Patience
from offshelf.services.orchestrator.fleet.pod_watch import PodWatch
from offshelf.services.orchestrator.fleet.pods import Deployment, Pod, read_deployment
from offshelf.services.orchestrator.fleet.replicas import Replica, ReplicaPool, Role, keep_quiet
from offshelf.services.orchestrator.fleet.troubles import (
    Kind,
    Trouble,
    gravest,
    missing_deployment,
    nothing_deployed,
    trouble_of_api,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

    from offshelf.services.orchestrator.fleet.cluster_api import PodApi

_log = logging.getLogger(__name__)

SCALED: Final = ("extractor", "trainer")
"""Services that are scaled here. The others have the replicas that they are deployed with."""

SLOTS: Final[Mapping[str, int]] = {"extractor": 2, "stats": 2, "predictor": 8}
"""Units at a time on one replica; on a trainer as many as it has cores."""


class KubernetesFleet:
    """Scales Deployments up before work is sent, follows their pods, and scales them to zero when they are idle.

    A role's Deployment gets as many replicas as all its holders have work for, at once, and keeps them while it is
    held: a replica that works is never taken away. What nobody holds for `idle_seconds` goes, sooner if a role that is
    held finds no room. Replicas that are there when the fleet starts are used like its own, so that an orchestrator
    that is restarted goes on with what the last one started; for the same reason, closing the fleet leaves them alone.

    Parameters
    ----------
    api
        Pods and Deployments of the installation.
    max_replicas
        Most replicas of one Deployment.
    idle_seconds
        How long replicas outlive their last holder.
    patience
        How long to wait for what.
    reachable
        Whether something answers at an address.
    """

    def __init__(
        self,
        api: PodApi,
        *,
        max_replicas: int,
        idle_seconds: float,
        patience: Patience | None = None,
        reachable: Callable[[str], Awaitable[bool]] = answers,
    ) -> None:
        self._api = api
        self._max_replicas = max_replicas
        self._idle_seconds = idle_seconds
        self._patience = patience or Patience()
        self._pool = ReplicaPool(self._slots)
        self._watch = PodWatch(api, self._on_pod)
        self._losses = Losses(api, self._watch, self._restore, self._patience, reachable)
        self._needs: dict[Role, Need] = {}
        self._deployments: dict[Role, Deployment] = {}
        self._listed = 0.0
        self._outdated = True
        self._unlisted: OffshelfError | None = None
        self._idle_since: dict[Role, float] = {}
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def pool(self) -> ReplicaPool:
        """The replicas that are ready."""
        return self._pool

    def role_of(self, extractor: str) -> Role:
        """Return the role of an extractor: a Deployment has its name, and one is for all that have parameters."""
        return Role("extractor", replicas_of(extractor))

    def start(self) -> None:
        """Begin to watch the pods, and to scale. Returns at once, also when the API is away."""
        self._tasks = [
            asyncio.create_task(self._watch.run(), name="watch pods"),
            asyncio.create_task(self._keep(), name="scale deployments"),
        ]

    @asynccontextmanager
    async def hold(
        self, role: Role, *, units: int = 1, tell: Callable[[str], None] = keep_quiet
    ) -> AsyncIterator[None]:
        """Have so many replicas of the role as the work of all its holders needs, while inside."""
        need = self._needs.setdefault(role, Need(Outlook(self._patience)))
        holder = Holder(max(units, 1), tell)
        need.holders.add(holder)
        need.outlook.forgive()
        self._pool.forgive(role)
        self._idle_since.pop(role, None)
        self._outdated = True  # what was missing may have been mended since
        self._wake.set()
        try:
            holder.hear(need.outlook.line)
            yield
        finally:
            need.holders.remove(holder)
            if not need.holders:
                del self._needs[role]
                self._idle_since[role] = asyncio.get_running_loop().time()
            self._wake.set()
            holder.hear("")

    async def blames(self, replica: Replica) -> bool:
        """Tell whether the loss of a replica may be its work's fault: not if the pod was taken away."""
        self._pool.remove(replica)  # until it is known to be well: whoever got it next would be lost, too
        return await self._losses.blames(replica)

    async def close(self) -> None:
        """Stop watching and scaling. The replicas stay, for the orchestrator that comes next."""
        for task in self._tasks:
            task.cancel()
        self._losses.close()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ------------------------------------------------------------------------------------------------------ replicas

    def _slots(self, role: Role) -> int:
        if role.service in SLOTS:
            return SLOTS[role.service]
        deployment = self._deployments.get(role)
        return deployment.cores if deployment else 1

    def _on_pod(self, old: Pod | None, new: Pod | None) -> None:
        before, now = _ready_replica(old), _ready_replica(new)
        if before and before != now:
            self._pool.remove(before)
        if now and before != now and not self._losses.is_suspect(now):
            self._pool.add(now)
        self._wake.set()

    def _restore(self, replica: Replica) -> None:
        """Give a replica that was suspect work again, if it is there and well."""
        if any(_ready_replica(pod) == replica for pod in self._watch.pods.values()):
            self._pool.add(replica)

    # ------------------------------------------------------------------------------------------------------- scaling

    async def _keep(self) -> None:
        """Bring the cluster to what is needed, again and again until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._look()
            except Exception:  # noqa: BLE001  (the next look may go well, and nobody else would scale)
                _log.exception("the fleet could not be looked after")
            with suppress(TimeoutError):
                has_to_do = self._needs or self._idle_since or self._unlisted
                async with asyncio.timeout(self._patience.tick if has_to_do else None):
                    await self._wake.wait()

    async def _look(self) -> None:
        now = asyncio.get_running_loop().time()
        if self._is_stale(now):
            await self._list_deployments(now)
        for role, need in list(self._needs.items()):
            await self._scale_up(role, need)
            # Once the reason has been told: in the coming and going of pods nobody would see it.
            if role.service in SCALED and need.outlook.line and not self._watch.away:
                await self._losses.renew(role)
        if not self._outdated:  # else somebody has come since, and what is known may be too old for them
            for role, need in self._needs.items():
                self._judge(role, need, now)
        await self._scale_idle(now)

    async def _list_deployments(self, now: float) -> None:
        self._listed, self._outdated = now, False
        try:
            listing = await self._api.list_deployments()
        except OffshelfError as error:
            self._unlisted = error
            return
        self._unlisted = None
        found = [deployment for item in listing.items if (deployment := read_deployment(item))]
        self._deployments = {deployment.role: deployment for deployment in found}
        for deployment in found:
            if deployment.replicas and deployment.role not in self._needs:
                self._idle_since.setdefault(deployment.role, now)

    def _is_stale(self, now: float) -> bool:
        """Whether to list the Deployments again: what keeps a role from coming up may have changed."""
        is_short = any(len(self._pool.ready(role)) < self._wanted(role, need) for role, need in self._needs.items())
        is_old = now - self._listed >= self._patience.listing
        return self._outdated or (is_old and (is_short or self._unlisted is not None))

    def _wanted(self, role: Role, need: Need) -> int:
        """Count the replicas that the holders of a role have work for."""
        if role.service not in SCALED:
            return 1
        units = sum(holder.units for holder in need.holders)
        return min(max(math.ceil(units / self._slots(role)), 1), self._max_replicas)

    async def _scale_up(self, role: Role, need: Need) -> None:
        deployment = self._deployments.get(role)
        if role.service not in SCALED or deployment is None or not need.holders:
            return
        wanted = self._wanted(role, need)
        if deployment.replicas >= wanted:
            need.refused = None
        else:
            need.refused = await self._scale(deployment, wanted)

    async def _scale(self, deployment: Deployment, replicas: int) -> Trouble | None:
        try:
            await self._api.scale(deployment.name, replicas)
        except NotFound:
            self._deployments.pop(deployment.role, None)
            return None
        except OffshelfError as error:
            return trouble_of_api(error, f"{deployment.name} cannot be scaled", self._api.namespace)
        _log.info("scaled", extra={"deployment": deployment.name, "replicas": replicas, "before": deployment.replicas})
        self._deployments[deployment.role] = replace(deployment, replicas=replicas)
        return None

    async def _scale_idle(self, now: float) -> None:
        """Scale to zero what nobody has held for long, or what is in the way of something held."""
        seconds = min(self._idle_seconds, self._patience.room) if self._is_waiting_for_room() else self._idle_seconds
        for role in [role for role, since in self._idle_since.items() if now - since >= seconds]:
            if role not in self._idle_since:
                continue  # somebody holds it since
            deployment = self._deployments.get(role)
            if deployment is None or role.service not in SCALED or deployment.replicas == 0:
                del self._idle_since[role]
            elif await self._scale(deployment, 0) is None:
                self._idle_since.pop(role, None)
            elif role in self._idle_since:
                self._idle_since[role] = now  # not possible at the moment; the next time is early enough

    def _is_waiting_for_room(self) -> bool:
        return any(
            pod.trouble and pod.trouble.kind is Kind.ROOM and not self._pool.ready(pod.role)
            for pod in self._watch.pods.values()
            if pod.role in self._needs
        )

    # ------------------------------------------------------------------------------------------------------ troubles

    def _judge(self, role: Role, need: Need, now: float) -> None:
        """Tell the holders of a role what is in its way, and give it up when waiting makes no sense any more."""
        trouble = self._trouble(role, need)
        kind = trouble.kind if trouble else None
        others_busy = any(self._pool.busy(other) for other in self._pool.roles() if other != role)
        need.outlook.look(
            now,
            ready=len(self._pool.ready(role)),
            wanted=self._wanted(role, need),
            trouble=trouble,
            blocked=kind is Kind.API or (kind is Kind.ROOM and others_busy),
            role=str(role),
        )
        for holder in need.holders:
            holder.hear(need.outlook.line)
        if need.outlook.refusal and not self._pool.ready(role):
            self._pool.refuse(role, need.outlook.refusal)

    def _trouble(self, role: Role, need: Need) -> Trouble | None:
        if away := self._watch.away or self._unlisted:
            return trouble_of_api(away, f"{role} cannot be looked after", self._api.namespace)
        if need.refused:
            return need.refused
        deployment = self._deployments.get(role)
        if deployment is None:
            return missing_deployment(str(role), self._api.namespace)
        if role.service not in SCALED and deployment.replicas == 0:
            return nothing_deployed(deployment.name, self._api.namespace)
        pods = [pod.trouble for pod in self._watch.pods.values() if pod.role == role]
        return gravest(trouble for trouble in (*pods, deployment.trouble) if trouble)


def _ready_replica(pod: Pod | None) -> Replica | None:
    return pod.replica if pod and pod.ready else None
