"""What a new orchestrator makes of the runs that the last one left, or of those that turn up later."""

from __future__ import annotations

import asyncio
import threading
from itertools import count
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import DataLoss, NotFound, StoreUnavailable
from offshelf.logs import request_id
from offshelf.runs import RunState
from offshelf.services.orchestrator.runs import archive, runlog
from offshelf.store import keys
from offshelf.store.patience import Patience
from tests.unit.fakes import MemoryStore
from tests.unit.scripted_runs import ANN, create, folder_of_pets, for_ever, kill, kinds, orchestrator, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf.services.orchestrator.runs.journal import Journal
    from offshelf.services.orchestrator.runs.orchestration import Orchestrator
    from offshelf.store import ObjectInfo


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """A folder with two classes of two images each, by name."""
    return folder_of_pets(tmp_path)


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


async def test_a_server_that_is_hurried_leaves_its_runs_to_the_next(pets: str) -> None:
    """Work that a server in a hurry had no time to stop in order goes on nowhere, until the next server takes it up."""
    store, ended = MemoryStore(), asyncio.Event()

    async def work(journal: Journal) -> None:
        try:
            await for_ever(journal)
        finally:
            ended.set()

    runs = orchestrator(store, work=work)
    run, _ = await create(runs, pets)
    await until(lambda: run.state is RunState.RUNNING)
    await runs.close()
    assert ended.is_set()
    assert kinds(store, run.run_id) == [runlog.CREATED, runlog.DATASET_READ]


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


async def test_a_creator_that_died_early_does_not_break_the_list(pets: str) -> None:
    """A specification without an event is no run, and no reason not to show the others."""
    store = MemoryStore()
    runs = orchestrator(store)
    first, _ = await create(runs, pets)
    await kill(runs)
    store.put(keys.run_spec("01ARZ3NDEKTSV4RRFFQ69G5FAV"), b"{}")

    later = orchestrator(store, epoch=2)
    await later.start()
    found, token, _ = await later.list(limit=10, before="")
    assert [status.run_id for status in found] == [first.run_id]
    assert not token


async def end_runs(runs: Orchestrator, pets: str, number: int) -> None:
    """Have so many runs that have ended."""
    for seed in range(number):
        ended, _ = await create(runs, pets, request=f"r{seed}", seed=seed)
        await runs.cancel(ended.run_id, ANN)


class Away(MemoryStore):
    """A store that goes away when told to: one call hears of it at once, and each further one after a minute."""

    def __init__(self) -> None:
        super().__init__()
        self.away = False
        self.asked = count()

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object, or wait as long as a patient store does."""

        def fail() -> bytes:
            raise StoreUnavailable("The store cannot be reached.")

        if self.away:
            Patience(60.0 if next(self.asked) else 0.0).call(fail)
        return super().get(key, offset=offset, length=length)


async def test_what_goes_on_is_listed_without_the_store(pets: str) -> None:
    """While the store is away, a list has the runs that are in memory, soon, and says why it lacks all others."""
    store = Away()
    runs = orchestrator(store)
    await end_runs(runs, pets, 40)

    later = orchestrator(store, epoch=2)
    await later.start()
    going_on, _ = await create(later, pets, request="new", seed=99)
    store.away = True
    for limit in (50, 5):
        store.asked = count()
        async with asyncio.timeout(20):
            found, token, trouble = await later.list(limit=limit, before="")
        assert [status.run_id for status in found] == [going_on.run_id]
        assert trouble == "The store cannot be reached."
        assert not token
    await kill(later)


async def test_a_run_that_goes_on_is_listed_however_many_have_ended_since(pets: str) -> None:
    """Without the store one page has all that is known, also what is older than a page of runs that cannot be read."""
    store = Away()
    runs = orchestrator(store)
    going_on, _ = await create(runs, pets, request="old", seed=99)
    await end_runs(runs, pets, 10)
    await kill(runs)
    later = orchestrator(store, epoch=2)
    await later.start()
    store.away = True
    found, token, trouble = await later.list(limit=5, before="")
    assert [status.run_id for status in found] == [going_on.run_id]
    assert trouble
    assert not token


async def test_a_silent_store_is_said_in_time(pets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that neither answers nor refuses keeps nobody from the list for as long as its calls take to give up."""
    answers = threading.Event()

    class Silent(MemoryStore):
        """Once told to, answers nothing before the end of the test."""

        silent = False

        def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
            """Read an object, sooner or later."""
            if self.silent:
                answers.wait(60)
            return super().get(key, offset=offset, length=length)

    store = Silent()
    runs = orchestrator(store)
    await end_runs(runs, pets, 40)
    later = orchestrator(store, epoch=2)
    await later.start()
    store.silent = True
    monkeypatch.setattr(archive, "_READ_SECONDS", 0.1)
    try:
        _, _, trouble = await later.list(limit=50, before="")
        assert not answers.is_set()
    finally:
        answers.set()
    assert trouble.startswith("The store has not answered for 0.1 s: see whether")


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
    found, _, _ = await later.list(limit=10, before="")
    assert [status.run_id for status in found] == [good.run_id]
    with pytest.raises(DataLoss, match="cannot be read"):
        await later.get(bad.run_id)
    with pytest.raises(NotFound):
        await later.get("01ARZ3NDEKTSV4RRFFQ69G5FAV")


