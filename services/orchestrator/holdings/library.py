"""The datasets of an installation: made, listed, deleted."""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from offshelf import datasets
from offshelf.datasets.cards import DatasetCard, read_card
from offshelf.digests import is_digest
from offshelf.errors import Conflict, DataLoss, InvalidInput, NotFound
from offshelf.services.orchestrator.holdings.admission import Admission
from offshelf.services.orchestrator.holdings.draft import Draft
from offshelf.store import keys
from offshelf.store.patience import waits_end_with

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Sequence

    from offshelf.datasets import Dataset, Item
    from offshelf.services.orchestrator.holdings.card_index import CardIndex
    from offshelf.services.orchestrator.holdings.hearing import Hearing
    from offshelf.services.orchestrator.holdings.quotas import Quotas
    from offshelf.services.orchestrator.holdings.references import Removal
    from offshelf.services.orchestrator.holdings.shelf import ImageShelf, Threads
    from offshelf.store import ObjectStore

T = TypeVar("T")

MOST_ASKED = 100_000
"""Images that one question may name."""

MOST_QUESTIONS = 32
MOST_QUESTIONS_OF_USER = 8
"""About images, at a time; a client asks over four connections."""

MOST_DRAFTS = 4
MOST_DRAFTS_OF_USER = 2
"""Datasets that are being described at a time, overall and by one user: each takes up to some hundred MB."""

_PAGE = 50
_LARGEST_PAGE = 1000
_LARGEST_PAGE_CHARACTERS = 4 * 1024 * 1024
"""Of the names of classes: an answer has to fit into a message."""
_TOKEN = re.compile(r"(\d{1,20})-([0-9a-f]{64})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
        self._questions = Admission(
            most=MOST_QUESTIONS, most_of_user=MOST_QUESTIONS_OF_USER, what="questions about images"
        )
        self._changing = asyncio.Lock()
        """Held while a dataset is made and while anything is deleted: what was just found must still be there when the
        manifest is written."""
        self._changes: set[asyncio.Task[Any]] = set()
        self._removing = False
        self._undisturbed = asyncio.Event()
        self._undisturbed.set()
        self._deleting = ""

    @property
    def deleting(self) -> str:
        """Digest of the dataset that is being deleted, on which no run may begin; empty if none is."""
        return self._deleting

    async def undisturbed(self) -> None:
        """Wait until nothing is being deleted. Until its caller next awaits something, no deletion begins either."""
        while self._removing:
            await self._undisturbed.wait()

    async def missing(self, user: str, digests: Collection[str]) -> list[str]:
        """Find out which images the store does not have.

        The answer may be old at once, so `create` looks again.

        Raises
        ------
        InvalidInput
            For something that is no digest, or too many of them.
        ResourceExhausted
            If the user, or all together, ask too much at a time.
        """
        check_number_asked(len(digests))
        if not all(map(is_digest, digests)):
            raise InvalidInput("An image is named by its SHA-256, which has 32 bytes.")
        with self._questions.admitted(user):
            found = await self._shelf.sizes(digests)
        return [digest for digest in dict.fromkeys(digests) if digest not in found]

    async def create(self, user: str, messages: AsyncIterator[str | Sequence[Item]]) -> DatasetCard:
        """Make a dataset of uploaded images.

        Parameters
        ----------
        user
            Whose it is.
        messages
            The dataset's name, then its items in any number of messages.

        Raises
        ------
        InvalidInput
            If what is sent is no dataset.
        Conflict
            If images are missing.
        ResourceExhausted
            If the user's quota is used up, the store is full, or too many datasets are being made.
        DeadlineExceeded
            If nothing comes for too long.
        Unavailable
            If the store cannot be reached, or this server is stopping.
        """
        with self._drafts.admitted(user):
            draft = Draft()
            async with aclosing(self._hearing.of(messages, bool)) as heard:
                async for message in heard:
                    if isinstance(message, str):
                        draft.begin(message)
                    else:
                        draft.add(message)
            dataset = await self._threads.run(draft.finish)
            if self._quotas.limited:
                await self._cards.refresh()
            return await self._alone(self._create(user, draft.name, dataset))

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
        before = _TOKEN.fullmatch(token)
        if token and before is None:
            raise InvalidInput("The page token is none that this service gave.")
        await self._cards.refresh()
        cards = self._cards.newest_first()
        if before is not None:
            cards = [card for card in cards if _place(card) < (int(before[1]), before[2])]
        page = _fitting(cards[: min(limit or _PAGE, _LARGEST_PAGE)])
        more = len(cards) > len(page)
        return page, "{}-{}".format(*_place(page[-1])) if more else ""

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
        removal = await self._remove(remove, dry_run=dry_run, deleting=digest)
        if not dry_run:
            self._cards.discard(digest)
        return removal

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
        removal = await self._remove(remove, dry_run=dry_run)
        if not dry_run:
            self._quotas.forget()
        return removal

    async def _create(self, user: str, name: str, dataset: Dataset) -> DatasetCard:
        sizes = await self._shelf.sizes({item.digest for item in dataset.items})
        missing = {item.digest for item in dataset.items} - sizes.keys()
        if missing:
            raise Conflict(f"{len(missing)} of the dataset's images are not in the store: upload them, then try again.")
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

    async def _remove(self, remove: Callable[..., Removal], *, dry_run: bool, deleting: str = "") -> Removal:
        if self._removing:
            raise Conflict("Something is being deleted already: try again when that has ended.")
        if dry_run:
            return await self._threads.run(partial(_quietly, remove), in_use=self._in_use())
        self._removing, self._deleting = True, deleting
        self._undisturbed.clear()
        return await self._alone(self._carry_out(remove))

    async def _carry_out(self, remove: Callable[..., Removal]) -> Removal:
        try:
            return await self._threads.run(partial(_quietly, remove), in_use=self._in_use())
        finally:
            self._removing, self._deleting = False, ""
            self._undisturbed.set()

    async def _alone(self, change: Coroutine[Any, Any, T]) -> T:
        """Carry out a change: one at a time, and to its end, also if its caller leaves meanwhile."""

        async def alone() -> T:
            async with self._changing:
                return await change

        task = asyncio.create_task(alone())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)


def _quietly(function: Callable[..., T], /, *args: Any, stop: threading.Event, **kwargs: Any) -> T:
    """Call what does not look at `stop` itself."""
    with waits_end_with(stop):
        return function(*args, **kwargs)


def check_number_asked(images: int) -> None:
    """Refuse a question about too many images. Raises `InvalidInput`."""
    if images > MOST_ASKED:
        raise InvalidInput(f"{images} images are asked for at once: ask for at most {MOST_ASKED}.")


def _fitting(cards: list[DatasetCard]) -> list[DatasetCard]:
    """Take as many cards as fit into an answer, but one at least."""
    characters = 0
    for number, card in enumerate(cards):
        characters += sum(map(len, card.classes))
        if number and characters > _LARGEST_PAGE_CHARACTERS:
            return cards[:number]
    return cards


def _place(card: DatasetCard) -> tuple[int, str]:
    """Where a card stands in the list of all: by time, to the microsecond, then by digest."""
    since = card.created_at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds, card.digest


def _no_dataset(digest: str) -> NotFound:
    return NotFound(f"There is no dataset {digest!r}. `offshelf datasets list` shows all.")
