"""Runs are watched, stopped and ended, whatever the store does meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from offshelf.access import Caller, Role
from offshelf.errors import Conflict, NotFound, PermissionDenied, StoreFull, StoreUnavailable, Unavailable
from offshelf.runs import Combination, RunState
from offshelf.services.orchestrator.concurrency import all_of
from offshelf.services.orchestrator.dispatch import patience
from offshelf.services.orchestrator.runs import orchestration, runlog
from offshelf.services.orchestrator.runs.status import RunResult
from offshelf.store import keys
from tests.unit.fakes import MemoryStore
from tests.unit.scripted_runs import ANN, FragileStore, create, folder_of_pets, kinds, orchestrator, until

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.services.orchestrator.runs.journal import Journal


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """A folder with two classes of two images each, by name."""
    return folder_of_pets(tmp_path)


async def test_a_run_created_during_the_drain_is_not_left_behind(pets: str) -> None:
    """A stopping server starts nothing any more, and stops what was being started."""
    store = FragileStore()
    store.pause = 0.05
    runs = orchestrator(store)
    asking = asyncio.create_task(create(runs, pets))
    await until(lambda: any(key.startswith(keys.RUNS) for key in store.objects))
    await runs.drain()
    status, _ = await asking
    assert kinds(store, status.run_id)[-1] == runlog.INTERRUPTED
    with pytest.raises(Unavailable, match="stopping"):
        await create(runs, pets, request="r2")


async def test_cancelling_twice_at_once_is_one_event(pets: str) -> None:
    """Two clients that stop a run at the same moment both hear that it is cancelled."""
    store = FragileStore()
    runs = orchestrator(store)
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.RUNNING)
    store.pause = 0.02
    await asyncio.gather(runs.cancel(status.run_id, ANN), runs.cancel(status.run_id, ANN))
    assert kinds(store, status.run_id) == [runlog.CREATED, runlog.DATASET_READ, runlog.CANCELLED]
    with pytest.raises(NotFound):
        await runs.artifact(status.run_id, "report.html")


async def test_cancelling_meets_the_end(pets: str) -> None:
    """A run that ends while it is being cancelled has ended; what its log says is what is shown."""
    store = FragileStore()

    async def fail(journal: Journal) -> None:
        await journal.append(runlog.FAILED, error="why")

    store.pause = 0.05
    runs = orchestrator(store, work=fail)
    status, _ = await create(runs, pets)
    await asyncio.sleep(0.01)
    assert (await runs.cancel(status.run_id, ANN)).state is RunState.FAILED
    assert kinds(store, status.run_id) == [runlog.CREATED, runlog.FAILED]
    with pytest.raises(Conflict, match="failed already"):
        await runs.cancel(status.run_id, ANN)


async def test_watchers_hear_of_the_end_though_the_store_is_full(pets: str) -> None:
    """A run that is stopped while nothing can be written does not show as running for ever, and goes on later."""
    store = FragileStore()
    runs = orchestrator(store)
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.RUNNING)
    store.full = True
    with pytest.raises(StoreFull):
        await runs.cancel(status.run_id, ANN)
    async with asyncio.timeout(5):
        seen = [update.state async for update in runs.watch(status.run_id)]
    assert seen[-1] is RunState.INTERRUPTED

    store.full = False
    again, resumed = await create(runs, pets, request="r2")
    assert resumed
    assert again is status
    await runs.drain()


async def test_a_full_store_does_not_keep_a_server_from_stopping_all_its_runs(pets: str) -> None:
    """Draining stops every run and ends every watch, whatever can be written."""
    store = FragileStore()
    stopped: list[str] = []

    async def work(journal: Journal) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(journal.status.run_id)

    runs = orchestrator(store, work=work)
    statuses = [(await create(runs, pets, request=str(seed), seed=seed))[0] for seed in range(2)]
    await asyncio.sleep(0.01)
    store.full = True
    await runs.drain()
    assert sorted(stopped) == sorted(status.run_id for status in statuses)
    async with asyncio.timeout(5):
        for status in statuses:
            assert [update.state async for update in runs.watch(status.run_id)] == [RunState.INTERRUPTED]


async def test_a_failure_that_could_not_be_written_goes_on_after_the_fix(pets: str) -> None:
    """A run that failed because the store was full is the one that the same command goes on with."""

    async def fail_once(journal: Journal) -> None:
        if runlog.TAKEN_OVER not in {event.kind for event in journal.status.history.events}:
            journal.status.fail("the store is full")

    runs = orchestrator(MemoryStore(), work=fail_once)
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.FAILED)
    again, resumed = await create(runs, pets, request="r2")
    assert resumed
    assert again is status
    assert not again.error
    assert not again.state.ended


async def test_a_watcher_hears_at_once_what_changed_while_it_was_being_told(pets: str) -> None:
    """The end of a run is not kept back until the next sign of life."""
    runs = orchestrator(MemoryStore())
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.RUNNING)
    watch = runs.watch(status.run_id)
    await anext(watch)
    await runs.cancel(status.run_id, ANN)
    async with asyncio.timeout(orchestration.SIGN_OF_LIFE_SECONDS / 2):
        assert (await anext(watch)).state is RunState.CANCELLED
    await watch.aclose()


async def test_work_that_is_cancelled_twice_is_still_waited_for() -> None:
    """Nothing of a run goes on after the run has ended, however often it was told to stop."""
    ended: list[bool] = []

    async def stubborn() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.05)
            ended.append(True)

    async def failing() -> None:
        raise Unavailable("gone")

    work = asyncio.create_task(all_of([stubborn(), failing()]))
    await asyncio.sleep(0.01)
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    assert ended == [True]


async def test_runs_are_stopped_by_their_user_or_an_administrator(pets: str) -> None:
    """Nobody stops a run of somebody else, unless it is their job."""
    runs = orchestrator(MemoryStore())
    status, _ = await create(runs, pets)
    with pytest.raises(PermissionDenied, match="is ann's: they, or an administrator, can stop it"):
        await runs.cancel(status.run_id, Caller.user("bob", Role.RUNNER))
    assert (await runs.cancel(status.run_id, Caller.user("root", Role.ADMIN))).state is RunState.CANCELLED


async def test_what_is_in_the_way_of_a_run_is_shown_until_it_is_not(pets: str) -> None:
    """While a run waits for something, its status says for what; nothing of that stays."""
    waiting, go_on = asyncio.Event(), asyncio.Event()

    async def wait(journal: Journal) -> None:
        with journal.status.notices.topic() as tell, journal.status.notices.topic() as also:
            tell("no room in the cluster")
            also("no room in the cluster")
            waiting.set()
            await go_on.wait()
            tell("")
        await journal.append(runlog.FAILED, error="why")

    runs = orchestrator(MemoryStore(), work=wait)
    status, _ = await create(runs, pets)
    await waiting.wait()
    assert status.notices.lines == ("no room in the cluster",)
    go_on.set()
    await until(lambda: status.state.ended)
    assert not status.notices.lines


async def test_a_store_that_answers_again_goes_on_with_the_log(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A short outage of the store costs no run, also when it is the log that cannot be written."""
    monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.0)
    refused: list[str] = []

    class Shaky(MemoryStore):
        def put(self, key: str, data: bytes) -> None:
            if "/events/00000001-00000001" in key and len(refused) < 3:
                refused.append(key)
                raise StoreUnavailable("no answer")
            super().put(key, data)

    store = Shaky()
    runs = orchestrator(store)
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.RUNNING)
    assert len(refused) == 3
    assert status.notices.lines == ()
    await runs.drain()
    assert kinds(store, status.run_id) == [runlog.CREATED, runlog.DATASET_READ, runlog.INTERRUPTED]


