"""Runs are created, taken up, watched and cancelled, whatever the store does meanwhile."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from offshelf import datasets
from offshelf.access import Caller, Role
from offshelf.datasets import Item
from offshelf.digests import digest_of
from offshelf.errors import (
    Conflict,
    DataLoss,
    InvalidDataset,
    InvalidInput,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    StoreFull,
    StoreUnavailable,
    Unavailable,
)
from offshelf.logs import request_id
from offshelf.runs import Combination, RunState
from offshelf.services.orchestrator.concurrency import all_of
from offshelf.services.orchestrator.dispatch import patience
from offshelf.services.orchestrator.runs import orchestration, runlog
from offshelf.services.orchestrator.runs.intake import Intake, Request
from offshelf.services.orchestrator.runs.orchestration import Orchestrator
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.runs.status import RunResult
from offshelf.store import keys
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from offshelf.services.orchestrator.runs.journal import Journal
    from offshelf.services.orchestrator.runs.status import RunStatus


ANN = Caller.user("ann", Role.RUNNER)


class FragileStore(MemoryStore):
    """A store that is full when told to, and slow to write when told to."""

    def __init__(self) -> None:
        super().__init__()
        self.full = False
        self.pause = 0.0

    def put(self, key: str, data: bytes) -> None:
        """Write an object, late or not at all."""
        import time

        time.sleep(self.pause)
        if self.full:
            raise StoreFull("the store is full")
        super().put(key, data)


class Catalog:
    """Knows one extractor."""

    names = ("hog",)

    def find(self, name: str) -> SimpleNamespace:
        """Find anything."""
        return SimpleNamespace(name=name)

    def availability(self, _name: str) -> str:
        """Say that it is available."""
        return ""


class ScriptedExecution:
    """An execution that does what a test says."""

    def __init__(self, journal: Journal, work: Callable[[Journal], Awaitable[None]]) -> None:
        self._journal = journal
        self._work = work

    async def run(self) -> None:
        """Do it."""
        await self._work(self._journal)


async def for_ever(journal: Journal) -> None:
    """Work that does not end."""
    await journal.append(runlog.DATASET_READ, dataset="d", images=2)
    await asyncio.Event().wait()


def orchestrator(
    store: MemoryStore,
    *,
    epoch: int = 1,
    take_up: bool = False,
    work: Callable[[Journal], Awaitable[None]] = for_ever,
    catalog: Catalog | None = None,
    quota_runs: int = 0,
    deleting: Callable[[], str] = lambda: "",
) -> Orchestrator:
    """Make an orchestrator over fakes."""
    return Orchestrator(
        store=store,
        log=RunLog(store, epoch),
        intake=Intake(store, catalog or Catalog(), roots=None),  # type: ignore[arg-type]
        execute=lambda journal: ScriptedExecution(journal, work),  # type: ignore[arg-type, return-value]
        take_up=take_up,
        quota_runs=quota_runs,
        deleting=deleting,
    )


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """A folder with two classes of two images each, by name."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(2):
            (tmp_path / label / f"{number}.png").write_bytes(b"")
    return str(tmp_path)


async def create(
    runs: Orchestrator, dataset: str, *, request: str = "r1", seed: int = 0, user: str = "ann"
) -> tuple[RunStatus, bool]:
    """Ask for a run."""
    wanted = Request(dataset=dataset, classifiers=["LR"], folds=2, seed=seed)
    return await runs.create(wanted, request_id=request, user=user)


async def kill(runs: Orchestrator) -> None:
    """End all work without a word in the log, as kill -9 does."""
    for task in list(runs._tasks.values()):
        task.cancel()
    await asyncio.sleep(0.05)


