from __future__ import annotations

import asyncio
import threading
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import pytest

from offshelf.digests import digest_of_bytes
from offshelf.errors import (
    DeadlineExceeded,
    InvalidInput,
    QuotaExceeded,
    ResourceExhausted,
    StoreFull,
    Unavailable,
)
from offshelf.services.orchestrator.holdings.admission import Admission
from offshelf.services.orchestrator.holdings.card_index import CardIndex
from offshelf.services.orchestrator.holdings.hearing import Hearing
from offshelf.services.orchestrator.holdings.incoming import MEMORY_BYTES, MOST_PIECES, PIECE_BYTES, Piece
from offshelf.services.orchestrator.holdings.quotas import Quotas
from offshelf.services.orchestrator.holdings.shelf import ImageShelf
from offshelf.services.orchestrator.holdings.spool import SpoolRoom
from offshelf.services.orchestrator.holdings.uploads import LEAST_BYTES, Uploads
from offshelf.store import keys
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from offshelf.store.objects import ObjectInfo

T = TypeVar("T")

PHOTO = b"a photograph"
LARGE = bytes(range(256)) * (2 * MEMORY_BYTES // 256) + b"end"


class Threads:
    """Runs what is given in a thread each."""

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call the function."""
        return await asyncio.to_thread(function, *args, stop=threading.Event(), **kwargs)


class CountingStore(MemoryStore):
    """Says what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[str] = []
        self.stats = 0
        self.full = False

    def put(self, key: str, data: bytes) -> None:
        """Write an object, unless the store is full."""
        if self.full:
            raise StoreFull("The store is full.")
        self.puts.append(key)
        super().put(key, data)

    def stat(self, key: str) -> ObjectInfo | None:
        """Look an object up."""
        self.stats += 1
        return super().stat(key)


class Reception:
    """Uploads into a store, with a user who has a quota if the test says so."""

    def __init__(
        self, *, images: int = 0, bytes_: int = 0, idle: float = 60.0, most: int = 4, room: SpoolRoom | None = None
    ) -> None:
        self.store = CountingStore()
        self.cards = CardIndex(self.store, Threads())
        self.quotas = Quotas(self.cards, most_images=images, most_bytes=bytes_)
        self.hearing = Hearing(idle)
        self.uploads = Uploads(
            store=self.store,
            threads=Threads(),
            quotas=self.quotas,
            hearing=self.hearing,
            admission=Admission(most=most, most_of_user=2),
            room=room,
        )

    async def send(self, *messages: Sequence[Piece], user: str = "ada") -> tuple[int, dict[str, str]]:
        """Send messages in one call."""
        outcome = await self.uploads.receive(user, stream(*messages))
        return outcome.stored, outcome.refused

    def has(self, data: bytes) -> bool:
        """Tell whether the store has exactly these bytes under their name."""
        return self.store.objects.get(keys.image(digest_of_bytes(data))) == data


async def stream(*messages: Sequence[Piece]) -> AsyncIterator[Sequence[Piece]]:
    """Yield messages."""
    for message in messages:
        yield message


def whole(data: bytes) -> Piece:
    """Make the one piece of a small image."""
    return Piece(digest_of_bytes(data), len(data), 0, data)


def pieces(data: bytes, length: int = PIECE_BYTES) -> list[Piece]:
    """Cut an image."""
    image = digest_of_bytes(data)
    cuts = [data[start : start + length] for start in range(0, len(data), length)]
    return [Piece(image, len(data), number * length, cut, digest_of_bytes(cut)) for number, cut in enumerate(cuts)]


async def test_images_of_all_sizes_are_stored() -> None:
    """Many small images in a message, an empty one, and a large one in parts all arrive byte for byte."""
    reception = Reception()
    small = [b"%d" % number for number in range(100)]
    stored, refused = await reception.send(
        [whole(data) for data in small], [whole(b"")], *([piece] for piece in pieces(LARGE)), [whole(PHOTO)]
    )
    assert (stored, refused) == (103, {})
    assert all(map(reception.has, [*small, b"", LARGE, PHOTO]))


async def test_an_image_that_is_there_is_not_written_again() -> None:
    """What was uploaded before costs a look, and counts as no new image."""
    reception = Reception()
    assert await reception.send([whole(PHOTO)]) == (1, {})
    assert await reception.send([whole(PHOTO)], *([piece] for piece in pieces(LARGE))) == (1, {})
    assert await reception.send(*([piece] for piece in pieces(LARGE))) == (0, {})
    assert reception.store.puts.count(keys.image(digest_of_bytes(PHOTO))) == 1
    assert reception.store.puts.count(keys.image(digest_of_bytes(LARGE))) == 1


@pytest.mark.parametrize("length", [4, MEMORY_BYTES])
async def test_wrong_bytes_are_refused_and_the_rest_is_stored(length: int) -> None:
    """An image that is not what its name says, as a whole or in one part, is named in the answer, and only that."""
    reception = Reception()
    data = LARGE[: 3 * length]
    spoilt = pieces(data, length)
    spoilt[1] = Piece(spoilt[1].image, spoilt[1].size, spoilt[1].offset, b"x" * length, spoilt[1].digest)
    lying = Piece(digest_of_bytes(b"other"), len(PHOTO), 0, PHOTO)
    stored, refused = await reception.send([lying, whole(b"good")], *([piece] for piece in spoilt), [whole(b"last")])
    assert stored == 2
    assert set(refused) == {digest_of_bytes(b"other"), digest_of_bytes(data)}
    assert "send it again" in refused[digest_of_bytes(data)]
    assert reception.store.objects.keys() == {keys.image(digest_of_bytes(it)) for it in (b"good", b"last")}


async def test_a_client_that_sends_nothing_right_is_turned_away() -> None:
    """A program that hashes wrongly is ended after thousands of images, instead of being listened to for hours."""
    reception = Reception()
    wrong = [Piece(digest_of_bytes(b"%d" % number), 1, 0, b"x") for number in range(10_050)]
    with pytest.raises(InvalidInput, match="check how they are read"):
        await reception.send(*(wrong[start : start + 50] for start in range(0, len(wrong), 50)))


async def test_an_image_that_is_given_up_is_refused() -> None:
    """A client that leaves an image in the middle hears that it was not stored; half an image is never there."""
    reception = Reception()
    first, *_ = pieces(LARGE)
    half = Piece(digest_of_bytes(PHOTO), len(PHOTO), 0, PHOTO[:4], digest_of_bytes(PHOTO[:4]))
    stored, refused = await reception.send([first], [half], [whole(b"good")], [half])
    assert stored == 1
    assert set(refused) == {digest_of_bytes(LARGE), digest_of_bytes(PHOTO)}
    assert list(reception.store.objects) == [keys.image(digest_of_bytes(b"good"))]


@pytest.mark.parametrize(
    "wrong",
    [
        [Piece("ab", 1, 0, b"x")],
        [Piece("a" * 64, 9, 1, b"x")],
        [Piece("a" * 64, 1 << 40, 0, b"x")],
        [Piece("a" * 64, 1, 0, b"xy")],
        [Piece("a" * 64, 2, 0, b"x")],
        [Piece("a" * 64, 2, 0, b"", "b" * 64)],
        [Piece("a" * 64, 2, 0, b"x", "b" * 3)],
        [Piece("a" * 64, 4, 0, b"x", "b" * 64), Piece("a" * 64, 4, 2, b"x", "b" * 64)],
        [Piece("a" * 64, 4, 0, b"x", "b" * 64), Piece("a" * 64, 5, 1, b"x", "b" * 64)],
        [Piece("a" * 64, 2 * PIECE_BYTES, 0, bytes(PIECE_BYTES + 1), "b" * 64)],
        pieces(bytes(MOST_PIECES + 2), 1),
    ],
    ids=["name", "offset", "huge", "long", "no digest", "nothing", "digest", "gap", "size", "message", "crumbs"],
)
async def test_parts_that_make_no_image_end_the_call(wrong: list[Piece]) -> None:
    """Parts out of order, too large or badly named are an InvalidInput; what was complete before stays."""
    reception = Reception()
    with pytest.raises(InvalidInput):
        await reception.send([whole(PHOTO)], wrong)
    assert reception.has(PHOTO)


async def test_a_full_store_is_told() -> None:
    """When the store takes no more, the call fails with that reason."""
    reception = Reception()
    reception.store.full = True
    with pytest.raises(StoreFull, match="full"):
        await reception.send([whole(PHOTO)], [whole(b"x")])


async def test_what_was_complete_stays_when_the_client_is_cut_off() -> None:
    """After a lost connection, only what was not complete has to be sent again."""
    reception = Reception()

    async def cut() -> AsyncIterator[Sequence[Piece]]:
        yield [whole(PHOTO)]
        yield pieces(LARGE)[:1]
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await reception.uploads.receive("ada", cut())
    assert reception.has(PHOTO)
    assert not reception.has(LARGE)


async def test_a_client_that_says_nothing_is_left() -> None:
    """Silence, and messages without anything in them, end the call after a while; what came before is kept."""
    reception = Reception(idle=0.05)

    async def silent() -> AsyncIterator[Sequence[Piece]]:
        yield [whole(PHOTO)]
        while True:
            await asyncio.sleep(0.01)
            yield []

    with pytest.raises(DeadlineExceeded, match="is kept"):
        await reception.uploads.receive("ada", silent())
    assert reception.has(PHOTO)


async def test_a_client_that_sends_a_byte_at_a_time_is_left() -> None:
    """Whoever only keeps a call and its room open hears why it was ended; what came before is kept."""
    reception = Reception(idle=0.05)

    async def dripping() -> AsyncIterator[Sequence[Piece]]:
        yield [whole(PHOTO)]
        for crumb in pieces(LARGE, 1):
            yield [crumb]
            await asyncio.sleep(0.01)

    with pytest.raises(DeadlineExceeded, match=r"Too little came .* is kept"):
        await reception.uploads.receive("ada", dripping())
    assert reception.has(PHOTO)


async def test_who_takes_much_room_has_to_hurry() -> None:
    """A large image that comes at a pace which would take hours is ended, and its room is free for those of others."""
    reception = Reception(idle=0.1, room=SpoolRoom(len(LARGE)))

    async def slow() -> AsyncIterator[Sequence[Piece]]:
        yield [whole(PHOTO)]
        for number, piece in enumerate(pieces(LARGE, LEAST_BYTES)):
            yield [piece]
            if number < 9:
                await asyncio.sleep(0.06)

    with pytest.raises(DeadlineExceeded, match=r"Too little came .* is kept"):
        await reception.uploads.receive("ada", slow())
    assert await reception.send(*([piece] for piece in pieces(LARGE)), user="bob") == (1, {})
    assert reception.has(PHOTO)


async def test_slow_senders_take_no_place_from_other_users() -> None:
    """One user has so many uploads at a time and no more; all together leave no more than the server can bear."""
    reception = Reception(most=3)
    waiting: asyncio.Event = asyncio.Event()

    async def slow() -> AsyncIterator[Sequence[Piece]]:
        await waiting.wait()
        yield [whole(PHOTO)]

    begun = [asyncio.create_task(reception.uploads.receive("ada", slow())) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="of yours"):
        await reception.send([whole(b"1")], user="ada")
    assert await reception.send([whole(b"1")], user="bob") == (1, {})
    begun.append(asyncio.create_task(reception.uploads.receive("bob", slow())))
    await asyncio.sleep(0)
    with pytest.raises(ResourceExhausted, match="try again in a moment"):
        await reception.send([whole(b"1")], user="eve")
    waiting.set()
    await asyncio.gather(*begun)
    assert await reception.send([whole(b"2")], user="ada") == (1, {})


async def test_a_server_that_stops_says_so() -> None:
    """Uploads that are going on end with Unavailable when the server drains, and new ones do not begin."""
    reception = Reception()
    heard = asyncio.Event()

    async def endless() -> AsyncIterator[Sequence[Piece]]:
        yield [whole(PHOTO)]
        heard.set()
        await asyncio.Event().wait()

    call = asyncio.create_task(reception.uploads.receive("ada", endless()))
    await heard.wait()
    reception.hearing.close()
    with pytest.raises(Unavailable, match="is kept"):
        await call
    assert reception.has(PHOTO)
    with pytest.raises(Unavailable):
        await reception.send([whole(b"x")])


async def test_a_quota_of_images_is_kept() -> None:
    """Who has as many images as they may have is told how many, and what to do; others go on."""
    reception = Reception(images=2)
    await reception.send([whole(b"1")], [whole(b"1")])
    await reception.send([whole(b"1")], [Piece("a" * 64, 1, 0, b"x")])  # neither counts: there already, and refused
    assert await reception.send([whole(b"2")]) == (1, {})
    with pytest.raises(QuotaExceeded, match=r"2 of 2 images are used.*administrator"):
        await reception.send([whole(b"3")])
    assert not reception.has(b"3")
    assert await reception.send([whole(b"3")], user="bob") == (1, {})


async def test_a_quota_of_bytes_is_kept() -> None:
    """A large image that would be too much is refused before it is sent, and uses nothing up."""
    reception = Reception(bytes_=2 * MEMORY_BYTES)
    with pytest.raises(QuotaExceeded, match=r"0\.0 of 2\.0 MiB are used, and this needs 2\.0 MiB more"):
        await reception.send(pieces(LARGE)[:1])
    assert await reception.send([whole(PHOTO)]) == (1, {})


@pytest.mark.parametrize("asked", [10, 20_000])
async def test_it_is_found_out_what_the_store_has(asked: int) -> None:
    """Few images are looked up one by one, many by lists; the answer is the same."""
    store = CountingStore()
    digests = [digest_of_bytes(b"%d" % number) for number in range(asked)]
    for digest in digests[::2]:
        store.put(keys.image(digest), b"xyz")
    store.put(keys.image(digest_of_bytes(b"of another")), b"xyz")
    assert await ImageShelf(store, Threads()).sizes(digests) == dict.fromkeys(digests[::2], 3)
    assert store.stats == (asked if asked == 10 else 0)
    assert await ImageShelf(store, Threads()).sizes([]) == {}


async def test_large_images_share_the_room_there_is() -> None:
    """A large image waits until another one's room is free, however that one ends; then all of it is stored."""
    reception = Reception(room=SpoolRoom(len(LARGE)))
    begun, go_on = asyncio.Event(), asyncio.Event()
    first, *others = pieces(LARGE)

    async def broken_off() -> AsyncIterator[Sequence[Piece]]:
        yield [first]
        begun.set()
        await go_on.wait()

    leaving = asyncio.create_task(reception.uploads.receive("bob", broken_off()))
    await begun.wait()
    sending = asyncio.create_task(reception.send([first], *([other] for other in others)))
    await asyncio.sleep(0)
    go_on.set()
    assert (await leaving).refused
    assert await sending == (1, {})
    assert reception.has(LARGE)
    assert await reception.send(*([piece] for piece in pieces(LARGE[::-1]))) == (1, {})


async def test_without_room_for_long_a_client_is_told_to_come_back() -> None:
    """An upload does not wait for ever for a disk that others keep full, and small images need no room."""
    reception = Reception(room=SpoolRoom(len(LARGE) - 1, wait_seconds=0.0))
    with pytest.raises(ResourceExhausted, match="As many large images are on their way"):
        await reception.send(*([piece] for piece in pieces(LARGE)))
    assert await reception.send([whole(PHOTO)]) == (1, {})


async def test_one_user_fills_a_share_of_the_room_and_no_more() -> None:
    """Large images of somebody who sends slowly leave room for those of others, and wait for each other."""
    room = SpoolRoom(2 * len(LARGE), most_of_user=len(LARGE), wait_seconds=0.05)
    reception = Reception(room=room)
    begun, go_on = asyncio.Event(), asyncio.Event()
    first, *others = pieces(LARGE)
    other = LARGE[::-1]

    async def slow() -> AsyncIterator[Sequence[Piece]]:
        yield [first]
        begun.set()
        await go_on.wait()
        for piece in others:
            yield [piece]

    sending = asyncio.create_task(reception.uploads.receive("ada", slow()))
    await begun.wait()
    waiting = asyncio.create_task(reception.send(*([piece] for piece in pieces(other))))
    assert await reception.send(*([piece] for piece in pieces(other)), user="bob") == (1, {})
    with pytest.raises(ResourceExhausted, match="As many large images of yours are on their way"):
        await waiting
    go_on.set()
    assert (await sending).stored == 1
    assert await reception.send(*([piece] for piece in pieces(other))) == (0, {})


async def test_who_waits_for_a_client_that_does_nothing_takes_no_place() -> None:
    """What its client does not go on with counts for its user alone, and goes on later where there is room."""
    admission = Admission(most=1, most_of_user=1, what="downloads")
    with admission.admitted("ada"):
        with admission.set_aside_after(0.0):
            await asyncio.sleep(0.001)
            with pytest.raises(ResourceExhausted, match="of yours"), admission.admitted("ada"):
                pass
            with admission.admitted("bob"):
                pass
        with pytest.raises(ResourceExhausted, match="1 downloads are going on"), admission.admitted("bob"):
            pass
    with ExitStack() as going_on:
        going_on.enter_context(admission.admitted("ada"))
        waiting = ExitStack()
        waiting.enter_context(admission.set_aside_after(0.0))
        await asyncio.sleep(0.001)
        going_on.enter_context(admission.admitted("bob"))
        with pytest.raises(ResourceExhausted, match="1 downloads are going on"):
            waiting.close()
    with admission.admitted("eve"):
        pass
