"""Who is the orchestrator of an installation in a cluster: a lease in its namespace, held by one pod.

The lease only keeps orchestrators from working against each other. What protects the runs are the epochs: every
acquisition counts one up, and what an older epoch writes is on no chain and ignored (see `runs.runlog`). So an
orchestrator that cannot renew its lease, because the API is away, simply goes on: if another one has taken over
meanwhile, what this one still writes does no harm, and it learns of the other as soon as the API is back.

No clocks are compared. A lease has expired when it has not changed for its whole duration while we were looking.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Self

from offshelf.errors import Conflict, NotFound, OffshelfError
from offshelf.services.orchestrator.fleet.cluster_api import PART_OF, ClusterUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.services.orchestrator.fleet.cluster_api import LeaseApi, Manifest

_log = logging.getLogger(__name__)

LEASE: Final = "offshelf-orchestrator"
"""Name of the lease."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTimes:
    """The times of a lease, in seconds."""

    duration: float = 15.0
    """How long a lease that is not renewed keeps others out."""
    renewal: float = 5.0
    """Between two renewals."""
    look: float = 1.0
    """Between two looks of somebody who waits for it."""


def end_process(reason: str) -> None:
    """Have this process stop in order, at once."""
    _log.error("this orchestrator must stop", extra={"reason": reason})
    os.kill(os.getpid(), signal.SIGTERM)


class ClusterOwnership:
    """The right to be the orchestrator of an installation; made by `acquire`, ended by `release` or by silence.

    Attributes
    ----------
    epoch
        Larger than that of every orchestrator before, this pod's own earlier containers included.
    """

    def __init__(
        self, api: LeaseApi, identity: str, lease: Manifest, on_lost: Callable[[str], None], times: LeaseTimes
    ) -> None:
        self.epoch = int(lease["spec"]["leaseTransitions"])
        self._api = api
        self._identity = identity
        self._lease = lease
        self._on_lost = on_lost
        self._times = times
        self._renewing = asyncio.create_task(self._keep(), name="renew lease")

    @classmethod
    async def acquire(
        cls,
        api: LeaseApi,
        identity: str,
        *,
        on_lost: Callable[[str], None] = end_process,
        times: LeaseTimes | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> Self:
        """Wait until no other orchestrator has the installation, and take it.

        It is free when nobody holds the lease, when it has not been renewed for its duration, or when its holder's pod
        has ended or is this one: a container that was started again need not wait for its own last life.

        Parameters
        ----------
        api
            The namespace's leases.
        identity
            Name of this process's pod.
        on_lost
            Called, once, with the reason when another orchestrator has taken the lease.
        times
            The lease's times.
        clock
            A clock that only goes forward, in seconds.

        Raises
        ------
        PermissionDenied
            This account may not use leases.
        """
        times = times or LeaseTimes()
        seen: tuple[str, float] = ("", 0.0)
        told = ""
        while True:
            reason = ""
            try:
                lease = await api.read_lease(LEASE)
                if lease is not None:
                    version = lease["metadata"]["resourceVersion"]
                    if version != seen[0]:
                        seen = (version, clock())
                    lasts = float(lease["spec"].get("leaseDurationSeconds") or times.duration)
                    if clock() - seen[1] < lasts:
                        reason = await _taken(api, lease, identity)
                if not reason:
                    with suppress(Conflict, NotFound):  # somebody was faster: look again
                        taken = await _take(api, lease, identity, times)
                        _log.info("took the lease", extra={"lease": LEASE, "epoch": taken["spec"]["leaseTransitions"]})
                        return cls(api, identity, taken, on_lost, times)
                    reason = "another orchestrator has just changed the lease"
            except ClusterUnavailable as error:
                reason = error.message
            if reason != told:
                _log.info("waiting for the lease", extra={"lease": LEASE, "reason": reason})
                told = reason
            await asyncio.sleep(times.look)

    async def release(self) -> None:
        """Let the next orchestrator start at once. Without this it waits until the lease has expired."""
        self._renewing.cancel()
        await asyncio.gather(self._renewing, return_exceptions=True)
        if self._lease["spec"].get("holderIdentity") != self._identity:
            return
        try:
            await self._api.replace_lease(_changed(self._lease, holderIdentity="", renewTime=_now()))
        except OffshelfError as error:
            _log.warning("the lease could not be given back; it expires by itself", extra={"reason": error.message})

    async def _keep(self) -> None:
        failing = False
        while True:
            await asyncio.sleep(self._times.renewal)
            try:
                holder = await self._renew()
            except OffshelfError as error:
                if not failing:
                    _log.warning("the lease cannot be renewed; going on", extra={"reason": error.message})
                failing = True
                continue
            except Exception:  # noqa: BLE001  (whatever it is, the next renewal may go well)
                _log.exception("the lease could not be renewed")
                continue
            if holder:
                self._on_lost(f"{holder} has taken the lease {LEASE}: another orchestrator works on this installation.")
                return
            if failing:
                _log.info("the lease is renewed again")
            failing = False

    async def _renew(self) -> str:
        """Renew the lease; returns who else has it, if somebody has."""
        try:
            self._lease = await self._api.replace_lease(_changed(self._lease, renewTime=_now()))
        except NotFound:
            # Somebody deleted it. The epoch is taken along: the next one must be larger.
            self._lease = await self._api.create_lease(_new(self._lease["spec"]))
        except Conflict:
            lease = await self._api.read_lease(LEASE)
            if lease is None:
                raise
            spec = lease["spec"]
            if spec.get("holderIdentity") != self._identity or spec.get("leaseTransitions") != self.epoch:
                self._lease = lease
                return spec.get("holderIdentity") or "Another orchestrator"
            # Changed by us, in a call whose answer was lost, or by somebody who only looked after its labels.
            self._lease = await self._api.replace_lease(_changed(lease, renewTime=_now()))
        return ""


async def _taken(api: LeaseApi, lease: Manifest, identity: str) -> str:
    """Tell who has the lease; empty if nobody has, or nobody that lives."""
    holder = lease["spec"].get("holderIdentity")
    if not holder or holder == identity:
        return ""
    pod = await api.read_pod(holder)
    if pod is None or pod.get("status", {}).get("phase") in {"Failed", "Succeeded"}:
        return ""
    return f"the orchestrator {holder} has it"


async def _take(api: LeaseApi, lease: Manifest | None, identity: str, times: LeaseTimes) -> Manifest:
    last = int(lease["spec"].get("leaseTransitions") or 0) if lease else 0
    now = _now()
    spec = {
        "holderIdentity": identity,
        "leaseDurationSeconds": max(1, round(times.duration)),
        "leaseTransitions": last + 1,
        "acquireTime": now,
        "renewTime": now,
    }
    return await (api.create_lease(_new(spec)) if lease is None else api.replace_lease(_changed(lease, **spec)))


def _new(spec: Manifest) -> Manifest:
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": LEASE, "labels": {"app.kubernetes.io/part-of": PART_OF}},
        "spec": dict(spec),
    }


def _changed(lease: Manifest, **spec: Any) -> Manifest:
    return {**lease, "spec": {**lease["spec"], **spec}}


def _now() -> str:
    """Write the time as the API does; for people, since nothing here reads it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