async def test_datasets_of_unfinished_runs_are_in_use(pets: str) -> None:
    """What a run works on is not deleted under it."""
    runs = orchestrator(MemoryStore())
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.RUNNING)
    assert runs.datasets_in_use() == {"d"}
    await runs.cancel(status.run_id, ANN)
    assert runs.datasets_in_use() == frozenset()


async def test_a_run_whose_failure_could_not_be_written_keeps_no_dataset(pets: str) -> None:
    """A dataset can be deleted though the log of a run that has failed on it has no ending."""

    async def fail(journal: Journal) -> None:
        await journal.append(runlog.DATASET_READ, dataset="d", images=2)
        journal.status.fail("the store is full")

    runs = orchestrator(MemoryStore(), work=fail)
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.FAILED)
    assert runs.datasets_in_use() == frozenset()


async def test_an_artefact_that_went_with_its_dataset_is_said(pets: str) -> None:
    """Whoever asks for the report of a deleted dataset learns why it is gone."""
    store = MemoryStore()
    result = RunResult("d" * 64, ("a", "b"), (), "", "m", Combination("hog", "LR"), {"report.html": "reports/r/x"})

    async def succeed(journal: Journal) -> None:
        await journal.append(runlog.SUCCEEDED, result=result.to_json())

    runs = orchestrator(store, work=succeed)
    status, _ = await create(runs, pets)
    await until(lambda: status.state.ended)
    store.put("reports/r/x", b"page")
    assert await runs.artifact(status.run_id, "report.html") == "reports/r/x"
    store.delete("reports/r/x")
    with pytest.raises(NotFound, match=r"has no report\.html any more: its dataset was deleted"):
        await runs.artifact(status.run_id, "report.html")
    store.put(keys.dataset("d" * 64), b"{}")
    with pytest.raises(NotFound, match="the same run makes it anew"):
        await runs.artifact(status.run_id, "report.html")
