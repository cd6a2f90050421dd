from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from offshelf.datasets import Dataset, Item, write_dataset
from offshelf.datasets.cards import DatasetCard, read_card, write_card
from offshelf.digests import digest_of_bytes
from offshelf.errors import (
    Conflict,
    InvalidDataset,
    NotFound,
    QuotaExceeded,
    ResourceExhausted,
    StoreUnavailable,
    Unavailable,
)
from offshelf.services.orchestrator.holdings.desk import Desk
from offshelf.services.orchestrator.holdings.draft import MOST_CLASS_BYTES, MOST_TEXT_BYTES, Draft
from offshelf.services.orchestrator.holdings.incoming import Piece
from offshelf.services.orchestrator.holdings.references import Removal
from offshelf.store import keys
from tests.unit.fakes import MemoryStore
from tests.unit.test_uploads import Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from offshelf.services.orchestrator.holdings.library import Library
    from offshelf.store import ObjectStore


class ReadingStore(MemoryStore):
    """Counts the cards that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.cards_read = 0

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object."""
        self.cards_read += key.endswith(".card.json")
        return super().get(key, offset=offset, length=length)


class Removing:
    """Deletes nothing, and takes as long as the test wants."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.calls: list[tuple[object, ...]] = []
        self.failure: Exception | None = None

    def delete(self, store: ObjectStore, digest: str, *, dry_run: bool, in_use: frozenset[str]) -> Removal:
        """Delete a dataset's manifest and card."""
        self.calls.append((digest, dry_run, in_use))
        if not dry_run:
            self.begun.set()
            self.may_end.wait(10)  # or a failure of a test hangs
            if self.failure is not None:
                raise self.failure
            store.delete(keys.dataset_card(digest))
            store.delete(keys.dataset(digest))
        return Removal(datasets=1)

    def collect(self, store: ObjectStore, *, days: int, dry_run: bool, in_use: frozenset[str]) -> Removal:
        """Collect nothing."""
        del store
        self.calls.append((days, dry_run, in_use))
        if not dry_run:
            self.begun.set()
            self.may_end.wait(10)
        return Removal()


@pytest.fixture
def store() -> ReadingStore:
    """An empty store."""
    return ReadingStore()


@pytest.fixture
def removing() -> Removing:
    """What deletes."""
    return Removing()


@pytest.fixture
def desk(store: ReadingStore, removing: Removing) -> Desk:
    """The library over that store, with a quota of five images."""
    return Desk(
        store,
        Threads(),
        in_use=lambda: frozenset({"used"}),
        delete=removing.delete,
        collect=removing.collect,
        quota_images=5,
    )


def items(*contents: bytes) -> list[Item]:
    """Make images of alternating classes, with these contents."""
    return [
        Item(f"{('cat', 'dog')[number % 2]}/{number}.jpg", ("cat", "dog")[number % 2], "", digest_of_bytes(content))
        for number, content in enumerate(contents)
    ]


async def described(*messages: str | Sequence[Item]) -> AsyncIterator[str | Sequence[Item]]:
    """Send a description."""
    for message in messages:
        yield message


async def uploaded(desk: Desk, *contents: bytes, user: str = "ada") -> None:
    """Upload images."""

    async def send() -> AsyncIterator[Sequence[Piece]]:
        yield [Piece(digest_of_bytes(content), len(content), 0, content) for content in contents]

    await desk.uploads.receive(user, send())


def card_of(dataset: Dataset, *, source: str = "folder:/data/pets", age: int = 0) -> DatasetCard:
    """Make the card that a run writes."""
    return DatasetCard(
        digest=dataset.digest,
        name="pets",
        source=source,
        images=len(dataset.items),
        bytes=0,
        classes=dataset.classes,
        created_at=datetime(2026, 1, 1, tzinfo=UTC) - timedelta(seconds=age),
        user="owner",
    )


async def create(library: Library, *contents: bytes, user: str = "ada") -> DatasetCard:
    """Make a dataset of images that are there."""
    return await library.create(user, described("pets", items(*contents)))


async def test_a_dataset_is_made_once(desk: Desk, store: ReadingStore) -> None:
    """The same images give the same dataset, which keeps its first name and owner."""
    await uploaded(desk, b"1", b"22")
    made = await create(desk.library, b"1", b"22")
    assert (made.images, made.bytes, made.user, made.source) == (2, 3, "ada", f"store:{made.digest}")
    assert await desk.library.create("bob", described("others", items(b"1", b"22"))) == made
    assert read_card(store, made.digest) == made


