"""Run state is an append-only list of events with one writer at a time."""

from __future__ import annotations

import pytest

from offshelf.errors import DataLoss, StoreDenied, StoreFull
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

    assert log.begin().ids == ("01C", "01B", "01A")


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
        log.replay("R1")


def ended_run(store: MemoryStore, run_id: str, *, epoch: int = 1) -> runlog.History:
    """Write a run that has failed."""
    log = RunLog(store, epoch)
    history = log.create(run_id, {"source": "folder:/data"}, user="ann", request_id="abc")
    log.append(history, runlog.DATASET_READ, dataset="d", images=3)
    log.append(history, runlog.LEFT_OUT, reason="no weights")
    log.append(history, runlog.TABLE_WRITTEN, extractor="hog", table="t")
    log.append(history, runlog.FAILED, error="why")
    return history


def test_a_run_that_has_ended_is_shown_from_one_object() -> None:
    """A thousand runs of history cost one read each when they are looked at, and none before."""
    store = MemoryStore()
    history = ended_run(store, "R1")
    store.objects = {key: data for key, data in store.objects.items() if not key.startswith(keys.RUNS)}

    known = RunLog(store, 2).ended("R1", 1)

    assert known.spec == history.spec
    assert [event.kind for event in known.events] == [
        *(runlog.CREATED, runlog.DATASET_READ, runlog.LEFT_OUT),
        runlog.FAILED,
    ]
    assert known.last == history.last


def test_a_start_tells_open_runs_from_ended_ones_without_reading_them() -> None:
    """However long the history is, a server starts as fast as it has runs to go on with."""

    class Unread(MemoryStore):
        def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
            raise AssertionError(key, offset, length)

    store = Unread()
    ended_run(store, "01A")
    RunLog(store, 3).create("01B", {})

    known = RunLog(store, 1).begin()

    assert known.ids == ("01B", "01A")
    assert known.ended == {"01A": 1}
    assert known.epoch == 3


def test_the_ending_that_an_older_orchestrator_wrote_late_does_not_count() -> None:
    """A frozen server that wakes up after another has taken its run over cannot end it."""
    store = MemoryStore()
    old = RunLog(store, epoch=1)
    history = old.create("R1", {})
    new = RunLog(store, epoch=2)
    taken = new.replay("R1")
    new.append(taken, runlog.TAKEN_OVER)
    old.append(history, runlog.FAILED, error="late")

    assert RunLog(store, 3).begin().ended == {}
    new.append(taken, runlog.CANCELLED)
    assert RunLog(store, 4).begin().ended == {"R1": 2}
    assert RunLog(store, 4).ended("R1", 2).last.kind == runlog.CANCELLED


def test_a_damaged_ending_is_made_up_for_by_the_events() -> None:
    """What is shown of a run can always be read from its log."""
    store = MemoryStore()
    history = ended_run(store, "R1")
    store.put(keys.run_ending("R1", 1), b"{")

    assert RunLog(store, 2).ended("R1", 1).events == history.events


def test_an_epoch_in_which_nothing_was_written_is_not_used_twice() -> None:
    """Two servers never share a number, also if the first had nothing to say."""
    store = MemoryStore()
    RunLog(store, 1).begin()
    again = RunLog(store, 1)
    again.begin()
    history = again.create("R1", {})
    assert history.last.position.epoch == 2
    assert list(store.children(keys.EPOCHS)) == ["00000002"]


def test_runs_of_an_older_offshelf_are_known() -> None:
    """A store from before there were marks shows its runs, and their epochs count."""
    store = MemoryStore()
    ended_run(store, "R1", epoch=7)
    store.objects = {key: data for key, data in store.objects.items() if not key.startswith(keys.HISTORY)}

    known = RunLog(store, 1).begin()

    assert (known.ids, known.ended, known.epoch) == (("R1",), {}, 7)


def test_a_request_leads_to_its_run() -> None:
    """A client that sends a request again gets the run of the first time, also from a server started anew."""
    store = MemoryStore()
    RunLog(store, 1).remember_request("digest", "R1")
    assert RunLog(store, 2).requested("digest") == "R1"
    assert RunLog(store, 2).requested("other") is None
    store.put(keys.request("digest"), b"{")
    with pytest.raises(DataLoss, match="send a new one"):
        RunLog(store, 2).requested("digest")


@pytest.mark.parametrize("refusal", [StoreFull("It is full."), StoreDenied("It may only be read.")])
def test_a_store_that_takes_nothing_keeps_no_orchestrator_from_starting(refusal: Exception) -> None:
    """Garbage of a full store can be collected, and results fetched, although the orchestrator was restarted."""

    class Refusing(MemoryStore):
        refuses = False

        def put(self, key: str, data: bytes) -> None:
            if self.refuses:
                raise refusal
            super().put(key, data)

    store = Refusing()
    RunLog(store, epoch=1).create("R1", {})
    store.refuses = True
    log = RunLog(store, epoch=1)
    assert log.begin().ids == ("R1",)
    history = log.replay("R1")
    store.refuses = False
    log.append(history, runlog.TAKEN_OVER)
    assert log.replay("R1").last.position.epoch == 2
