"""Leases on replicas, and the budget of cores."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import StoreFull, Unavailable
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.fleet.local import LocalFleet
from offshelf.services.orchestrator.fleet.replicas import Replica, ReplicaPool, Role, RoleUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

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

    pool.add(replica("1"))
    pool.add(replica("2"))
    names = [(await waiting).name, *[(await pool.lease(TRAINER).__aenter__()).name for _ in range(3)]]

    assert sorted(names) == ["1", "1", "2", "2"]
    assert names[0] != names[1]


async def test_a_full_replica_gets_no_more_work_until_one_is_done() -> None:
    """A replica never has more units than it can take."""
    pool = ReplicaPool(lambda _: 1)
    pool.add(replica("1"))
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
    pool.refuse(TRAINER, Unavailable("no memory"))
    with pytest.raises(RoleUnavailable, match="no memory"):
        await waiting
    pool.forgive(TRAINER)
    pool.add(replica("1"))
    async with pool.lease(TRAINER) as leased:
        assert leased.name == "1"


async def test_a_removed_replica_is_not_leased_again() -> None:
    """A replica that has died gets no work."""
    pool = ReplicaPool(lambda _: 2)
    pool.add(replica("1"))
    async with pool.lease(TRAINER) as leased:
        pool.remove(leased)
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


async def test_a_store_that_keeps_a_role_from_starting_is_the_reason_itself() -> None:
    """A full store ends a run with that reason, instead of leaving out the extractor that met it first."""
    pool = ReplicaPool(lambda _: 1)
    pool.refuse(TRAINER, StoreFull("no space left"))
    with pytest.raises(StoreFull, match="no space left"):
        await pool.lease(TRAINER).__aenter__()


async def test_cores_survive_a_run_whose_units_are_all_cancelled_at_once() -> None:
    """Cancelling a run while units wait for their turn leaves the whole machine to the next one."""
    budget = CoreBudget(2)

    async def work() -> None:
        async with budget.take(2):
            await asyncio.Event().wait()

    tasks = [asyncio.ensure_future(work()) for _ in range(3)]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, asyncio.CancelledError) for outcome in outcomes)
    async with asyncio.timeout(1), budget.take(2):
        pass


class ScriptedFleet(LocalFleet):
    """A fleet that starts no process; a script says how each life of a replica goes."""

    def __init__(self, logs: Path, life: Callable[[LocalFleet, Role], Awaitable[bool]]) -> None:
        super().__init__(environment={}, logs=logs, slots=1, grace=1.0)
        self.lives = 0
        self._life = life

    async def _live_once(self, role: Role) -> bool:
        self.lives += 1
        return await self._life(self, role)


async def test_a_replica_that_cannot_even_be_launched_is_said(tmp_path: Path) -> None:
    """A run ends with the reason when no process can be started, instead of waiting for ever."""

    async def life(_fleet: LocalFleet, _role: Role) -> bool:
        raise OSError("Too many open files")

    fleet = ScriptedFleet(tmp_path, life)
    async with asyncio.timeout(5), fleet.hold(TRAINER):
        with pytest.raises(RoleUnavailable, match="Too many open files"):
            await fleet.pool.lease(TRAINER).__aenter__()
    await fleet.close()


async def test_a_log_that_cannot_be_written_is_the_stores_fault(tmp_path: Path) -> None:
    """A store whose folder of logs is gone is named as the reason."""
    fleet = LocalFleet(environment={}, logs=tmp_path / "gone", slots=1, grace=1.0)
    async with asyncio.timeout(5), fleet.hold(TRAINER):
        with pytest.raises(Unavailable, match="cannot be used at the moment"):
            await fleet.pool.lease(TRAINER).__aenter__()
    await fleet.close()


async def test_a_replica_that_dies_at_once_each_time_is_given_up(tmp_path: Path) -> None:
    """A service that gets ready and falls over is not started again and again for ever."""
    program = 'print(\'{"ready": true, "address": "127.0.0.1:1"}\', flush=True)'
    launches: list[int] = []
    real = asyncio.create_subprocess_exec

    async def launch(executable: str, *_: str, **options: object) -> asyncio.subprocess.Process:
        launches.append(1)
        return await real(executable, "-c", program, **options)  # type: ignore[arg-type]

    fleet = LocalFleet(environment={}, logs=tmp_path, slots=1, grace=1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "create_subprocess_exec", launch)
        async with asyncio.timeout(20), fleet.hold(TRAINER):
            keeper = fleet._members[TRAINER].keeper
            assert keeper is not None
            await keeper
            with pytest.raises(RoleUnavailable, match="ended 3 times"):
                await fleet.pool.lease(TRAINER).__aenter__()
    assert len(launches) == 3
    await fleet.close()


async def test_holders_that_come_at_once_share_one_replica(tmp_path: Path) -> None:
    """Two runs that need the same extractor start it once."""

    async def life(fleet: LocalFleet, role: Role) -> bool:
        fleet.pool.add(Replica(role, "1", "127.0.0.1:1"))
        await asyncio.Event().wait()
        return True

    fleet = ScriptedFleet(tmp_path, life)

    async def use() -> None:
        async with fleet.hold(TRAINER), fleet.pool.lease(TRAINER):
            await asyncio.sleep(0.01)

    await asyncio.gather(*(use() for _ in range(3)))
    await fleet.close()
    assert fleet.lives == 1


async def test_a_lease_alone_waits_for_an_empty_replica_and_keeps_others_away() -> None:
    """Whether a unit kills its replica is found out without risk for other units."""
    pool = ReplicaPool(lambda _: 2)
    pool.add(replica("1"))
    suspect, innocent = pool.lease(TRAINER, alone=True), pool.lease(TRAINER)
    async with pool.lease(TRAINER):
        alone = asyncio.ensure_future(suspect.__aenter__())
        await asyncio.sleep(0)
        later = asyncio.ensure_future(innocent.__aenter__())
        await asyncio.sleep(0)
        assert (alone.done(), later.done(), pool.waiting(TRAINER)) == (False, False, 2)
    assert (await alone).name == "1"
    await asyncio.sleep(0)
    assert not later.done(), "although the replica has a second slot"
    await suspect.__aexit__(None, None, None)
    assert (await later).name == "1"


async def test_a_lease_alone_takes_no_more_than_one_replica_from_the_others() -> None:
    """A suspicious unit does not stop the work on all other replicas."""
    pool = ReplicaPool(lambda _: 2)
    for name in ("1", "2"):
        pool.add(replica(name))
    first, second, third = (pool.lease(TRAINER) for _ in range(3))
    suspect = pool.lease(TRAINER, alone=True)
    assert {(await first.__aenter__()).name, (await second.__aenter__()).name} == {"1", "2"}
    alone = asyncio.ensure_future(suspect.__aenter__())
    await asyncio.sleep(0)
    assert (await third.__aenter__()).name == "2"
    await first.__aexit__(None, None, None)
    assert (await alone).name == "1"


async def test_a_wish_to_be_alone_that_is_given_up_frees_the_replica() -> None:
    """A cancelled run keeps no replica from the next one."""
    pool = ReplicaPool(lambda _: 2)
    pool.add(replica("1"))
    async with pool.lease(TRAINER):
        alone = asyncio.ensure_future(pool.lease(TRAINER, alone=True).__aenter__())
        await asyncio.sleep(0)
        alone.cancel()
        await asyncio.gather(alone, return_exceptions=True)
        async with asyncio.timeout(1), pool.lease(TRAINER):
            assert pool.busy(TRAINER) == 2
    assert (pool.busy(TRAINER), pool.waiting(TRAINER)) == (0, 0)


async def test_a_lease_that_is_cancelled_as_it_is_granted_is_given_back() -> None:
    """No slot is lost, whenever a run is cancelled."""
    pool = ReplicaPool(lambda _: 1)
    waiting = asyncio.ensure_future(pool.lease(TRAINER).__aenter__())
    await asyncio.sleep(0)
    pool.add(replica("1"))
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(1), pool.lease(TRAINER) as leased:
        assert leased.name == "1"


async def test_a_replica_that_was_away_for_a_moment_is_not_overloaded() -> None:
    """Units that are still with a replica count when it is ready again."""
    pool = ReplicaPool(lambda _: 1)
    pool.add(replica("1"))
    async with pool.lease(TRAINER) as leased:
        pool.remove(leased)
        pool.add(leased)
        second = asyncio.ensure_future(pool.lease(TRAINER).__aenter__())
        await asyncio.sleep(0)
        assert not second.done()
    assert (await second).name == "1"
    assert pool.roles() == (TRAINER,)


async def test_units_are_served_in_the_order_of_coming() -> None:
    """Of thousands of units that wait, none is passed over."""
    pool = ReplicaPool(lambda _: 1)
    order: list[int] = []

    async def work(number: int) -> None:
        async with pool.lease(TRAINER):
            order.append(number)
            await asyncio.sleep(0)

    tasks = [asyncio.ensure_future(work(number)) for number in range(2000)]
    await asyncio.sleep(0)
    pool.add(replica("1"))
    await asyncio.gather(*tasks)
    assert order == list(range(2000))


async def test_the_loss_of_a_process_of_this_machine_may_be_its_works_fault(tmp_path: Path) -> None:
    """Nobody takes processes away here, so that a unit that ends them is found."""
    fleet = LocalFleet(environment={}, logs=tmp_path, slots=1, grace=1.0)
    assert await fleet.blames(replica("1"))
