"""Who is the orchestrator of an installation in a cluster."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

import pytest

from offshelf.errors import PermissionDenied
from offshelf.services.orchestrator.fleet.lease import LEASE, ClusterOwnership, LeaseTimes
from tests.unit.fake_cluster import FakeCluster, pod, ready, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

QUICK = LeaseTimes(duration=15, renewal=0.005, look=0.002)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        """Tell the time."""
        return self.now


class Orchestrators:
    """Orchestrators of one installation, ended without a word after each test."""

    def __init__(self, cluster: FakeCluster) -> None:
        self.cluster = cluster
        self.clock = Clock()
        self.lost: list[str] = []
        self.tasks: list[asyncio.Task[ClusterOwnership]] = []

    def begin(self, name: str, **options: Any) -> asyncio.Task[ClusterOwnership]:
        """Have one wait for the lease."""
        options = {"on_lost": self.lost.append, "times": QUICK, "clock": self.clock, **options}
        task = asyncio.create_task(ClusterOwnership.acquire(self.cluster, name, **options))
        self.tasks.append(task)
        return task

    async def start(self, name: str, **options: Any) -> ClusterOwnership:
        """Start one that gets the lease."""
        async with asyncio.timeout(5):
            return await self.begin(name, **options)

    async def kill(self, ownership: ClusterOwnership) -> None:
        """End one without a word."""
        ownership._renewing.cancel()
        await asyncio.gather(ownership._renewing, return_exceptions=True)

    async def kill_all(self) -> None:
        """End all."""
        for task in self.tasks:
            task.cancel()
            [ended] = await asyncio.gather(task, return_exceptions=True)
            if isinstance(ended, ClusterOwnership):
                await self.kill(ended)


@pytest.fixture
async def orchestrators() -> AsyncIterator[Orchestrators]:
    """Orchestrators of a cluster that has the pods "a" and "b"."""
    cluster = FakeCluster()
    for name in ("a", "b"):
        cluster.put(ready(pod("orchestrator", name)))
    made = Orchestrators(cluster)
    yield made
    await made.kill_all()


async def test_the_first_one_has_the_lease_and_keeps_it(orchestrators: Orchestrators) -> None:
    """Two orchestrators never work on one installation: the second waits as long as the first renews."""
    first = await orchestrators.start("a")
    assert first.epoch == 1
    second = orchestrators.begin("b")
    for _ in range(3):
        version = orchestrators.cluster.leases[LEASE]["metadata"]["resourceVersion"]
        await until(lambda: orchestrators.cluster.leases[LEASE]["metadata"]["resourceVersion"] != version)  # noqa: B023
        orchestrators.clock.now += 10
    assert not second.done()


async def test_what_is_waited_for_is_said(orchestrators: Orchestrators, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever looks at a pod that does not become ready finds out whom it waits for."""
    await orchestrators.start("a")
    with caplog.at_level(logging.INFO):
        orchestrators.begin("b")
        await until(lambda: any("the orchestrator a has it" in str(vars(record)) for record in caplog.records))


async def test_a_lease_that_is_given_back_is_taken_at_once(orchestrators: Orchestrators) -> None:
    """A rolling update loses no time."""
    first = await orchestrators.start("a")
    await first.release()
    assert (await orchestrators.start("b")).epoch == 2


async def test_a_lease_that_nobody_renews_expires_by_the_waiting_ones_own_clock(orchestrators: Orchestrators) -> None:
    """A clock that is wrong by ten minutes neither shortens nor lengthens the wait."""
    first = await orchestrators.start("a")
    await orchestrators.kill(first)
    orchestrators.cluster.leases[LEASE]["spec"]["renewTime"] = "2001-01-01T00:00:00.000000Z"
    second = orchestrators.begin("b")
    await asyncio.sleep(0.02)
    assert not second.done(), "its time stamp is not believed"
    orchestrators.clock.now += 15
    async with asyncio.timeout(5):
        assert (await second).epoch == 2


