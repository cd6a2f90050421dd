"""Runs are asked for: what is made definite, refused, and found to be going on already."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from offshelf import datasets
from offshelf.datasets import Item
from offshelf.digests import digest_of
from offshelf.errors import Conflict, InvalidDataset, InvalidInput, ResourceExhausted
from offshelf.runs import RunState
from offshelf.services.orchestrator.runs import orchestration, runlog
from offshelf.store import keys
from tests.unit.fakes import MemoryStore
from tests.unit.scripted_runs import (
    ANN,
    Catalog,
    FragileStore,
    create,
    folder_of_pets,
    kill,
    kinds,
    orchestrator,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def pets(tmp_path: Path) -> str:
    """A folder with two classes of two images each, by name."""
    return folder_of_pets(tmp_path)


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


async def test_an_equal_run_of_another_user_is_taken_up(pets: str) -> None:
    """Two who want the same get one run, which stays that of the first."""
    runs = orchestrator(MemoryStore())
    first, _ = await create(runs, pets)
    again, resumed = await create(runs, pets, user="bob")  # and by chance the same request id
    assert resumed
    assert again is first
    assert again.user == "ann"
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


async def test_a_run_without_any_extractor_is_refused_at_once(pets: str) -> None:
    """When no extractor asked for can be had, the fix is told before anything is started."""

    class Barren(Catalog):
        def availability(self, name: str) -> str:
            """Say what is missing."""
            return f"{name} needs its weights: put them there."

        def fetchable(self, name: str) -> bool:
            """Know nobody to ask."""
            return not name

    store = MemoryStore()
    runs = orchestrator(store, catalog=Barren())
    with pytest.raises(InvalidInput, match="hog needs its weights: put them there"):
        await create(runs, pets)
    assert store.objects == {}


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
        found, token, _ = await runs.list(limit=1, before=token)
        listed += [status.run_id for status in found]
        if not token:
            break
    assert listed == ["01D", "01C", "01B", "01A"]
    await runs.drain()
