"""Runs for features alone, in the orchestrator."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from offshelf import datasets, features
from offshelf.errors import InvalidInput, StoreUnavailable
from offshelf.features import SegmentRow
from offshelf.images import ImageStatus
from offshelf.runs import Combination, RunGoal, RunState
from offshelf.services.orchestrator.runs import feature_file
from offshelf.services.orchestrator.runs.execution import Execution
from offshelf.services.orchestrator.runs.feature_file import FEATURES_FILE
from offshelf.services.orchestrator.runs.intake import Intake, Request
from offshelf.services.orchestrator.runs.journal import Journal
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.runs.specification import RunSpec
from offshelf.services.orchestrator.runs.status import RunStatus
from offshelf.store import keys
from offshelf.store.patience import Patience
from offshelf.store.patient import PatientStore
from tests.unit import scripted_runs
from tests.unit.fakes import MemoryStore
from tests.unit.one_extractor import FINGERPRINT, MAX_PIXELS, PETS, Fleet, workbench

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.services.orchestrator.runs.journal import Workbench


class CountingStore(MemoryStore):
    """Counts the files that are put into it."""

    files = 0

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a file."""
        self.files += 1
        super().put_file(key, path)


def store_of_pets(*, bad: int = 0, store: MemoryStore | None = None) -> MemoryStore:
    """Make a store that has the pets and their features, but for some that cannot be used."""
    store = CountingStore() if store is None else store
    datasets.write_dataset(store, PETS)
    images = [item.digest for item in PETS.items]
    rows = [
        SegmentRow(image, ImageStatus.UNREADABLE, "the file is empty", None)
        if index < bad
        else SegmentRow(image, ImageStatus.OK, "", np.ones(2, np.float32))
        for index, image in enumerate(images)
    ]
    segment = features.write_segment(store, FINGERPRINT, images, rows, max_pixels=MAX_PIXELS, dimension=2)
    features.write_table(store, features.FeatureTable(PETS.digest, FINGERPRINT, 2, (segment,)))
    return store


def bench_of(store: MemoryStore, scratch: Path, fleet: Fleet | None = None) -> Workbench:
    """Put the tools of a run together."""
    return replace(workbench(store, fleet or Fleet()), scratch=scratch)


def journal(store: MemoryStore, run_id: str = "R1", extractors: tuple[str, ...] = ("hog",)) -> Journal:
    """Begin a run for features alone."""
    log = RunLog(store, 1)
    spec = RunSpec(f"store:{PETS.digest}", extractors, (), "", 0, 0, goal=RunGoal.FEATURES)
    return Journal(RunStatus(spec, log.create(run_id, spec.to_json())), log)


def left_in(folder: Path) -> list[Path]:
    """List what lies in a folder."""
    return list(folder.iterdir())


async def test_features_alone_need_no_trainer_and_no_stats(tmp_path: Path) -> None:
    """The run ends with a file, a list of what is missing in it and what it was made from; nothing else was started."""
    store, fleet = store_of_pets(bad=1), Fleet("trainer", "stats")
    run = journal(store)
    await Execution(bench_of(store, tmp_path, fleet), run).run()
    assert run.status.state is RunState.SUCCEEDED
    assert fleet.held == []
    result = run.status.result
    assert result is not None
    assert (result.fitted, result.model, result.scores) == (None, "", ())
    assert set(result.artifacts) == {FEATURES_FILE, "skipped.csv", "run.json"}
    assert store.get(result.artifacts[FEATURES_FILE]).startswith(b"PAR1")
    assert store.get(result.artifacts["skipped.csv"]).count(b"\n") == 2
    summary = json.loads(store.get(result.artifacts["run.json"]))
    assert (summary["goal"], summary["images_skipped"], summary["images_reused"]) == ("features", 1, 4)
    assert summary["fingerprints"] == {"hog": FINGERPRINT}
    assert run.status.progress.images_skipped == 1
    assert not left_in(tmp_path)
    assert RunStatus(run.status.spec, RunLog(store, 2).replay("R1")).result == result, "as it is read from its log"


async def test_a_file_that_is_there_is_not_made_again(tmp_path: Path) -> None:
    """Asking again costs look-ups, and no second copy of gigabytes is kept."""
    store = store_of_pets()
    assert isinstance(store, CountingStore)
    runs = [journal(store, "R1"), journal(store, "R2")]
    for run in runs:
        await Execution(bench_of(store, tmp_path), run).run()
    first, second = (run.status.result for run in runs)
    assert first is not None
    assert second is not None
    assert first.artifacts[FEATURES_FILE] == second.artifacts[FEATURES_FILE]
    assert store.files == 1


async def test_an_extractor_that_could_use_no_image_is_left_out(tmp_path: Path) -> None:
    """A column without a single vector helps nobody; the reason has an example, and alone it is the run's failure."""
    store = store_of_pets(bad=4)
    run = journal(store)
    await Execution(bench_of(store, tmp_path), run).run()
    assert run.status.state is RunState.FAILED
    why = "hog is left out: it could use no image. For example cat/0.png: the file is empty."
    assert run.status.left_out == [why]
    assert run.status.error == f"Nothing could be extracted. {why}"