async def test_a_dataset_that_a_run_has_read_becomes_uploaded(desk: Desk, store: ReadingStore) -> None:
    """Where the server knows the same images from a folder, they are the uploader's from now on."""
    dataset = Dataset.of(items(b"1", b"2"))
    write_dataset(store, dataset)
    write_card(store, card_of(dataset))
    await uploaded(desk, b"1", b"2")
    made = await create(desk.library, b"1", b"2")
    assert made.digest == dataset.digest
    assert (made.user, made.source) == ("ada", f"store:{dataset.digest}")
    assert await desk.library.get(dataset.digest) == made


async def test_what_was_deleted_in_part_is_whole_again(desk: Desk, store: ReadingStore) -> None:
    """Making a dataset again whose deletion was cut off, or whose card is damaged, makes all of it."""
    await uploaded(desk, b"1", b"2")
    made = await create(desk.library, b"1", b"2")
    store.delete(keys.dataset(made.digest))
    await create(desk.library, b"1", b"2")
    assert store.stat(keys.dataset(made.digest)) is not None
    store.put(keys.dataset_card(made.digest), b"{")
    assert (await create(desk.library, b"1", b"2")).digest == made.digest
    assert read_card(store, made.digest).user == "ada"


async def test_a_thousand_datasets_are_listed_by_their_cards(desk: Desk, store: ReadingStore) -> None:
    """A list reads each card once in the life of the server, also those that runs have written meanwhile."""
    library = desk.library
    dataset = Dataset.of(items(b"1", b"2"))
    cards = [replace(card_of(dataset, age=n % 7), digest=digest_of_bytes(b"%d" % n)) for n in range(1000)]
    for card in cards:
        store.put(keys.dataset_card(card.digest), card.to_json())
    found: list[DatasetCard] = []
    token = ""
    while token or not found:
        page, token = await library.list(limit=300, token=token)
        found += page
    assert len({card.digest for card in found}) == 1000
    assert [card.created_at for card in found] == sorted((card.created_at for card in found), reverse=True)
    assert store.cards_read == 1000
    new = replace(cards[0], digest="a" * 64, created_at=datetime(2027, 1, 1, tzinfo=UTC))
    store.put(keys.dataset_card(new.digest), new.to_json())
    store.put(keys.dataset_card("b" * 64), b"damaged")
    store.delete(keys.dataset_card(cards[0].digest))
    page, _ = await library.list(limit=1000, token="")
    assert page[0] == new
    assert len(page) == 1000
    assert store.cards_read == 1002
    await library.list(limit=1, token="")
    assert store.cards_read == 1002


async def test_a_quota_counts_datasets_and_what_none_names(desk: Desk) -> None:
    """Images count once they are sent, and as part of a dataset then; using images of others counts too."""
    await uploaded(desk, b"1", b"2", b"3")
    await create(desk.library, b"1", b"2", b"3")
    await uploaded(desk, b"4", b"5")
    with pytest.raises(QuotaExceeded, match="5 of 5 images are used"):
        await uploaded(desk, b"6")
    await uploaded(desk, b"6", b"7", user="bob")
    with pytest.raises(QuotaExceeded, match="5 of 5 images are used, and this needs 2 more"):
        await create(desk.library, b"6", b"7")
    assert (await create(desk.library, b"4", b"5")).images == 2
    await create(desk.library, b"6", b"7", user="bob")
    with pytest.raises(QuotaExceeded, match="needs 4 more"):
        await create(desk.library, b"1", b"2", b"6", b"7", user="bob")


async def test_deleting_frees_a_quota(desk: Desk, removing: Removing) -> None:
    """What is deleted counts no longer, and neither does what was collected as garbage."""
    removing.may_end.set()
    await uploaded(desk, b"1", b"2", b"3", b"4", b"5")
    made = await create(desk.library, b"1", b"2", b"3", b"4", b"5")
    await desk.library.delete(made.digest, dry_run=False)
    await uploaded(desk, b"6", b"7", b"8", b"9", b"10")
    with pytest.raises(QuotaExceeded):
        await uploaded(desk, b"11")
    await desk.library.collect_garbage(days=0, dry_run=False)
    await uploaded(desk, b"11")


