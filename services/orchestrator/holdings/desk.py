"""Where users bring images and networks, and take datasets away: the parts of this room, put together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.services.orchestrator.holdings.card_index import CardIndex
from offshelf.services.orchestrator.holdings.changes import Changes
from offshelf.services.orchestrator.holdings.deletion import delete_dataset
from offshelf.services.orchestrator.holdings.fetching import Fetcher
from offshelf.services.orchestrator.holdings.garbage import collect_garbage
from offshelf.services.orchestrator.holdings.hearing import IDLE_SECONDS, Hearing
from offshelf.services.orchestrator.holdings.library import Library
from offshelf.services.orchestrator.holdings.networks import Networks
from offshelf.services.orchestrator.holdings.quotas import Quotas
from offshelf.services.orchestrator.holdings.shelf import ImageShelf
from offshelf.services.orchestrator.holdings.uploads import Uploads

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.services.orchestrator.holdings.fetching import Fetches
    from offshelf.services.orchestrator.holdings.library import Collects, Deletes
    from offshelf.services.orchestrator.holdings.shelf import Threads
    from offshelf.store import ObjectStore

THREADS = 16
"""Threads that suit `threads`: they mostly wait for the store."""

QUEUE = 1024
"""Work that may wait for one of them. What is admitted at a time never needs as much."""


class Desk:
    """The library, the uploads and the networks of one store.

    Parameters
    ----------
    threads
        For everything that blocks.
    in_use, delete, collect
        As `Library` says.
    quota_images, quota_bytes
        Of one user; 0 for any number.
    fetch
        Fetches files for users; by default none.
    idle_seconds
        How long a client may send nothing.
    """

    def __init__(
        self,
        store: ObjectStore,
        threads: Threads,
        *,
        in_use: Callable[[], frozenset[str]],
        delete: Deletes = delete_dataset,
        collect: Collects = collect_garbage,
        quota_images: int = 0,
        quota_bytes: int = 0,
        fetch: Fetches | None = None,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        cards = CardIndex(store, threads)
        quotas = Quotas(cards, most_images=quota_images, most_bytes=quota_bytes)
        self._hearing = Hearing(idle_seconds)
        changes = Changes()
        self.library = Library(
            store=store,
            threads=threads,
            shelf=ImageShelf(store, threads),
            cards=cards,
            quotas=quotas,
            delete=delete,
            collect=collect,
            in_use=in_use,
            hearing=self._hearing,
            changes=changes,
        )
        self.uploads = Uploads(store=store, threads=threads, quotas=quotas, hearing=self._hearing)
        self.networks = Networks(
            store=store,
            threads=threads,
            quotas=quotas,
            hearing=self._hearing,
            changes=changes,
            fetch=fetch or Fetcher(buckets=(), hosts=(), beside=store.url),
        )

    def close(self) -> None:
        """Take nothing more in: streams that are being sent end with `Unavailable`, and what came is kept."""
        self._hearing.close()
