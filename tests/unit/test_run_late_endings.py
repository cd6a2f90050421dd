"""Runs that fail while the store takes nothing: what is shown, and what their log says in the end."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from offshelf.runs import RunState
from offshelf.services.orchestrator.figures import NoFigures
from offshelf.services.orchestrator.runs import endings, runlog
from offshelf.services.orchestrator.runs.execution import Execution
from tests.unit.scripted_runs import FragileStore, create, folder_of_pets, for_ever, kill, kinds, orchestrator, until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from offshelf.services.orchestrator.runs.journal import Journal


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """A folder with two classes of two images each, by name."""
    return folder_of_pets(tmp_path)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait long for the store."""
    monkeypatch.setattr(endings, "_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(endings, "_LONGEST_SECONDS", 0.01)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody ask the store again while the test goes on."""
    monkeypatch.setattr(endings, "full_jitter", lambda *_, **__: 1e6)


class Counted(NoFigures):
    """Counts the runs that have ended."""

    def __init__(self) -> None:
        self.ended: list[str] = []

    def run_ended(self, state: str) -> None:
        """Count one."""
        self.ended.append(state)


def fail_with(store: FragileStore) -> Callable[[Journal], Awaitable[None]]:
    """Make the work of a run that fails at first, because of a defect, when the store takes nothing any more."""

    async def work(journal: Journal) -> None:
        if any(event.kind == runlog.TAKEN_OVER for event in journal.status.history.events):
            await for_ever(journal)
        store.full = True
        await Execution(None, journal).run()  # type: ignore[arg-type]

    return work


@pytest.mark.usefixtures("hasty")
async def test_a_failure_is_written_when_the_store_takes_it_again(pets: str) -> None:
    """A run that has failed stays failed, also for the next orchestrator, however full the store was at that moment."""
    store, figures = FragileStore(), Counted()
    runs = orchestrator(store, work=fail_with(store), figures=figures)
    status, _ = await create(runs, pets)
    async with asyncio.timeout(5):
        assert [update.state async for update in runs.watch(status.run_id)][-1] is RunState.FAILED
    assert kinds(store, status.run_id) == [runlog.CREATED]
    assert figures.ended == []
    store.full = False
    await until(lambda: bool(figures.ended))
    assert kinds(store, status.run_id) == [runlog.CREATED, runlog.FAILED]
    assert figures.ended == ["failed"]
    assert (await runs.get(status.run_id)).error == status.error
    await runs.drain()

    later = orchestrator(store, epoch=2, take_up=True)
    await later.start()
    found = await later.get(status.run_id)
    assert (found.state, found.error) == (RunState.FAILED, status.error)


@pytest.mark.usefixtures("hasty")
async def test_an_absent_store_gets_all_failures_when_it_is_back(pets: str) -> None:
    """Every run that failed with its store has its ending, not only the first."""
    store, figures = FragileStore(), Counted()
    has_gone = asyncio.Event()

    async def fail(journal: Journal) -> None:
        await has_gone.wait()
        journal.status.fail("the store was away for too long")

    runs = orchestrator(store, work=fail, figures=figures)
    statuses = [(await create(runs, pets, request=str(seed), seed=seed))[0] for seed in range(3)]
    store.away = True
    has_gone.set()
    await until(lambda: store.refused > 2)
    assert all(status.state is RunState.FAILED for status in statuses)
    store.away = False
    await until(lambda: len(figures.ended) == 3)
    for status in statuses:
        assert kinds(store, status.run_id) == [runlog.CREATED, runlog.FAILED]
    await runs.drain()


@pytest.mark.usefixtures("slow")
async def test_whoever_asks_again_first_goes_on_with_the_run(pets: str) -> None:
    """The same command goes on with a run whose failure is not written yet, and no failure is written after that."""
    store = FragileStore()
    runs = orchestrator(store, work=fail_with(store))
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.FAILED)
    store.full = False
    again, resumed = await create(runs, pets, request="r2")
    assert resumed
    assert again is status
    await until(lambda: status.state is RunState.RUNNING)
    await runs.drain()
    assert kinds(store, status.run_id) == [
        *(runlog.CREATED, runlog.TAKEN_OVER),
        *(runlog.DATASET_READ, runlog.INTERRUPTED),
    ]


@pytest.mark.usefixtures("hasty")
async def test_nothing_follows_a_failure_that_is_being_written(pets: str) -> None:
    """Whoever asks again just then gets a new run, which finds what the failed one had done."""
    may_end, writing = threading.Event(), threading.Event()

    class Slow(FragileStore):
        def put(self, key: str, data: bytes) -> None:
            if not self.full and runlog.FAILED.encode() in data and "/events/" in key:
                writing.set()
                may_end.wait(10)
            super().put(key, data)

    store = Slow()
    runs = orchestrator(store, work=fail_with(store))
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.FAILED)
    store.full = False
    await until(writing.is_set)
    asking = asyncio.create_task(create(runs, pets, request="r2"))
    await until(lambda: sum(key.startswith("requests/") for key in store.objects) == 2)
    may_end.set()
    again, resumed = await asking
    assert not resumed
    assert again.run_id != status.run_id
    assert kinds(store, status.run_id) == [runlog.CREATED, runlog.FAILED]
    await runs.drain()


@pytest.mark.usefixtures("slow")
async def test_a_server_that_stops_tries_once_more(pets: str) -> None:
    """A failure that the store would take by now is not lost with the process."""
    store = FragileStore()
    runs = orchestrator(store, work=fail_with(store))
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.FAILED)
    store.full = False
    await runs.drain()
    assert kinds(store, status.run_id) == [runlog.CREATED, runlog.FAILED]


@pytest.mark.parametrize(("take_up", "state"), [(True, RunState.RUNNING), (False, RunState.INTERRUPTED)])
async def test_a_failure_that_was_never_written_is_an_unfinished_run(
    pets: str, *, take_up: bool, state: RunState
) -> None:
    """If the process ends before the store is back, the next one goes on as after any other end of a process."""
    store = FragileStore()
    runs = orchestrator(store, work=fail_with(store))
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.FAILED)
    await runs.drain()
    store.full = False

    later = orchestrator(store, epoch=2, take_up=take_up)
    await later.start()
    found = await later.get(status.run_id)
    await until(lambda: found.state is state)
    await later.drain()


@pytest.mark.usefixtures("hasty")
async def test_a_run_that_could_not_be_taken_up_gets_its_ending(pets: str) -> None:
    """A new orchestrator over a full store says why its runs fail, and writes it when there is room."""
    store, figures = FragileStore(), Counted()
    runs = orchestrator(store)
    status, _ = await create(runs, pets)
    await until(lambda: status.state is RunState.RUNNING)
    await kill(runs)
    store.full = True
    later = orchestrator(store, epoch=2, take_up=True, figures=figures)
    await later.start()
    found = await later.get(status.run_id)
    await until(lambda: found.state is RunState.FAILED)
    assert found.error == "the store is full"
    store.full = False
    await until(lambda: bool(figures.ended))
    assert kinds(store, status.run_id) == [runlog.CREATED, runlog.DATASET_READ, runlog.FAILED]
    await later.drain()