async def test_no_dataset_is_made_while_another_is_deleted(desk: Desk, removing: Removing) -> None:
    """Making a dataset waits for a deletion; a second deletion is refused meanwhile; dry runs disturb nobody."""
    library = desk.library
    await uploaded(desk, b"1", b"2", b"3")
    made = await create(library, b"1", b"2")
    deleting = asyncio.create_task(library.delete(made.digest, dry_run=False))
    await asyncio.to_thread(removing.begun.wait)
    assert library.deleting == made.digest
    making = asyncio.create_task(create(library, b"1", b"3"))
    for refused in (
        library.delete(made.digest, dry_run=True),
        library.delete(made.digest, dry_run=False),
        library.collect_garbage(days=7, dry_run=False),
    ):
        with pytest.raises(Conflict, match="being deleted already"):
            await refused
    # Whoever asked for it may leave: it goes on to its end.
    deleting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deleting
    assert not making.done()
    removing.may_end.set()
    assert (await making).images == 2
    assert library.deleting == ""
    with pytest.raises(NotFound):
        await library.get(made.digest)
    assert await library.delete("f" * 64, dry_run=True) == Removal(datasets=1)
    assert removing.calls == [
        (made.digest, False, frozenset({"used"})),
        ("f" * 64, True, frozenset({"used"})),
    ]


async def test_a_slow_store_holds_up_nobody_else() -> None:
    """While the store takes its time with one user's dataset, others make theirs; deletions wait for all of them."""

    class SlowStore(ReadingStore):
        def __init__(self) -> None:
            super().__init__()
            self.slow = ""
            self.asked = threading.Event()
            self.may_answer = threading.Event()

        def put(self, key: str, data: bytes) -> None:
            if key == self.slow:
                self.asked.set()
                self.may_answer.wait(10)  # or a failure of this test hangs
            super().put(key, data)

    store, removing = SlowStore(), Removing()
    desk = Desk(store, Threads(), in_use=frozenset, delete=removing.delete, collect=removing.collect, quota_images=5)
    library = desk.library
    await uploaded(desk, b"1", b"2", b"3", b"4", b"5")
    old = await create(library, b"1", b"2", b"3", user="eve")
    slow = Dataset.of(items(b"1", b"2"))
    store.slow = keys.dataset(slow.digest)
    making = asyncio.create_task(create(library, b"1", b"2", user="ada"))
    await asyncio.to_thread(store.asked.wait)
    assert (await create(library, b"2", b"3", user="bob")).user == "bob"
    same = asyncio.create_task(create(library, b"1", b"2", user="bob"))
    too_much = asyncio.create_task(create(library, b"1", b"3", b"4", b"5", user="ada"))
    removing.may_end.set()
    deleting = asyncio.create_task(library.delete(old.digest, dry_run=False))
    await asyncio.wait({deleting}, timeout=0.05)
    assert library.deleting == old.digest
    assert not removing.begun.is_set()
    store.may_answer.set()
    assert (await making).user == (await same).user == "ada"  # who was first
    with pytest.raises(QuotaExceeded, match="2 of 5 images are used, and this needs 4 more"):
        await too_much
    await deleting
    with pytest.raises(NotFound):
        await library.get(old.digest)


async def test_images_that_went_meanwhile_are_missed(desk: Desk, store: ReadingStore) -> None:
    """What was found a moment ago is looked for again when the dataset is made."""
    await uploaded(desk, b"1", b"2")
    assert await desk.library.missing("ada", [digest_of_bytes(b"1"), digest_of_bytes(b"2")]) == []
    store.delete(keys.image(digest_of_bytes(b"2")))
    with pytest.raises(Conflict, match="1 of the dataset's images"):
        await create(desk.library, b"1", b"2")
    assert not [key for key in store.objects if key.startswith(keys.DATASETS)]


async def test_a_user_describes_few_datasets_at_a_time(desk: Desk) -> None:
    """Descriptions are held in memory, so one user has no more than two of them; at the end all are ended."""
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[str | Sequence[Item]]:
        yield "pets"
        begun.set()
        await asyncio.Event().wait()

    calls = []
    for _ in range(2):
        begun.clear()
        calls.append(asyncio.create_task(desk.library.create("ada", endless())))
        await begun.wait()
    with pytest.raises(ResourceExhausted, match="of yours"):
        await desk.library.create("ada", endless())
    desk.close()
    for call in calls:
        with pytest.raises(Unavailable):
            await call


