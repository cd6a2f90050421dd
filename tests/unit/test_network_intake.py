"""Networks that users bring, on their way into the store."""

from __future__ import annotations

import asyncio
import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from offshelf.digests import digest_of_bytes
from offshelf.errors import (
    Cancelled,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    ResourceExhausted,
    StoreFull,
    Unavailable,
)
from offshelf.extraction.own.description import network_digest
from offshelf.extraction.own.stored import MAX_NETWORK_BYTES
from offshelf.services.orchestrator.holdings import fetching
from offshelf.services.orchestrator.holdings.card_index import CardIndex
from offshelf.services.orchestrator.holdings.changes import Changes
from offshelf.services.orchestrator.holdings.fetching import Fetched, Fetcher, read_beside
from offshelf.services.orchestrator.holdings.hearing import Hearing
from offshelf.services.orchestrator.holdings.incoming_network import NetworkHeader
from offshelf.services.orchestrator.holdings.networks import CHUNK_BYTES, LEAST_BYTES, Networks
from offshelf.services.orchestrator.holdings.quotas import Quotas
from offshelf.services.orchestrator.holdings.spool import SpoolRoom
from offshelf.store import keys
from tests.unit.own_networks import described, put_network
from tests.unit.test_uploads import CountingStore, Threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

FILE = bytes(range(256)) * 20
TEXT = '{"size": 32, "colour": "RGB", "mean": 0, "scale": 1}'
DIGEST = network_digest(digest_of_bytes(FILE), "onnx", described())


class Web:
    """Files at addresses."""

    says_sizes = True

    def __init__(self, **files: bytes) -> None:
        self.files = {f"https://host/{name.replace('_', '.')}": data for name, data in files.items()}

    def __call__(self, address: str, *, most: int) -> AbstractContextManager[Fetched]:
        """Give a file in two pieces."""
        if address not in self.files:
            raise NotFound(f"host has no {address}.")
        data = self.files[address]
        assert len(data) <= most
        return nullcontext(Fetched(len(data) if self.says_sizes else None, iter((data[:100], data[100:]))))


class Desk:
    """Takes networks into a store."""

    def __init__(
        self, web: Web | None = None, *, bytes_: int = 0, room: SpoolRoom | None = None, idle: float = 60.0
    ) -> None:
        self.store = CountingStore()
        self.hearing = Hearing(idle)
        self.changes = Changes()
        self.networks = Networks(
            store=self.store,
            threads=Threads(),
            quotas=Quotas(CardIndex(self.store, Threads()), most_bytes=bytes_),
            hearing=self.hearing,
            changes=self.changes,
            fetch=web or Web(),
            room=room,
        )

    async def send(self, *messages: NetworkHeader | bytes, user: str = "ann") -> str:
        """Send messages in one call; returns the name of the extractor."""

        async def stream() -> AsyncIterator[NetworkHeader | bytes]:
            for message in messages:
                yield message

        return (await self.networks.receive(user, stream())).name


def header(**changes: Any) -> NetworkHeader:
    """Say what is going to be sent."""
    given: dict[str, Any] = {
        "name": "net.onnx",
        "format": "onnx",
        "description": described(),
        "size": len(FILE),
        "file": digest_of_bytes(FILE),
    }
    return NetworkHeader(**(given | changes))


async def test_a_network_that_was_sent_is_in_the_store() -> None:
    """Its file lies there as it came, and its card, written last, says who brought it and what it is."""
    desk = Desk()
    assert await desk.networks.find(digest_of_bytes(FILE), "onnx", TEXT) is None
    name = await desk.send(header(), FILE[:1000], FILE[1000:])
    assert name == f"onnx:net@{DIGEST[:12]}"
    assert desk.store.objects[keys.own_network_file(DIGEST, "onnx")] == FILE
    assert list(desk.store.objects)[-1] == keys.own_network_card(DIGEST)
    found = await desk.networks.find(digest_of_bytes(FILE), "onnx", TEXT)
    assert found is not None
    assert (found.name, found.user, found.file_name, found.size) == (name, "ann", "net.onnx", len(FILE))


async def test_the_same_network_again_is_the_same() -> None:
    """Whoever sends it again, under another name, gets the one that is there; its file is not written twice."""
    desk = Desk()
    name = await desk.send(header(), FILE)
    desk.store.puts.clear()
    assert await desk.send(header(name="other.onnx"), FILE, user="bob") == name
    assert desk.store.puts == [keys.own_network_card(DIGEST)]  # which makes it young


