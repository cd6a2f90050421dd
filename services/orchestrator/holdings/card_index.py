"""The cards of all datasets, in memory: lists and quotas ask for them often, and a store may be slow."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from offshelf.datasets.cards import DatasetCard, read_card
from offshelf.errors import DataLoss, NotFound
from offshelf.services.orchestrator.concurrency import all_of
from offshelf.store import keys
from offshelf.store.patience import waits_end_with

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from offshelf.services.orchestrator.holdings.shelf import Threads
    from offshelf.store import ObjectStore

_log = logging.getLogger(__name__)

_READERS = 8


class CardIndex:
    """Every dataset's card. Runs write cards too, so the names are listed anew each time; a card is read once."""

    def __init__(self, store: ObjectStore, threads: Threads) -> None:
        self._store = store
        self._threads = threads
        self._cards: dict[str, DatasetCard] = {}
        self._unusable: set[str] = set()
        self._totals: dict[str, tuple[int, int]] | None = None
        self._refreshing = asyncio.Lock()

    async def refresh(self) -> None:
        """Read the cards that are new, and forget those that are gone."""
        async with self._refreshing:
            known = self._cards.keys() | self._unusable  # what is put in from here on may be missing in the answer
            present = await self._threads.run(self._list)
            for digest in known - present:
                self.discard(digest)
            new = sorted(present - self._cards.keys() - self._unusable)
            found = await all_of(
                self._threads.run(self._read, new[first::_READERS]) for first in range(min(_READERS, len(new)))
            )
            for card in (card for cards in found for card in cards):
                if card.digest not in self._cards:  # else it was put in meanwhile, and what was read may be older
                    self.put(card)

    def newest_first(self) -> list[DatasetCard]:
        """List the cards."""
        return sorted(self._cards.values(), key=lambda card: (card.created_at, card.digest), reverse=True)

    def uploaded_by(self, user: str) -> tuple[int, int]:
        """Count the images, and their bytes, of the datasets that a user has uploaded."""
        if self._totals is None:
            self._totals = {}
            for card in self._cards.values():
                if card.source.startswith("store:"):
                    images, size = self._totals.get(card.user, (0, 0))
                    self._totals[card.user] = (images + card.images, size + card.bytes)
        return self._totals.get(user, (0, 0))

    def put(self, card: DatasetCard) -> None:
        """Take in a card that has just been written."""
        self._cards[card.digest] = card
        self._totals = None

    def discard(self, digest: str) -> None:
        """Forget a card that has just been deleted."""
        self._cards.pop(digest, None)
        self._unusable.discard(digest)
        self._totals = None

    def _list(self, *, stop: threading.Event) -> set[str]:
        with waits_end_with(stop):
            listed = [info.key for info in self._store.list(keys.DATASETS)]
        digests = ((key, key.removeprefix(keys.DATASETS).partition(".")[0]) for key in listed)
        return {digest for key, digest in digests if key == keys.dataset_card(digest)}

    def _read(self, digests: Sequence[str], *, stop: threading.Event) -> list[DatasetCard]:
        cards = []
        for digest in digests:
            if stop.is_set():
                break
            try:
                with waits_end_with(stop):
                    cards.append(read_card(self._store, digest))
            except NotFound:
                continue  # deleted since it was listed
            except DataLoss as error:
                # One damaged card must not keep all others from being listed.
                _log.error("card cannot be read", extra={"dataset": digest, "reason": error.message})
                self._unusable.add(digest)
        return cards
