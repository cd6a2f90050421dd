from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime

from offshelf.datasets.cards import DatasetCard
from offshelf.services.orchestrator.holdings.card_index import CardIndex
from offshelf.store import keys
from tests.unit.fakes import MemoryStore
from tests.unit.test_uploads import Threads

DIGEST = "a" * 64
READ_BY_RUN = DatasetCard(
    digest=DIGEST,
    name="pets",
    source="folder:/data/pets",
    images=2,
    bytes=3,
    classes=("cat", "dog"),
    created_at=datetime(2026, 1, 1, tzinfo=UTC),
    user="owner",
)


class SlowStore(MemoryStore):
    """Hands out what it has read when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.read = threading.Event()
        self.may_answer = threading.Event()

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object."""
        data = super().get(key, offset=offset, length=length)
        self.read.set()
        self.may_answer.wait(10)  # or a failure of this test hangs
        return data


async def test_an_upload_counts_that_ends_while_the_cards_are_read() -> None:
    """Where somebody uploads what a run's card names, it is theirs, though the old card was just being read."""
    store = SlowStore()
    store.put(keys.dataset_card(DIGEST), READ_BY_RUN.to_json())
    index = CardIndex(store, Threads())
    refreshing = asyncio.create_task(index.refresh())
    await asyncio.to_thread(store.read.wait)
    uploaded = replace(READ_BY_RUN, source=f"store:{DIGEST}", user="ada")
    index.put(uploaded)
    store.may_answer.set()
    await refreshing
    assert index.newest_first() == [uploaded]
    assert index.uploaded_by("ada") == (2, 3)


async def test_a_dataset_whose_card_was_damaged_can_be_made_anew() -> None:
    """After a dataset with a damaged card is deleted, here or by others, the same dataset of a later run is listed."""
    store = MemoryStore()
    index = CardIndex(store, Threads())
    key = keys.dataset_card(DIGEST)

    async def found(card: bytes) -> list[DatasetCard]:
        store.put(key, card)
        await index.refresh()
        return index.newest_first()

    assert await found(b"{") == []
    store.delete(key)
    await index.refresh()
    assert await found(READ_BY_RUN.to_json()) == [READ_BY_RUN]
    index.discard(DIGEST)
    assert await found(b"{") == []
    index.discard(DIGEST)
    assert await found(READ_BY_RUN.to_json()) == [READ_BY_RUN]