def kinds(store: MemoryStore, run_id: str) -> list[str]:
    """What the log says of a run."""
    return [event.kind for event in RunLog(store, epoch=99).replay(run_id).events]


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something to come true."""
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  (of whatever kind)
            await asyncio.sleep(0.005)


async def test_the_same_wish_is_one_run(pets: str) -> None:
    """Asking twice, or repeating a request, starts nothing twice."""
    store = MemoryStore()
    runs = orchestrator(store)
    first, resumed = await create(runs, pets)
    assert not resumed
    for request in ("r1", "r2"):
        again, resumed = await create(runs, pets, request=request)
        assert resumed
        assert again is first
    await runs.drain()


async def test_a_repeated_request_is_known_after_a_restart(pets: str) -> None:
    """A client that repeats its request to a server started anew gets its run, also if that has ended."""
    store = MemoryStore()
    runs = orchestrator(store)
    first, _ = await create(runs, pets)
    await runs.cancel(first.run_id, ANN)

    later = orchestrator(store, epoch=2)
    await later.start()
    again, resumed = await create(later, pets)
    assert resumed
    assert again.run_id == first.run_id
    assert again.state is RunState.CANCELLED


async def test_an_interrupted_run_is_taken_up_when_asked_for(pets: str) -> None:
    """After a kill -9 the run shows as interrupted, and the same command goes on with it."""
    store = MemoryStore()
    runs = orchestrator(store)
    first, _ = await create(runs, pets)
    await until(lambda: first.state is RunState.RUNNING)
    await kill(runs)

    later = orchestrator(store, epoch=2)
    await later.start()
    assert (await later.get(first.run_id)).state is RunState.INTERRUPTED
    again, resumed = await create(later, pets, request="r2")
    assert resumed
    assert again.run_id == first.run_id
    assert again.state in {RunState.PENDING, RunState.RUNNING}
    await kill(later)
    await later.cancel(again.run_id, ANN)
    assert kinds(store, first.run_id) == [
        *(runlog.CREATED, runlog.DATASET_READ),
        *(runlog.TAKEN_OVER, runlog.DATASET_READ, runlog.CANCELLED),
    ]


async def test_a_creator_that_died_early_does_not_break_the_list(pets: str) -> None:
    """A specification without an event is no run, and no reason not to show the others."""
    store = MemoryStore()
    runs = orchestrator(store)
    first, _ = await create(runs, pets)
    await kill(runs)
    store.put(keys.run_spec("01ARZ3NDEKTSV4RRFFQ69G5FAV"), b"{}")

    later = orchestrator(store, epoch=2)
    await later.start()
    found, token = await later.list(limit=10, before="")
    assert [status.run_id for status in found] == [first.run_id]
    assert not token


async def test_a_damaged_run_does_not_keep_the_server_from_the_others(pets: str) -> None:
    """One garbled event is said when its run is asked for; all else goes on."""
    store = MemoryStore()
    runs = orchestrator(store)
    good, _ = await create(runs, pets)
    bad, _ = await create(runs, pets, request="r2", seed=1)
    await runs.drain()
    store.put(keys.run_event(bad.run_id, 1, 0), b"{")

    later = orchestrator(store, epoch=2)
    await later.start()
    found, _ = await later.list(limit=10, before="")
    assert [status.run_id for status in found] == [good.run_id]
    with pytest.raises(DataLoss, match="cannot be read"):
        await later.get(bad.run_id)
    with pytest.raises(NotFound):
        await later.get("01ARZ3NDEKTSV4RRFFQ69G5FAV")


async def test_pages_hold_every_run_once(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that were created within one millisecond, with ids in any order, are all listed."""
    ids = iter(["01B", "01A", "01D", "01C"])
    monkeypatch.setattr(orchestration, "ULID", lambda: next(ids))
    runs = orchestrator(MemoryStore())
    for seed in range(4):
        await create(runs, pets, request=str(seed), seed=seed)
    listed: list[str] = []
    token = ""
    while True:
        found, token = await runs.list(limit=1, before=token)
        listed += [status.run_id for status in found]
        if not token:
            break
    assert listed == ["01D", "01C", "01B", "01A"]
    await runs.drain()


async def test_a_client_that_leaves_while_its_run_is_created_leaves_a_whole_run(pets: str) -> None:
    """The run of a request that was broken off is known, so that a repetition finds it."""
    store = FragileStore()
    store.pause = 0.05
    runs = orchestrator(store)
    asking = asyncio.create_task(create(runs, pets))
    await until(lambda: any(key.startswith(keys.RUNS) for key in store.objects))
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    again, resumed = await create(runs, pets)
    assert resumed
    assert kinds(store, again.run_id)[0] == runlog.CREATED
    assert len({key.split("/")[1] for key in store.objects if key.startswith(keys.RUNS)}) == 1
    await runs.drain()


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


async def test_a_run_without_any_extractor_is_refused_at_once(pets: str) -> None:
    """When no extractor asked for can be had, the fix is told before anything is started."""

    class Barren(Catalog):
        def availability(self, name: str) -> str:
            """Say what is missing."""
            return f"{name} needs its weights: put them there."

    store = MemoryStore()
    runs = orchestrator(store, catalog=Barren())
    with pytest.raises(InvalidInput, match="hog needs its weights: put them there"):
        await create(runs, pets)
    assert store.objects == {}