async def test_a_network_that_lacks_its_file_is_sent_again() -> None:
    """A card without its whole file is no network."""
    desk = Desk()
    await desk.send(header(), FILE)
    key = keys.own_network_file(DIGEST, "onnx")
    desk.store.objects[key] = FILE[:-1]
    assert await desk.networks.find(digest_of_bytes(FILE), "onnx", TEXT) is None
    await desk.send(header(), FILE)
    assert desk.store.objects[key] == FILE


@pytest.mark.parametrize(
    ("messages", "said"),
    [
        ((), "begins with its header"),
        ((FILE,), "begins with its header"),
        ((header(), header()), "one header"),
        ((header(), FILE[:-1]), "is not what its header says: expected 5120 bytes .* found 5119"),
        ((header(), FILE + b"x"), "More than the 5120 bytes"),
        ((header(), FILE[:-1] + b"x"), "is not what its header says"),
        ((header(), bytes(CHUNK_BYTES + 1)), "send smaller parts"),
    ],
)
async def test_what_is_not_what_it_says_is_refused(messages: tuple[NetworkHeader | bytes, ...], said: str) -> None:
    """Nothing of it is stored."""
    desk = Desk()
    with pytest.raises(InvalidInput, match=said):
        await desk.send(*messages)
    assert desk.store.objects == {}


@pytest.mark.parametrize(
    "change", [{"size": 0}, {"size": MAX_NETWORK_BYTES + 1}, {"file": "x"}, {"name": ""}, {"name": "a\nb"}]
)
def test_a_header_that_cannot_be_is_refused(change: dict[str, Any]) -> None:
    """Before a byte of the file has come."""
    with pytest.raises(InvalidInput):
        header(**change)


async def test_a_file_that_is_larger_than_there_is_room_for_waits_and_is_told() -> None:
    """No disk is filled by networks."""
    desk = Desk(room=SpoolRoom(100, 100, wait_seconds=0.01, what="networks"))
    with pytest.raises(ResourceExhausted, match="As many networks of yours are on their way"):
        await desk.send(header(), FILE)


async def test_one_user_leaves_room_for_the_networks_of_others() -> None:
    """Whoever announces the largest network there may be, and sends nothing of it, keeps nobody else waiting."""
    desk = Desk()
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow() -> AsyncIterator[NetworkHeader | bytes]:
        yield header(size=MAX_NETWORK_BYTES)
        begun.set()
        await go_on.wait()

    sending = asyncio.create_task(desk.networks.receive("ann", slow()))
    await begun.wait()
    async with asyncio.timeout(10):
        assert await desk.send(header(), FILE, user="bob") == f"onnx:net@{DIGEST[:12]}"
    go_on.set()
    with pytest.raises(InvalidInput, match="is not what its header says"):
        await sending


async def test_who_announces_much_has_to_hurry() -> None:
    """A large network that comes at a pace which would take hours is ended: others wait for its room."""
    desk = Desk(idle=0.1)
    large = bytes(80 * LEAST_BYTES)

    async def slow() -> AsyncIterator[NetworkHeader | bytes]:
        yield header(size=len(large), file=digest_of_bytes(large))
        for number in range(80):
            yield large[:LEAST_BYTES]
            if number < 9:
                await asyncio.sleep(0.06)

    with pytest.raises(DeadlineExceeded, match="Too little came"):
        await desk.networks.receive("ann", slow())


async def test_a_network_that_is_fetched_takes_as_much_room_as_it_has_bytes() -> None:
    """Small networks come at the same time; what does not say how large it is may be as large as any."""
    web = Web(net_onnx=FILE)
    desk = Desk(web, room=SpoolRoom(len(FILE), len(FILE), wait_seconds=0.01))
    assert (await desk.networks.fetch("ann", "https://host/net.onnx", "onnx", TEXT)).digest == DIGEST
    web.says_sizes = False
    with pytest.raises(ResourceExhausted):
        await desk.networks.fetch("ann", "https://host/net.onnx", "onnx", TEXT)


