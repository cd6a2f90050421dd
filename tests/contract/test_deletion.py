"""Deleting and collecting in real stores: a directory, and S3."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from offshelf.services.orchestrator.holdings.deletion import delete_dataset
from offshelf.services.orchestrator.holdings.garbage import collect_garbage
from offshelf.services.orchestrator.holdings.references import Removal
from offshelf.store import keys
from tests.unit.workshop import AgedStore, Workshop, dataset_of, load

if TYPE_CHECKING:
    from offshelf.store import ObjectStore

OURS = dataset_of("ours", range(8))
THEIRS = dataset_of("theirs", range(4, 12))


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    """What runs over two datasets leave."""
    memory = AgedStore()
    workshop = Workshop(memory)
    for run_id, dataset in (("OURS", OURS), ("THEIRS", THEIRS)):
        workshop.upload(dataset)
        workshop.run(run_id, dataset, extractors=("hog",))
    return memory.objects


@pytest.fixture
def filled(store: ObjectStore, made: dict[str, bytes]) -> ObjectStore:
    """A store with all that."""
    for key, data in made.items():
        store.put(key, data)
    return store


def test_dataset_is_deleted(filled: ObjectStore, made: dict[str, bytes]) -> None:
    """In a directory and in a bucket, what goes and what stays is the same."""
    memory = AgedStore(made)
    expected = delete_dataset(memory, OURS.digest, dry_run=False, in_use=frozenset())
    assert expected.segments_rewritten
    assert delete_dataset(filled, OURS.digest, dry_run=True, in_use=frozenset()) == expected
    assert delete_dataset(filled, OURS.digest, dry_run=False, in_use=frozenset()) == expected
    left = {info.key: filled.get(info.key) for info in filled.list("") if info.key != keys.FORMAT}
    assert left == memory.objects
    assert load(filled, THEIRS, "hog").X.tobytes() == load(AgedStore(made), THEIRS, "hog").X.tobytes()


def test_nothing_new_is_garbage(filled: ObjectStore) -> None:
    """By the store's own clock, what has just been written is young, whether it is needed or not."""
    for key in (keys.dataset(OURS.digest), keys.dataset_card(OURS.digest)):
        filled.delete(key)
    assert collect_garbage(filled, days=0, dry_run=False, in_use=frozenset()) == Removal()
