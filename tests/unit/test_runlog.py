"""Run state is an append-only list of events with one writer at a time."""

from __future__ import annotations

import pytest

from offshelf.errors import DataLoss
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.store import keys
from tests.unit.fakes import MemoryStore


def kinds(log: RunLog, run_id: str = "R1") -> list[str]:
    """Replay a run and name its events."""
    return [event.kind for event in log.replay(run_id).events]


def test_events_come_back_in_the_order_they_were_written() -> None:
    """A restarted orchestrator knows everything that had happened in a run."""
    store = MemoryStore()
    log = RunLog(store, epoch=1)
    history = log.create("R1", {"source": "folder:/data"}, request_id="abc")
    log.append(history, runlog.DATASET_READ, dataset="d", images=3)
    log.append(history, runlog.SUCCEEDED, result={})

    replayed = RunLog(store, epoch=2).replay("R1")

    assert replayed.events == history.events
    assert replayed.events[1].data == {"dataset": "d", "images": 3}
    assert replayed.ended


def test_late_writes_of_an_older_orchestrator_are_ignored() -> None:
    """An orchestrator that lost the store while it was frozen cannot change a run any more."""
    store = MemoryStore()
    old = RunLog(store, epoch=1)
    history = old.create("R1", {})
    new = RunLog(store, epoch=2)
    taken = new.replay("R1")
    new.append(taken, runlog.TAKEN_OVER)

    old.append(history, runlog.FAILED, error="late")
    new.append(taken, runlog.DATASET_READ, dataset="d", images=1)

    assert kinds(new) == [runlog.CREATED, runlog.TAKEN_OVER, runlog.DATASET_READ]


def test_a_run_taken_over_twice_keeps_its_whole_history() -> None:
    """A run survives any number of restarts."""
    store = MemoryStore()
    RunLog(store, epoch=1).create("R1", {})
    for epoch in (2, 5):
        log = RunLog(store, epoch)
        history = log.replay("R1")
        log.append(history, runlog.TAKEN_OVER)
        log.append(history, runlog.INTERRUPTED)

    assert kinds(RunLog(store, epoch=6)) == [
        runlog.CREATED,
        *(runlog.TAKEN_OVER, runlog.INTERRUPTED),
        *(runlog.TAKEN_OVER, runlog.INTERRUPTED),
    ]


def test_a_missing_event_is_said_and_not_skipped() -> None:
    """A store that lost an event is reported instead of giving a wrong state."""
    store = MemoryStore()
    log = RunLog(store, epoch=1)
    history = log.create("R1", {})
    log.append(history, runlog.DATASET_READ, dataset="d", images=1)
    log.append(history, runlog.CANCELLED)
    store.delete(keys.run_event("R1", 1, 1))

    with pytest.raises(DataLoss, match="lacks event 1-1"):
        log.replay("R1")


def test_a_garbled_event_is_said() -> None:
    """A half-written event is reported with what is wrong."""
    store = MemoryStore()
    log = RunLog(store, epoch=1)
    log.create("R1", {})
    store.put(keys.run_event("R1", 1, 0), b"{")

    with pytest.raises(DataLoss, match="cannot be read"):
        log.replay("R1")


def test_runs_are_listed_newest_first() -> None:
    """`offshelf runs` shows the latest run on top."""
    log = RunLog(MemoryStore(), epoch=1)
    for run_id in ("01A", "01C", "01B"):
        log.create(run_id, {})

    assert log.begin() == ["01C", "01B", "01A"]


def test_an_epoch_that_was_lost_is_counted_on_from_the_store() -> None:
    """Deleting a store's `.embedded` folder loses no event of an earlier run."""
    store = MemoryStore()
    first = RunLog(store, epoch=3)
    history = first.create("R1", {})
    first.append(history, runlog.DATASET_READ, dataset="d", images=1)

    again = RunLog(store, epoch=1)
    again.begin()
    taken = again.replay("R1")
    again.append(taken, runlog.TAKEN_OVER)

    assert taken.last.position.epoch == 4
    assert kinds(again) == [runlog.CREATED, runlog.DATASET_READ, runlog.TAKEN_OVER]


def test_a_garbled_specification_is_said() -> None:
    """A run whose specification was altered is reported."""
    store = MemoryStore()
    log = RunLog(store, epoch=1)
    log.create("R1", {})
    store.put(keys.run_spec("R1"), b"{")
    with pytest.raises(DataLoss, match="cannot be read"):
        log.spec("R1")