async def test_ended_runs_leave_memory_and_are_still_shown(pets: str) -> None:
    """A server that has done thousands of runs is not larger for it."""
    store = MemoryStore()

    async def fail(journal: Journal) -> None:
        await journal.append(runlog.LEFT_OUT, reason="no weights")
        await journal.append(runlog.FAILED, error="why")

    runs = orchestrator(store, work=fail)
    status, _ = await create(runs, pets)
    await until(lambda: not runs._ongoing._tasks)
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


async def test_a_run_of_an_orchestrator_that_was_cut_off_is_found(pets: str) -> None:
    """Whoever got the id of a run from the last orchestrator, in its last moments, finds it at the next one."""
    store = MemoryStore()
    old, new = orchestrator(store), orchestrator(store, epoch=2)
    await new.start()
    theirs, _ = await create(old, pets)
    await until(lambda: theirs.state is RunState.RUNNING)

    found = await new.get(theirs.run_id)
    assert (found.state, found.user) == (RunState.INTERRUPTED, "ann")
    assert [update.state async for update in new.watch(theirs.run_id)] == [RunState.INTERRUPTED]
    assert [status.run_id for status in (await new.list(limit=5, before=""))[0]] == [theirs.run_id]
    assert new.datasets_in_use() == {"d"}
    again, resumed = await create(new, pets, request="r2")
    assert resumed
    assert again is found
    await until(lambda: again.state is RunState.RUNNING)
    await old.cancel(theirs.run_id, ANN)  # in an epoch that does not count any more
    assert kinds(store, again.run_id)[2:] == [runlog.TAKEN_OVER, runlog.DATASET_READ]
    await new.cancel(again.run_id, ANN)
    assert kinds(store, again.run_id)[-1] == runlog.CANCELLED


async def test_a_run_that_an_orchestrator_ended_when_it_was_cut_off_is_found(pets: str) -> None:
    """Its result is there at the next orchestrator, which did not see it come."""
    store = MemoryStore()
    old, new = orchestrator(store), orchestrator(store, epoch=2)
    await new.start()
    theirs, _ = await create(old, pets)
    await old.cancel(theirs.run_id, ANN)
    found = await asyncio.gather(*(new.get(theirs.run_id) for _ in range(3)))
    assert {status.state for status in found} == {RunState.CANCELLED}
    assert len((await new.list(limit=5, before=""))[0]) == 1


async def test_a_run_whose_creation_seemed_to_fail_is_not_made_twice(pets: str) -> None:
    """A repeated request gets the run that it has made, though the store's answer to the first was lost."""
    lost: list[str] = []

    class Deceptive(MemoryStore):
        def put(self, key: str, data: bytes) -> None:
            super().put(key, data)
            if "/events/" in key and not lost:
                lost.append(key)
                raise StoreUnavailable("no answer")

    store = Deceptive()
    runs = orchestrator(store)
    with pytest.raises(StoreUnavailable):
        await create(runs, pets)
    status, resumed = await create(runs, pets)
    assert resumed
    assert status.run_id in lost[0]
    await until(lambda: status.state is RunState.RUNNING)
    assert len({key.split("/")[1] for key in store.objects if key.startswith(keys.RUNS)}) == 1
    await runs.drain()


async def test_what_can_be_no_run_is_not_looked_for() -> None:
    """A name that leads elsewhere in the store is answered like any that does not exist."""
    runs = orchestrator(MemoryStore())
    for name in ("", "../requests", "a/events", "\0"):
        with pytest.raises(NotFound, match="There is no run"):
            await runs.get(name)


async def test_an_absent_store_is_not_taken_for_an_absent_run() -> None:
    """While nobody can know whether there is a run, nobody is told that there is none."""

    class Absent(MemoryStore):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            raise StoreUnavailable(f"no answer about {prefix}")

    with pytest.raises(StoreUnavailable):
        await orchestrator(Absent()).get("01ARZ3NDEKTSV4RRFFQ69G5FAV")
