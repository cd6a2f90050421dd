"""A run's images are named once, wherever they are, and found again after a restart."""

from __future__ import annotations

import asyncio
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from offshelf import datasets
from offshelf.datasets import Dataset, Item
from offshelf.digests import digest_of
from offshelf.errors import InvalidDataset
from offshelf.services.orchestrator.holdings.desk import Desk
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.inputs import read_inputs, title_of
from offshelf.services.orchestrator.runs.journal import Journal
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.runs.specification import RunSpec
from offshelf.services.orchestrator.runs.status import RunStatus
from offshelf.store import keys
from tests.unit.fakes import MemoryStore
from tests.unit.test_library import Removing
from tests.unit.test_uploads import Threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from offshelf.services.orchestrator.runs.inputs import Inputs

PETS = Dataset.of(
    Item(f"{label}/{n}.png", label, "", digest_of([label, n])) for label in ("cat", "dog") for n in (0, 1)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two classes of two images each, and a file that is no image."""
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        for number in range(2):
            (tmp_path / label / f"{number}.png").write_bytes(f"{label} {number}".encode())
    (tmp_path / "cat" / "notes.doc").write_bytes(b"")
    return tmp_path


def journal(store: MemoryStore, source: str, *, run_id: str = "R1") -> Journal:
    """Begin a run on a source."""
    log = RunLog(store, 1)
    spec = RunSpec(source, ("hog",), ("LR",), "accuracy", 2, 0)
    return Journal(RunStatus(spec, log.create(run_id, spec.to_json(), user="ann")), log)


async def nothing_is_deleted() -> None:
    """Disturb nobody."""


async def read(
    store: MemoryStore, run: Journal, undisturbed: Callable[[], Awaitable[None]] = nothing_is_deleted
) -> Inputs:
    """Have a run's images read."""
    bench = SimpleNamespace(store=store, roots=None, buckets=(), undisturbed=undisturbed)
    return await read_inputs(bench, run, threading.Event())  # type: ignore[arg-type]


async def test_a_folder_that_was_read_is_a_dataset_with_a_card(folder: Path) -> None:
    """What a run has read is in the list of datasets, with its size and who brought it."""
    store = MemoryStore()
    run = journal(store, f"folder:{folder}")
    inputs = await read(store, run)
    card = datasets.read_card(store, inputs.dataset.digest)
    assert (card.images, card.bytes, card.classes, card.user) == (4, 20, ("cat", "dog"), "ann")
    assert (card.name, card.source) == (folder.name, f"folder:{folder}")
    assert run.status.dataset == inputs.dataset.digest
    (left_out,) = run.status.left_out
    assert left_out.startswith("One file of the dataset not looked at: no image in a class folder by name (.bmp, ")


async def test_a_dataset_in_the_store_is_not_read_again() -> None:
    """A run on uploaded images begins at once, however many there are."""
    store = MemoryStore()
    digest = datasets.write_dataset(store, PETS)
    run = journal(store, f"store:{digest}")
    inputs = await read(store, run)
    assert inputs.dataset == PETS
    assert run.status.progress.images_scanned == run.status.progress.images_total == 4
    assert [event.kind for event in run.status.history.events] == [runlog.CREATED, runlog.DATASET_READ]


async def test_a_dataset_that_was_deleted_is_said() -> None:
    """A run whose dataset has gone ends with what to do."""
    store = MemoryStore()
    with pytest.raises(InvalidDataset, match=r"There is no dataset 0000.* in the store"):
        await read(store, journal(store, f"store:{'0' * 64}"))


async def test_a_server_that_goes_on_by_itself_does_not_read_the_images_again(folder: Path) -> None:
    """A restart in the middle of a long run costs no second reading, and the run stays on the very same images."""
    store = MemoryStore()
    first = await read(store, run := journal(store, f"folder:{folder}"))
    (folder / "dog" / "9.png").write_bytes(b"new")
    await run.append(runlog.TAKEN_OVER, asked=False)
    again = await read(store, run)
    assert again.dataset == first.dataset
    assert len(run.status.left_out) == 1


async def test_a_user_who_asks_again_gets_the_images_as_they_are_now(folder: Path) -> None:
    """Whoever adds images and repeats the command of an interrupted run has them in it."""
    store = MemoryStore()
    await read(store, run := journal(store, f"folder:{folder}"))
    (folder / "dog" / "9.png").write_bytes(b"new")
    await run.append(runlog.TAKEN_OVER, asked=True)
    again = await read(store, run)
    assert len(again.dataset.items) == 5


async def test_the_title_of_a_dataset_in_the_store_is_on_its_card(folder: Path) -> None:
    """A report on uploaded images is headed by what their user calls them."""
    store = MemoryStore()
    inputs = await read(store, journal(store, f"folder:{folder}"))
    digest = inputs.dataset.digest
    assert title_of(store, f"store:{digest}", digest) == folder.name
    assert title_of(store, f"store:{'0' * 64}", "0" * 64) == "images"
    assert title_of(store, "zip:/data/pets.zip", digest) == "pets"


async def test_a_run_that_begins_during_a_deletion_waits(folder: Path) -> None:
    """A run neither reads what is being erased nor loses what it needs: it says why it waits, and begins after that."""
    store, removing = MemoryStore(), Removing()
    library = Desk(store, Threads(), in_use=frozenset, delete=removing.delete, collect=removing.collect).library
    digest = datasets.write_dataset(store, PETS)
    runs = [
        journal(store, source, run_id=run_id)
        for run_id, source in (("R1", f"store:{digest}"), ("R2", f"folder:{folder}"))
    ]
    deleting = asyncio.create_task(library.delete(digest, dry_run=False))
    await asyncio.to_thread(removing.begun.wait)
    reading = [asyncio.create_task(read(store, run, library.undisturbed)) for run in runs]
    while not all(run.status.notices.lines for run in runs):  # noqa: ASYNC110  (of whatever kind)
        await asyncio.sleep(0)
    assert runs[0].status.notices.lines == ("The run waits until a deletion has ended.",)
    assert store.stat(keys.dataset(digest)) is not None
    removing.may_end.set()
    await deleting
    with pytest.raises(InvalidDataset, match="There is no dataset"):
        await reading[0]
    assert len((await reading[1]).dataset.items) == 4
    assert not runs[1].status.notices.lines


async def test_what_a_run_has_read_during_a_deletion_is_named_before_the_next(folder: Path) -> None:
    """A deletion that begins after the images were read knows that a run uses them."""
    store = MemoryStore()
    run = journal(store, f"folder:{folder}")
    seen: list[str] = []

    async def undisturbed() -> None:
        seen.append(run.status.dataset)
        await asyncio.sleep(0)
        asyncio.get_running_loop().call_soon(lambda: seen.append(run.status.dataset))

    inputs = await read(store, run, undisturbed)
    assert seen == ["", "", "", inputs.dataset.digest]