async def test_unfinished_runs_are_taken_up_by_a_new_server(pets: str) -> None:
    """After the orchestrator's pod was killed, the next one goes on with its runs without being asked."""
    store = MemoryStore()
    runs = orchestrator(store)
    first, _ = await create(runs, pets)
    await until(lambda: first.state is RunState.RUNNING)
    await kill(runs)

    later = orchestrator(store, epoch=2, take_up=True)
    await later.start()
    again = await later.get(first.run_id)
    await until(lambda: len(again.history.events) == 4)
    assert kinds(store, first.run_id)[2:] == [runlog.TAKEN_OVER, runlog.DATASET_READ]
    assert again.user == "ann"
    await later.drain()


async def test_ended_runs_leave_memory_and_are_still_shown(pets: str) -> None:
    """A server that has done thousands of runs is not larger for it."""
    store = MemoryStore()

    async def fail(journal: Journal) -> None:
        await journal.append(runlog.LEFT_OUT, reason="no weights")
        await journal.append(runlog.FAILED, error="why")

    runs = orchestrator(store, work=fail)
    status, _ = await create(runs, pets)
    await until(lambda: not runs._tasks)
    assert list(runs._roll.unfinished()) == []

    later = orchestrator(store, epoch=2, take_up=True)
    await later.start()
    for server in (runs, later):
        found = await server.get(status.run_id)
        assert (found.state, found.error, found.left_out, found.user) == (RunState.FAILED, "why", ["no weights"], "ann")
        assert [one.run_id for one in (await server.list(limit=5, before=""))[0]] == [status.run_id]
    assert kinds(store, status.run_id)[-1] == runlog.FAILED


async def test_an_ending_that_could_not_be_written_is_made_up_for(pets: str) -> None:
    """A server that dies between the end of a run and its last mark leaves a run that has ended."""
    store = MemoryStore()
    runs = orchestrator(store)
    status, _ = await create(runs, pets)
    await runs.cancel(status.run_id, ANN)
    store.delete(keys.run_ending(status.run_id, 1))

    later = orchestrator(store, epoch=2, take_up=True)
    await later.start()
    assert (await later.get(status.run_id)).state is RunState.CANCELLED
    assert store.stat(keys.run_ending(status.run_id, 1))


async def test_runs_are_stopped_by_their_user_or_an_administrator(pets: str) -> None:
    """Nobody stops a run of somebody else, unless it is their job."""
    runs = orchestrator(MemoryStore())
    status, _ = await create(runs, pets)
    with pytest.raises(PermissionDenied, match="is ann's: they, or an administrator, can stop it"):
        await runs.cancel(status.run_id, Caller.user("bob", Role.RUNNER))
    assert (await runs.cancel(status.run_id, Caller.user("root", Role.ADMIN))).state is RunState.CANCELLED


async def test_a_user_has_no_more_runs_going_on_than_allowed(pets: str) -> None:
    """One user cannot keep the cluster from all others; the answer says what to do."""
    runs = orchestrator(MemoryStore(), quota_runs=2)
    first, _ = await create(runs, pets, request="1", seed=1)
    await create(runs, pets, request="2", seed=2)
    with pytest.raises(ResourceExhausted, match="ann has 2 runs going on, and one user may have 2: wait"):
        await create(runs, pets, request="3", seed=3)
    await create(runs, pets, request="4", seed=4, user="bob")
    await create(runs, pets, request="5", seed=1)  # the first, which is going on
    await runs.cancel(first.run_id, ANN)
    await create(runs, pets, request="3", seed=3)
    await runs.drain()


