"""What became of a replica whose call was lost: killed by its work, or taken away; and a new pod for it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from offshelf.errors import Conflict, NotFound, OffshelfError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offshelf.services.orchestrator.fleet.cluster_api import PodApi
    from offshelf.services.orchestrator.fleet.outlook import Patience
    from offshelf.services.orchestrator.fleet.pod_watch import PodWatch
    from offshelf.services.orchestrator.fleet.replicas import Replica, Role

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 2.0


class Losses:
    """Looks into losses, once for all units that were lost with one replica.

    A call is lost sooner than the API knows why. Meanwhile the replica is `suspect`: whoever got it next would be lost
    too, and blamed for it.

    Parameters
    ----------
    api
        Deletes pods.
    watch
        The pods.
    release
        Called with a replica that is no longer suspect.
    patience
        How long to wait for the API.
    reachable
        Whether something answers at an address.
    """

    def __init__(
        self,
        api: PodApi,
        watch: PodWatch,
        release: Callable[[Replica], None],
        patience: Patience,
        reachable: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._api = api
        self._watch = watch
        self._release = release
        self._patience = patience
        self._reachable = reachable
        self._inquiries: dict[Replica, asyncio.Task[bool]] = {}
        self._probation: dict[Replica, asyncio.TimerHandle] = {}
        self._killed: set[str] = set()
        self._cannot_renew = False

    def is_suspect(self, replica: Replica) -> bool:
        """Whether a replica should get no work for now."""
        return replica in self._inquiries or replica in self._probation

    async def blames(self, replica: Replica) -> bool:
        """Tell whether a replica may have been lost by the fault of its work."""
        inquiry = self._inquiries.get(replica)
        if inquiry is None:
            inquiry = asyncio.create_task(self._inquire(replica), name=f"inquiry into {replica.name}")
            self._inquiries[replica] = inquiry
            inquiry.add_done_callback(lambda _: self._close(replica))
        return await asyncio.shield(inquiry)

    async def renew(self, role: Role) -> None:
        """Delete the pods of a role that their work ended and that Kubernetes makes wait: new ones start at once.

        A unit that ends its process does so a dozen times before the one image is found that does it, and by then a
        container waits for five minutes. A pod that was ended before it had any work stays: it cannot start, and a new
        one could not either. Each loss has one attempt; without the right to it, the pod waits.
        """
        pods = list(self._watch.pods.values())
        self._killed &= {pod.replica.name for pod in pods}
        held_up = [pod for pod in pods if pod.role == role and pod.backing_off and pod.replica.name in self._killed]
        self._killed -= {pod.replica.name for pod in held_up}
        for pod in held_up:
            try:
                await self._api.delete_pod(pod.name, pod.uid)
            except (NotFound, Conflict):
                continue  # it has gone by itself
            except OffshelfError as error:
                if not self._cannot_renew:
                    _log.warning("a pod that crashes has to wait", extra={"pod": pod.name, "error": error.message})
                self._cannot_renew = True
            else:
                _log.info("a pod that crashes is made anew", extra={"pod": pod.name})
                self._cannot_renew = False

    def close(self) -> None:
        """Stop looking."""
        for inquiry in self._inquiries.values():
            inquiry.cancel()
        for timer in self._probation.values():
            timer.cancel()
        self._probation.clear()

    async def _inquire(self, replica: Replica) -> bool:
        verdict = self._verdict(replica)
        if verdict is None:
            verdict = await self._wait_for_verdict(replica)
        _log.info("replica lost", extra={"replica": replica.name, "blames_work": verdict})
        if verdict:
            self._killed.add(replica.name)
        return verdict

    async def _wait_for_verdict(self, replica: Replica) -> bool:
        loop, patience = asyncio.get_running_loop(), self._patience
        began = loop.time()
        alive = await self._reachable(replica.address)
        heard_until = loop.time() + (patience.verdict_alive if alive else patience.verdict)
        while (verdict := self._verdict(replica)) is None:
            now = loop.time()
            if self._watch.away is not None:
                # What happens meanwhile is told when the API is back, and counts from then on.
                heard_until = now + patience.verdict
                if now - began >= patience.verdict_away:
                    return False
                await self._watch.changed(patience.verdict_away - (now - began))
            elif now >= heard_until:
                break
            else:
                await self._watch.changed(heard_until - now)
        if verdict is not None:
            return verdict
        if not alive and not await self._reachable(replica.address):
            # Its node may be lost, which takes the API most of a minute to notice.
            self._probation[replica] = loop.call_later(patience.probation, self._end_probation, replica)
        return True

    def _verdict(self, replica: Replica) -> bool | None:
        """Tell by the pods; None if they show nothing yet."""
        name, uid, restarts = replica.name.rsplit("/", 2)
        pod = self._watch.pods.get(name)
        if pod is None or not pod.uid.startswith(uid) or pod.leaving:
            return False
        if pod.restarts > int(restarts) or pod.ended:
            return pod.by_itself
        return None

    def _close(self, replica: Replica) -> None:
        del self._inquiries[replica]
        if replica not in self._probation:
            self._release(replica)

    def _end_probation(self, replica: Replica) -> None:
        del self._probation[replica]
        self._release(replica)


async def answers(address: str) -> bool:
    """Tell whether somebody takes connections at an address."""
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return False
    writer.close()
    return True