async def test_networks_count_towards_a_quota() -> None:
    """Who has used up their bytes brings no network; one that is there already costs nothing."""
    desk = Desk(bytes_=6000)
    await desk.send(header(), FILE)
    await desk.send(header(description=described(pooling="max")), FILE)  # the same file
    other = FILE[::-1]
    with pytest.raises(QuotaExceeded):
        await desk.send(header(file=digest_of_bytes(other)), other)
    await desk.send(header(file=digest_of_bytes(other)), other, user="bob")


async def test_a_full_store_says_so_and_counts_nothing() -> None:
    """After it has been given room the same upload succeeds."""
    desk = Desk(bytes_=6000)
    desk.store.put_file = refuse  # type: ignore[method-assign,assignment]
    with pytest.raises(StoreFull):
        await desk.send(header(), FILE)
    del desk.store.put_file
    await desk.send(header(), FILE)


def refuse(*_: object) -> None:
    """Be full."""
    raise StoreFull("The store is full.")


async def test_a_silent_client_is_sent_away() -> None:
    """It does not hold its place for ever."""
    desk = Desk(idle=0.05)
    never = threading.Event()

    async def silent() -> AsyncIterator[NetworkHeader | bytes]:
        yield header()
        while not never.is_set():
            await Threads().run(lambda stop: stop.wait(0.01))

    with pytest.raises(DeadlineExceeded):
        await desk.networks.receive("ann", silent())


async def test_a_server_that_stops_hears_nobody_out() -> None:
    """Uploads end with an error that tells the client to come back."""
    desk = Desk()
    desk.hearing.close()
    with pytest.raises(Unavailable):
        await desk.send(header(), FILE)


async def test_nothing_is_brought_while_something_is_deleted() -> None:
    """A network that is found cannot go with the garbage that is being collected at the time."""
    desk = Desk()
    own = put_network(desk.store, FILE)
    async with desk.changes.deleting():
        finding = asyncio.ensure_future(desk.networks.find(own.file, "onnx", TEXT))
        await Threads().run(lambda stop: stop.wait(0.05))
        assert not finding.done()
        desk.store.delete(keys.own_network_card(own.digest))
    assert await finding is None


@pytest.mark.parametrize("beside", ["net_onnx_json", "net_json"])
async def test_a_network_is_fetched_with_what_lies_beside_it(beside: str) -> None:
    """An address is enough; both ways of naming the description do."""
    desk = Desk(Web(net_onnx=FILE, **{beside: TEXT.encode()}))
    network = await desk.networks.fetch("ann", "https://host/net.onnx", "onnx", "")
    assert network.name == f"onnx:net@{DIGEST[:12]}"
    assert desk.store.objects[keys.own_network_file(DIGEST, "onnx")] == FILE


async def test_a_network_without_a_description_beside_it_is_not_fetched() -> None:
    """The message says where it should be; one that is sent along needs no file."""
    desk = Desk(Web(net_onnx=FILE))
    with pytest.raises(NotFound, match=r"put one at https://host/net\.onnx\.json"):
        await desk.networks.fetch("ann", "https://host/net.onnx", "onnx", "")
    assert (await desk.networks.fetch("ann", "https://host/net.onnx", "onnx", TEXT)).digest == DIGEST


@pytest.mark.parametrize(
    ("address", "beside"),
    [
        ("http://127.0.0.1:80/net", ["http://127.0.0.1:80/net.json"]),
        ("https://host/v1.2/net", ["https://host/v1.2/net.json"]),
        ("https://host/net.onnx?key=a.b", ["https://host/net.onnx.json?key=a.b", "https://host/net.json?key=a.b"]),
        ("s3://nets/a.b/net.onnx", ["s3://nets/a.b/net.onnx.json", "s3://nets/a.b/net.json"]),
    ],
)
@pytest.mark.parametrize("error", [NotFound, PermissionDenied])
def test_a_description_is_looked_for_beside_its_network(
    address: str, beside: list[str], error: type[Exception]
) -> None:
    """On the same host, in the same folder, with the same query; refusing is how buckets say that nothing is there."""
    asked: list[str] = []

    def fetch(address: str, **_: object) -> AbstractContextManager[Fetched]:
        asked.append(address)
        raise error(f"{len(asked)}: no")

    with pytest.raises(error, match="1: no" if error is PermissionDenied else "put one at"):
        read_beside(fetch, address, most=10, stop=threading.Event())
    assert asked == beside