async def test_who_has_used_up_their_quota_has_nothing_listed(
    pets: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A user with as many runs as allowed hears that, before the server looks through their images."""
    runs = orchestrator(MemoryStore(), quota_runs=1)
    await create(runs, pets)
    empty = str(tmp_path_factory.mktemp("empty"))
    for user, error in (("bob", InvalidDataset), ("ann", ResourceExhausted)):
        with pytest.raises(error):
            await create(runs, empty, request="2", user=user)
    await create(runs, pets)  # her request once more, which made the run that goes on
    await runs.drain()


async def test_a_run_that_is_taken_up_counts_for_who_asks(pets: str) -> None:
    """Going on with somebody else's run uses up one's own quota, and not that of its owner."""
    store = MemoryStore()
    first = orchestrator(store)
    run, _ = await create(first, pets)
    await until(lambda: run.state is RunState.RUNNING)
    await kill(first)
    runs = orchestrator(store, epoch=2, quota_runs=1)
    await runs.start()
    await create(runs, pets, request="2", seed=2, user="bob")
    with pytest.raises(ResourceExhausted, match="bob has 1 runs going on"):
        await create(runs, pets, request="3", user="bob")
    again, resumed = await create(runs, pets, request="4", user="carol")
    assert resumed
    assert again.user == "ann"
    with pytest.raises(ResourceExhausted, match="carol has 1 runs going on"):
        await create(runs, pets, request="5", seed=5, user="carol")
    await create(runs, pets, request="6", seed=6)
    await runs.drain()


async def test_few_folders_are_listed_at_a_time(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many ask for runs at once, two of their folders are being listed, also when some have left."""
    may_end, listing = threading.Event(), list[str]()
    most = 0
    open_source = datasets.open_source

    def slow_source(uri: str, **options: Any) -> Any:
        nonlocal most
        listing.append(uri)
        most = max(most, len(listing))
        may_end.wait()
        listing.pop()
        return open_source(uri, **options)

    monkeypatch.setattr(datasets, "open_source", slow_source)
    runs = orchestrator(MemoryStore())
    leaving = asyncio.create_task(create(runs, pets, request="left"))
    await until(lambda: bool(listing))
    leaving.cancel()
    asking = [asyncio.create_task(create(runs, pets, request=str(seed), seed=seed)) for seed in range(4)]
    await until(lambda: len(listing) == 2)
    may_end.set()
    await asyncio.gather(*asking)
    assert most == 2
    await runs.drain()


async def test_an_equal_run_of_another_user_is_taken_up(pets: str) -> None:
    """Two who want the same get one run, which stays that of the first."""
    runs = orchestrator(MemoryStore())
    first, _ = await create(runs, pets)
    again, resumed = await create(runs, pets, user="bob")  # and by chance the same request id
    assert resumed
    assert again is first
    assert again.user == "ann"
    await runs.drain()


async def test_a_run_keeps_the_id_of_its_request_in_all_logs(pets: str) -> None:
    """One id leads from the client's call through every log line of the run, also after a restart of the server."""
    store = MemoryStore()
    seen: list[str] = []

    async def look(journal: Journal) -> None:
        seen.append(request_id.get())
        await for_ever(journal)

    runs = orchestrator(store, work=look)
    token = request_id.set("call-1")
    try:
        status, _ = await create(runs, pets)
    finally:
        request_id.reset(token)
    await until(lambda: status.state is RunState.RUNNING)
    await kill(runs)
    later = orchestrator(store, epoch=2, take_up=True, work=look)
    await later.start()
    await until(lambda: len(seen) == 2)
    await later.drain()
    assert seen == ["call-1", "call-1"]
    assert request_id.get() == ""


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


async def test_a_run_on_a_dataset_in_the_store_is_checked_at_once() -> None:
    """A dataset that was uploaded is named by its digest; one that is not there is said with what to do."""
    store = MemoryStore()
    items = [Item(f"{label}/{n}.png", label, "", digest_of([label, n])) for label in ("cat", "dog") for n in (0, 1)]
    digest = datasets.write_dataset(store, datasets.Dataset.of(items))
    runs = orchestrator(store)
    status, _ = await create(runs, f"dataset:{digest}")
    assert status.spec.source == f"store:{digest}"
    assert runs.datasets_in_use() >= {digest}
    with pytest.raises(InvalidDataset, match=r"There is no dataset 00.* `offshelf datasets list` shows"):
        await create(runs, f"dataset:{'0' * 64}", request="r2")
    await runs.drain()


async def test_no_run_begins_on_a_dataset_that_is_being_deleted() -> None:
    """Whoever asks for a run on a dataset that is going hears so at once."""
    store = MemoryStore()
    items = [Item(f"{label}/{n}.png", label, "", digest_of([label, n])) for label in ("cat", "dog") for n in (0, 1)]
    digest = datasets.write_dataset(store, datasets.Dataset.of(items))
    runs = orchestrator(store, deleting=lambda: digest)
    with pytest.raises(Conflict, match="is being deleted"):
        await create(runs, f"dataset:{digest}")


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
