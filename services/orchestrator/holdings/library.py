"""The datasets of an installation: made, listed, deleted."""

from __future__ import annotations

from contextlib import ExitStack, aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from offshelf import datasets
from offshelf.datasets.cards import DatasetCard, read_card
from offshelf.digests import is_digest
from offshelf.errors import Conflict, DataLoss, NotFound
from offshelf.services.orchestrator.holdings.admission import Admission
from offshelf.services.orchestrator.holdings.changes import Changes
from offshelf.services.orchestrator.holdings.draft import Draft
from offshelf.services.orchestrator.holdings.paging import Page
from offshelf.store import keys
from offshelf.store.patience import waits_end_with

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Callable, Collection, Sequence

    from offshelf.datasets import Dataset, Item
    from offshelf.services.orchestrator.holdings.card_index import CardIndex
    from offshelf.services.orchestrator.holdings.hearing import Hearing
    from offshelf.services.orchestrator.holdings.quotas import Quotas
    from offshelf.services.orchestrator.holdings.references import Removal
    from offshelf.services.orchestrator.holdings.shelf import ImageShelf, Threads
    from offshelf.store import ObjectStore

T = TypeVar("T")

MOST_DRAFTS = 4
MOST_DRAFTS_OF_USER = 2
"""Datasets that are being described at a time, overall and by one user: each takes up to some hundred MB."""

LEAST_ITEMS = 1000
"""Of a description that goes on; so many have to come in the time that a client may be silent."""


class Deletes(Protocol):
    """Deletes a dataset, or says what would go."""

    def __call__(self, store: ObjectStore, digest: str, *, dry_run: bool, in_use: frozenset[str]) -> Removal:
        """Delete; blocks."""
        ...


class Collects(Protocol):
    """Collects garbage, or says what would go."""

    def __call__(self, store: ObjectStore, *, days: int, dry_run: bool, in_use: frozenset[str]) -> Removal:
        """Collect; blocks."""
        ...