@pytest.mark.parametrize("ended", ["deleted", "evicted"])
async def test_a_holder_whose_pod_has_ended_is_not_waited_for(orchestrators: Orchestrators, ended: str) -> None:
    """After a node was drained or a pod killed, the next orchestrator starts at once."""
    await orchestrators.kill(await orchestrators.start("a"))
    if ended == "deleted":
        orchestrators.cluster.delete("a")
    else:
        orchestrators.cluster.pods["a"]["status"]["phase"] = "Failed"
    assert (await orchestrators.start("b")).epoch == 2


async def test_a_container_that_is_started_again_does_not_wait_for_itself(orchestrators: Orchestrators) -> None:
    """A crash costs no more than the start, and what the last life wrote late is ignored."""
    await orchestrators.kill(await orchestrators.start("a"))
    assert (await orchestrators.start("a")).epoch == 2


async def test_one_that_was_replaced_hears_of_it_once(orchestrators: Orchestrators) -> None:
    """An orchestrator that was cut off for long stops when it sees that another one works."""
    first = await orchestrators.start("a")
    orchestrators.cluster.go_away()
    await asyncio.sleep(0.02)
    assert orchestrators.lost == [], "an API that is away is no reason to stop"
    lease = orchestrators.cluster.leases[LEASE]
    lease["spec"] |= {"holderIdentity": "b", "leaseTransitions": 2}
    lease["metadata"]["resourceVersion"] = "999"
    orchestrators.cluster.come_back()
    await until(lambda: bool(orchestrators.lost))
    await asyncio.sleep(0.02)
    [reason] = orchestrators.lost
    assert reason.startswith("b has taken the lease")
    await first.release()
    assert orchestrators.cluster.leases[LEASE]["spec"]["holderIdentity"] == "b", "it is not ours to give back"


async def test_a_lease_that_somebody_touches_or_deletes_is_kept(orchestrators: Orchestrators) -> None:
    """An administrator who labels or deletes the lease stops no orchestrator, and no epoch is used twice."""
    first = await orchestrators.start("a")
    orchestrators.cluster.leases[LEASE]["metadata"]["resourceVersion"] = "999"
    await until(lambda: orchestrators.cluster.leases[LEASE]["metadata"]["resourceVersion"] != "999")
    del orchestrators.cluster.leases[LEASE]
    await until(lambda: LEASE in orchestrators.cluster.leases)
    spec = orchestrators.cluster.leases[LEASE]["spec"]
    assert (spec["holderIdentity"], spec["leaseTransitions"]) == ("a", first.epoch)
    assert orchestrators.lost == []


async def test_an_api_that_is_away_is_waited_for(orchestrators: Orchestrators) -> None:
    """An orchestrator that starts during an outage of the API starts after it."""
    orchestrators.cluster.go_away()
    waiting = orchestrators.begin("a")
    await asyncio.sleep(0.02)
    assert not waiting.done()
    orchestrators.cluster.come_back()
    async with asyncio.timeout(5):
        assert (await waiting).epoch == 1


async def test_of_several_that_are_there_at_once_one_gets_the_lease(orchestrators: Orchestrators) -> None:
    """Orchestrators that start together do not both believe that they are the one."""
    waiting = [orchestrators.begin(name) for name in ("a", "b", "a2", "b2")]
    for name in ("a2", "b2"):
        orchestrators.cluster.put(ready(pod("orchestrator", name)))
    await until(lambda: any(task.done() for task in waiting))
    await asyncio.sleep(0.02)
    assert sum(task.done() for task in waiting) == 1


async def test_an_account_that_may_not_use_leases_is_told_so(orchestrators: Orchestrators) -> None:
    """A missing Role ends the start with its reason, instead of a wait without end."""
    orchestrators.cluster.away = PermissionDenied("The Kubernetes API refuses: leases is forbidden.")
    with pytest.raises(PermissionDenied, match="leases is forbidden"):
        await orchestrators.start("a")