@pytest.mark.parametrize("address", ["https://host", "https://host/", "s3://nets", "https://[host/net.onnx", ""])
async def test_an_address_without_a_file_is_refused(address: str) -> None:
    """Nobody is asked for it."""
    with pytest.raises(InvalidInput, match=r"write s3://bucket/name or https://host/path"):
        await Desk().networks.fetch("ann", address, "onnx", "")


async def test_a_description_that_is_refused_under_its_first_name_is_found_under_the_second() -> None:
    """S3 and CloudFront answer 403 for files that are not there."""

    class Refusing(Web):
        def __call__(self, address: str, **options: Any) -> AbstractContextManager[Fetched]:
            """Refuse what is not there."""
            try:
                return super().__call__(address, **options)
            except NotFound as error:
                raise PermissionDenied(str(error)) from None

    desk = Desk(Refusing(net_onnx=FILE, net_json=TEXT.encode()))
    assert (await desk.networks.fetch("ann", "https://host/net.onnx", "onnx", "")).digest == DIGEST


async def test_a_bad_description_is_named_by_its_address() -> None:
    """Whoever reads the message knows which file to mend."""
    desk = Desk(Web(net_onnx=FILE, net_json=b'{"size": 0}'))
    with pytest.raises(InvalidInput, match=r"https://host/net\.json says nothing of colour"):
        await desk.networks.fetch("ann", "https://host/net.onnx", "onnx", "")


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("https://example.org/net.onnx", PermissionDenied),
        ("http://example.org/net.onnx", PermissionDenied),
        ("file:///etc/passwd", InvalidInput),
        ("/etc/passwd", InvalidInput),
        ("s3://elsewhere/net.onnx", PermissionDenied),
        ("s3://nets/../elsewhere/net.onnx", InvalidInput),
        ("s3://nets/mine?endpoint=http://10.0.0.1/net.onnx", InvalidInput),
    ],
)
@pytest.mark.parametrize("hosts", [(), ("trusted.example",)])
def test_a_server_fetches_only_from_where_it_may(address: str, error: type[Exception], hosts: tuple[str, ...]) -> None:
    """Neither hosts beyond the list, nor buckets beyond those of data, nor its own files."""
    fetch = Fetcher(buckets=("s3://nets/mine",), hosts=hosts, beside="/store")
    with pytest.raises(error), fetch(address, most=100):
        pass


@contextmanager
def host(answers: dict[str, tuple[int, dict[str, str], bytes]]) -> Iterator[str]:
    """Serve answers by path on this machine; gives the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            """Answer, and hang up."""
            status, headers, body = answers.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_file_is_fetched_from_a_host_on_the_list(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole, or not at all: not what is cut, what is too large, or what another host would have to be asked for."""
    length = {"Content-Length": str(len(FILE))}
    answers = {
        "/net.onnx": (200, length, FILE),
        "/sizeless.onnx": (200, {}, FILE),
        "/cut.onnx": (200, length, FILE[:-1]),
        "/away": (302, {"Location": "https://example.org/net.onnx"}, b""),
        "/inside": (302, {"Location": "http://169.254.169.254/secret"}, b""),
        "/busy": (503, {}, b""),
        "/teapot": (418, {}, b""),
        "/circle": (302, {"Location": "/circle"}, b""),
    }
    with host(answers) as address:
        fetch = Fetcher(buckets=(), hosts=("127.0.0.1",), beside="/store")

        stop = threading.Event()

        def get(path: str, most: int = len(FILE)) -> bytes:
            with fetch(f"{address}{path}", most=most) as found:
                return b"".join(found.read(stop=stop))

        assert get("/net.onnx") == get("/sizeless.onnx") == FILE
        for path, error in (
            ("/cut.onnx", Unavailable),
            ("/busy", Unavailable),
            ("/teapot", InvalidInput),
            ("/circle", InvalidInput),
            ("/nothing", NotFound),
            ("/away", PermissionDenied),
            ("/inside", PermissionDenied),
        ):
            with pytest.raises(error):
                get(path)
        for path in ("/net.onnx", "/sizeless.onnx"):
            with pytest.raises(InvalidInput, match="more than the 5119 bytes"):
                get(path, len(FILE) - 1)
        with monkeypatch.context() as patched:
            patched.setattr(fetching, "_LONGEST_SECONDS", -1.0)
            with pytest.raises(DeadlineExceeded, match="took longer than -1 seconds"):
                get("/net.onnx")
        stop.set()
        with pytest.raises(Cancelled):
            get("/net.onnx")
