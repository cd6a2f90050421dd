"""What became of a replica whose call was lost: killed by its work, or taken away."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from offshelf.services.orchestrator.fleet.outlook import Patience
    from offshelf.services.orchestrator.fleet.pod_watch import PodWatch
    from offshelf.services.orchestrator.fleet.pods import Pod
    from offshelf.services.orchestrator.fleet.replicas import Replica, Role

_log = logging.getLogger(__name__)

_CONNECT_SECONDS = 2.0


class Losses:
    """Looks into losses, once for all units that were lost with one replica.

    A call is lost sooner than the API knows why. Meanwhile the replica is `suspect`: whoever got it next would be lost
    too, and blamed for it.

    Parameters
    ----------
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
        watch: PodWatch,
        release: Callable[[Replica], None],
        patience: Patience,
        reachable: Callable[[str], Awaitable[bool]],
    ) -> None:
        self._watch = watch
        self._release = release
        self._patience = patience
        self._reachable = reachable
        self._inquiries: dict[Replica, asyncio.Task[bool]] = {}
        self._probation: dict[Replica, asyncio.TimerHandle] = {}
        self._killed: set[str] = set()

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

    def held_up(self, role: Role) -> list[Pod]:
        """Find the pods of a role that were ended at their work, and that Kubernetes now makes wait.

        One that was ended before it had any is not among them: it cannot start, and a new one could not either.
        """
        pods = self._watch.pods.values()
        self._killed &= {pod.replica.name for pod in pods}
        return [pod for pod in pods if pod.role == role and pod.backing_off and pod.replica.name in self._killed]

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