class Library:
    """The one owner of datasets.

    Parameters
    ----------
    delete, collect
        What deletes a dataset, and what collects garbage.
    in_use
        Says which datasets unfinished runs use, by digest.
    hearing
        Says how long a client may be silent.
    changes
        Says who waits for whom; shared with whoever else brings what may be deleted.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        threads: Threads,
        shelf: ImageShelf,
        cards: CardIndex,
        quotas: Quotas,
        delete: Deletes,
        collect: Collects,
        in_use: Callable[[], frozenset[str]],
        hearing: Hearing,
        changes: Changes | None = None,
    ) -> None:
        self._store = store
        self._threads = threads
        self._shelf = shelf
        self._cards = cards
        self._quotas = quotas
        self._delete = delete
        self._collect = collect
        self._in_use = in_use
        self._hearing = hearing
        self._drafts = Admission(most=MOST_DRAFTS, most_of_user=MOST_DRAFTS_OF_USER, what="descriptions of datasets")
        self._changes = changes or Changes()

    @property
    def deleting(self) -> str:
        """Digest of the dataset that is being deleted, on which no run may begin; empty if none is."""
        return self._changes.dataset_deleted

    async def undisturbed(self) -> None:
        """Wait until nothing is being deleted. Until its caller next awaits something, no deletion begins either."""
        await self._changes.undisturbed()

    async def missing(self, user: str, digests: Collection[str]) -> list[str]:
        """Find out which images the store does not have; see `ImageShelf.missing`.

        The answer may be old at once, so `create` looks again.
        """
        return await self._shelf.missing(user, digests)

    async def create(
        self,
        user: str,
        messages: AsyncIterator[str | Sequence[Item]],
        *,
        on_digest: Callable[[str], None] = lambda _: None,
    ) -> DatasetCard:
        """Make a dataset of uploaded images.

        Parameters
        ----------
        user
            Whose it is.
        messages
            The dataset's name, then its items in any number of messages.
        on_digest
            Called with the dataset's digest once it is known, whatever becomes of the dataset.

        Raises
        ------
        InvalidInput
            If what is sent is no dataset.
        Conflict
            If images are missing.
        ResourceExhausted
            If the user's quota is used up, the store is full, or too many datasets are being made.
        DeadlineExceeded
            If nothing comes for too long, or too little.
        Unavailable
            If the store cannot be reached, or this server is stopping.
        """
        with ExitStack() as place:
            place.enter_context(self._drafts.admitted(user))
            draft = Draft()
            async with aclosing(self._hearing.of(messages, _items, least=lambda: LEAST_ITEMS)) as heard:
                async for message in heard:
                    if isinstance(message, str):
                        draft.begin(message)
                    else:
                        draft.add(message)
            dataset = await self._threads.run(draft.finish)
            on_digest(dataset.digest)
            creation = self._create(user, draft.name, dataset, place=place.pop_all())
            return await self._changes.to_its_end(creation, name=f"create dataset {dataset.digest}")

    async def get(self, digest: str) -> DatasetCard:
        """Find a dataset. Raises `NotFound`, and `DataLoss` if its card cannot be read."""
        if not is_digest(digest):
            raise _no_dataset(digest)
        try:
            return await self._threads.run(partial(_quietly, read_card), self._store, digest)
        except NotFound as error:
            raise _no_dataset(digest) from error

    async def list(self, *, limit: int, token: str) -> tuple[list[DatasetCard], str]:
        """Return datasets, newest first, and from where to go on; `token` is what the last call returned, or empty.

        Raises
        ------
        InvalidInput
            For a token that is none.
        """
        page = Page(limit=limit, token=token)
        await self._cards.refresh()
        return page.of(self._cards.newest_first())

    async def delete(self, digest: str, *, dry_run: bool) -> Removal:
        """Delete a dataset with all that nothing else needs.

        Raises
        ------
        NotFound
            If there is none.
        Conflict
            If a run uses it, or something else is being deleted.
        """
        if not is_digest(digest):
            raise _no_dataset(digest)
        remove = partial(self._delete, self._store, digest, dry_run=dry_run)
        if dry_run:
            return await self._plan(remove)
        removal = self._remove(remove, partial(self._cards.discard, digest), dataset=digest)
        return await self._changes.to_its_end(removal, name=f"delete dataset {digest}")

    async def collect_garbage(self, *, days: int, dry_run: bool) -> Removal:
        """Delete what nothing needs any more and is older than some days; 0 means seven.

        Raises
        ------
        InvalidInput
            For less than seven days.
        Conflict
            If something else is being deleted.
        """
        remove = partial(self._collect, self._store, days=days, dry_run=dry_run)
        if dry_run:
            return await self._plan(remove)
        removal = self._remove(remove, self._quotas.forget)
        return await self._changes.to_its_end(removal, name="collect garbage")

    async def _create(self, user: str, name: str, dataset: Dataset, *, place: ExitStack) -> DatasetCard:
        # The description stays in memory for as long as this goes on, so its place is kept though its caller may leave.
        with place:
            if self._quotas.limited:
                await self._cards.refresh()
            async with self._changes.making():
                sizes = await self._shelf.sizes({item.digest for item in dataset.items})
                missing = {item.digest for item in dataset.items} - sizes.keys()
                if missing:
                    raise Conflict(
                        f"{len(missing)} of the dataset's images are not in the store: upload them, then try again."
                    )
                async with self._changes.writing(user, dataset.digest):
                    return await self._write(user, name, dataset, sizes)

    async def _write(self, user: str, name: str, dataset: Dataset, sizes: dict[str, int]) -> DatasetCard:
        before = await self._found(dataset.digest)
        if before is not None and before.source.startswith("store:"):
            # Its manifest may be gone, if a deletion was cut off.
            await self._threads.run(partial(_quietly, datasets.write_dataset), self._store, dataset)
            return before
        card = DatasetCard(
            digest=dataset.digest,
            name=name,
            source=f"store:{dataset.digest}",
            images=len(dataset.items),
            bytes=sum(sizes[item.digest] for item in dataset.items),
            classes=dataset.classes,
            created_at=datetime.now(UTC),
            user=user,
        )
        self._quotas.check_dataset(user, card.images, card.bytes, sizes)
        await self._threads.run(partial(_quietly, datasets.write_dataset), self._store, dataset)
        # Not `write_card`: where a run has read these very images from elsewhere, its card says so. From now on they
        # are here, and are somebody's.
        await self._threads.run(partial(_quietly, self._store.put), keys.dataset_card(card.digest), card.to_json())
        self._quotas.name(sizes)
        self._cards.put(card)
        return card

    async def _found(self, digest: str) -> DatasetCard | None:
        try:
            return await self.get(digest)
        except (NotFound, DataLoss):
            return None

    async def _plan(self, remove: Callable[..., Removal]) -> Removal:
        self._changes.check_nothing_is_deleted()
        return await self._threads.run(partial(_quietly, remove), in_use=self._in_use())

    async def _remove(self, remove: Callable[..., Removal], note: Callable[[], None], *, dataset: str = "") -> Removal:
        async with self._changes.deleting(dataset):
            removal = await self._threads.run(partial(_quietly, remove), in_use=self._in_use())
            note()
            return removal


def _items(message: str | Sequence[Item]) -> int:
    """Count the items that a message of a description brings; the header brings none."""
    return 0 if isinstance(message, str) else len(message)


def _quietly(function: Callable[..., T], /, *args: Any, stop: threading.Event, **kwargs: Any) -> T:
    """Call what does not look at `stop` itself."""
    with waits_end_with(stop):
        return function(*args, **kwargs)


def _no_dataset(digest: str) -> NotFound:
    return NotFound(f"There is no dataset {digest!r}. `offshelf datasets list` shows all.")