async def test_who_leaves_keeps_a_place_until_the_end(desk: Desk, removing: Removing) -> None:
    """A description whose client has left is made to its end, and counts for its user until then: it takes memory."""
    library = desk.library
    await uploaded(desk, b"1", b"2", b"3")
    made = await create(library, b"1", b"2")
    deleting = asyncio.create_task(library.delete(made.digest, dry_run=False))
    await asyncio.to_thread(removing.begun.wait)
    digests: list[str] = []
    for _ in range(2):
        known = asyncio.Event()

        def note(digest: str, known: asyncio.Event = known) -> None:
            digests.append(digest)
            known.set()

        making = asyncio.create_task(library.create("ada", described("pets", items(b"1", b"3")), on_digest=note))
        await known.wait()
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
    with pytest.raises(ResourceExhausted, match="2 descriptions of datasets of yours"):
        await create(library, b"1", b"3")
    removing.may_end.set()
    await deleting
    while not (await library.list(limit=9, token=""))[0]:
        pass
    assert (await create(library, b"1", b"3")).digest in digests


async def test_what_fails_after_its_caller_has_left_is_logged(
    desk: Desk, removing: Removing, caplog: pytest.LogCaptureFixture
) -> None:
    """Whoever runs a server finds in its log that a deletion has failed which nobody waited for."""
    deleting = asyncio.create_task(desk.library.delete("f" * 64, dry_run=False))
    await asyncio.to_thread(removing.begun.wait)
    deleting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await deleting
    removing.failure = StoreUnavailable("The store is away.")
    removing.may_end.set()
    await desk.library.undisturbed()
    await asyncio.sleep(0)
    (record,) = caplog.records
    assert vars(record)["change"] == f"delete dataset {'f' * 64}"
    assert vars(record)["reason"] == "The store is away."


async def test_garbage_counts_no_longer_though_its_collector_has_left(desk: Desk, removing: Removing) -> None:
    """What was uploaded for nothing is forgotten when it has gone, also if nobody waited for that."""
    await uploaded(desk, b"1", b"2", b"3", b"4", b"5")
    collecting = asyncio.create_task(desk.library.collect_garbage(days=0, dry_run=False))
    await asyncio.to_thread(removing.begun.wait)
    collecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await collecting
    removing.may_end.set()
    await desk.library.undisturbed()
    await uploaded(desk, b"6")


def test_a_description_has_its_limits() -> None:
    """A dataset that is too large to be held in memory is refused as it comes."""
    begun = Draft(most_items=2)
    begun.begin("pets")
    begun.add(items(b"1", b"2"))
    with pytest.raises(InvalidDataset, match="at most 2 images"):
        begun.add([Item("cat/x.jpg", "cat", "", "a" * 64)])
    wordy = Draft()
    wordy.begin("pets")
    with pytest.raises(InvalidDataset, match="shorter names, or divide it"):
        wordy.add([Item("é" * (MOST_TEXT_BYTES // 2), "cat", "", "a" * 64)])
    named = Draft()
    named.begin("pets")
    named.add([Item(f"{n}.jpg", f"{n}" * (MOST_CLASS_BYTES // 2), "", "a" * 64) for n in (1, 2, 3)])
    with pytest.raises(InvalidDataset, match=r"3 classes .* shorter names"):
        named.finish(stop=threading.Event())


async def test_datasets_of_many_classes_can_be_listed(desk: Desk, store: ReadingStore) -> None:
    """Datasets whose cards together are too long for an answer come on several pages, at least one a page."""
    dataset = Dataset.of(items(b"1", b"2"))
    for number in range(3):
        card = replace(card_of(dataset), digest=digest_of_bytes(b"%d" % number), classes=("a" * 3_000_000, "b"))
        store.put(keys.dataset_card(card.digest), card.to_json())
    found: list[str] = []
    token = ""
    while token or not found:
        page, token = await desk.library.list(limit=50, token=token)
        found += [card.digest for card in page]
        assert len(page) == 1
    assert len(set(found)) == len(found) == 3