@pytest.mark.parametrize(
    ("limit", "value", "said"),
    [
        ("MOST_BYTES", 31, "one file at most 0: divide the dataset. What was extracted is kept."),
        ("_SPARE_BYTES", 2**70, "to write the features: free some there, then run the same command again."),
    ],
)
async def test_a_file_for_which_there_is_no_room_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int, said: str
) -> None:
    """A server does not fill its disk; the features stay, and the message says what to do."""
    monkeypatch.setattr(feature_file, limit, value)
    store = store_of_pets()
    run = journal(store)
    await Execution(bench_of(store, tmp_path), run).run()
    assert run.status.state is RunState.FAILED
    assert said in run.status.error
    assert not list(store.list(keys.EXPORTS))


async def test_a_folder_that_is_gone_is_said(tmp_path: Path) -> None:
    """Whoever runs the server reads which folder it is."""
    store = store_of_pets()
    run = journal(store)
    await Execution(bench_of(store, tmp_path / "gone"), run).run()
    assert run.status.state is RunState.FAILED
    assert f"could not be written in {tmp_path / 'gone'} (No such file or directory)" in run.status.error


async def test_cancelling_ends_the_writing_and_leaves_nothing(tmp_path: Path) -> None:
    """Ctrl-C stops at the next segment, gives the disk back, and the next run has its turn."""

    class Slow(MemoryStore):
        """Waits in the middle of a file for whoever lets it go on."""

        def __init__(self) -> None:
            super().__init__()
            self.reached, self.go_on = threading.Event(), threading.Event()

        def put_file(self, key: str, path: Path) -> None:
            """Wait, then write."""
            self.reached.set()
            assert self.go_on.wait(10)
            super().put_file(key, path)

    slow = Slow()
    store_of_pets(store=slow)
    bench = bench_of(slow, tmp_path)
    task = asyncio.create_task(Execution(bench, journal(slow)).run())
    assert await asyncio.to_thread(slow.reached.wait, 10)
    task.cancel()
    await asyncio.sleep(0.01)
    assert not task.done(), "its room is not free yet"
    assert bench.scratch_turn.locked()
    slow.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not left_in(tmp_path)
    run = journal(slow, "R2")
    await Execution(bench, run).run()
    assert run.status.state is RunState.SUCCEEDED


async def test_cancelling_ends_the_wait_for_a_store_that_is_away(tmp_path: Path) -> None:
    """Ctrl-C gives the disk back at once, not when the store has answered or has been away for minutes."""

    class Away(MemoryStore):
        """Takes no files."""

        def __init__(self) -> None:
            super().__init__()
            self.asked = threading.Event()

        def put_file(self, key: str, path: Path) -> None:
            """Be away."""
            self.asked.set()
            raise StoreUnavailable(f"{key} cannot be written from {path} now.")

    away = Away()
    store_of_pets(store=away)
    patience = Patience(600.0)
    store = PatientStore(away, patience)
    bench = replace(bench_of(away, tmp_path), store=store)
    task = asyncio.create_task(Execution(bench, journal(away)).run())
    try:
        assert await asyncio.to_thread(away.asked.wait, 10)
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert task.cancelled()
        assert not left_in(tmp_path)
    finally:
        patience.close()
        await asyncio.wait({task})


async def test_a_file_that_nobody_waits_for_any_more_is_not_stored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run that is cancelled as its file is ready sends no gigabytes."""
    store = store_of_pets()
    assert isinstance(store, CountingStore)
    ready, go_on = threading.Event(), threading.Event()

    def export(*given: object, stop: threading.Event) -> None:
        features.export.export_features(*given, stop=stop)  # type: ignore[arg-type]
        ready.set()
        assert go_on.wait(10)

    monkeypatch.setattr(features, "export_features", export)
    task = asyncio.create_task(Execution(bench_of(store, tmp_path), journal(store)).run())
    assert await asyncio.to_thread(ready.wait, 10)
    task.cancel()
    await asyncio.sleep(0.01)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert store.files == 0


def intake(store: MemoryStore) -> Intake:
    """Make an intake over fakes."""
    return Intake(store, scripted_runs.Catalog(), roots=None)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "surplus",
    [
        {"classifiers": ["LR"]},
        {"measure": "f1"},
        {"folds": 3},
        {"seed": 1},
        {"choice": Combination("hog", "LR")},
    ],
)
async def test_what_has_no_meaning_for_features_is_refused(surplus: dict[str, object]) -> None:
    """Nobody believes that a classifier was tried where none was."""
    request = Request(f"dataset:{PETS.digest}", goal=RunGoal.FEATURES, **surplus)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="takes no classifiers"):
        await intake(MemoryStore()).specify(request)


async def test_one_image_without_others_to_compare_is_accepted(tmp_path: Path) -> None:
    """Labels do not matter to features; a comparison of the same images is refused as before."""
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"")
    desk = intake(MemoryStore())
    wanted = Request(str(tmp_path), extractors=["hog"], goal=RunGoal.FEATURES)
    spec = await desk.specify(wanted)
    await desk.check(spec)
    assert RunSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec
    with pytest.raises(InvalidInput, match="one class"):
        await desk.check(await desk.specify(replace(wanted, goal=RunGoal.COMPARISON)))


def test_specifications_of_before_are_comparisons() -> None:
    """Runs that an earlier version began, or ended, can be read."""
    spec = RunSpec("folder:/pets", ("hog",), ("LR",), "accuracy", 3, 0)
    document = json.loads(json.dumps(spec.to_json()))
    del document["goal"]
    assert RunSpec.from_json(document) == spec
