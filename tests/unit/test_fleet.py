"""Leases on replicas, and the budget of cores."""

from __future__ import annotations

import asyncio

import pytest

from offshelf.errors import Unavailable
from offshelf.services.orchestrator.budget import CoreBudget
from offshelf.services.orchestrator.fleet import Replica, ReplicaPool, Role, RoleUnavailable

TRAINER = Role("trainer")


def replica(name: str) -> Replica:
    """Make a replica of the trainer."""
    return Replica(TRAINER, name, f"127.0.0.1:{name}")


async def test_a_lease_waits_for_a_replica_and_gets_the_least_busy() -> None:
    """Work is spread over replicas by what they have to do."""
    pool = ReplicaPool(lambda _: 2)
    waiting = asyncio.ensure_future(pool.lease(TRAINER).__aenter__())
    await asyncio.sleep(0)
    assert not waiting.done()

    await pool.add(replica("1"))
    await pool.add(replica("2"))
    names = [(await waiting).name, *[(await pool.lease(TRAINER).__aenter__()).name for _ in range(3)]]

    assert sorted(names) == ["1", "1", "2", "2"]
    assert names[0] != names[1]


async def test_a_full_replica_gets_no_more_work_until_one_is_done() -> None:
    """A replica never has more units than it can take."""
    pool = ReplicaPool(lambda _: 1)
    await pool.add(replica("1"))
    async with pool.lease(TRAINER):
        second = asyncio.ensure_future(pool.lease(TRAINER).__aenter__())
        await asyncio.sleep(0)
        assert not second.done()
    assert (await second).name == "1"


async def test_a_role_that_cannot_be_started_is_said_at_once() -> None:
    """Whoever waits for a replica hears why there will be none; asking anew later is possible."""
    pool = ReplicaPool(lambda _: 1)
    waiting = asyncio.ensure_future(pool.lease(TRAINER).__aenter__())
    await asyncio.sleep(0)
    await pool.refuse(TRAINER, Unavailable("no memory"))
    with pytest.raises(RoleUnavailable, match="no memory"):
        await waiting
    await pool.forgive(TRAINER)
    await pool.add(replica("1"))
    async with pool.lease(TRAINER) as leased:
        assert leased.name == "1"


async def test_a_removed_replica_is_not_leased_again() -> None:
    """A replica that has died gets no work."""
    pool = ReplicaPool(lambda _: 2)
    await pool.add(replica("1"))
    async with pool.lease(TRAINER) as leased:
        await pool.remove(leased)
    assert pool.ready(TRAINER) == ()


async def test_cores_are_given_in_order_and_a_large_wish_is_not_starved() -> None:
    """Extraction, which needs all cores, gets its turn between scoring units, which need one."""
    budget = CoreBudget(2)
    order: list[str] = []
    release = {name: asyncio.Event() for name in ("a", "all", "b")}

    async def work(name: str, cores: int) -> None:
        async with budget.take(cores):
            order.append(name)
            await release[name].wait()

    tasks = [asyncio.ensure_future(work(name, cores)) for name, cores in (("a", 1), ("all", 8), ("b", 1))]
    await asyncio.sleep(0)
    assert order == ["a"]
    release["a"].set()
    await asyncio.sleep(0.01)
    assert order == ["a", "all"]
    release["all"].set()
    release["b"].set()
    await asyncio.gather(*tasks)
    assert order == ["a", "all", "b"]


async def test_cancelled_waiters_give_their_cores_back() -> None:
    """A cancelled run leaves the whole machine to the next one."""
    budget = CoreBudget(2)
    async with budget.take(2):
        waiting = [asyncio.ensure_future(budget.take(2).__aenter__()) for _ in range(3)]
        await asyncio.sleep(0)
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
    async with asyncio.timeout(1), budget.take(2):
        pass
