"""A store behind a server on a bad day: what is survived, what is said, and that nothing hangs."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import StoreUnavailable
from offshelf.rpc.offload import Offload
from offshelf.store import open_store
from offshelf.store.patience import Patience
from offshelf.store.patient import PatientStore
from offshelf.store.s3 import S3Store
from tests.integration import faulty_s3
from tests.integration.faulty_s3 import FAULTS, FaultyS3
from tests.integration.rclone_s3 import ACCESS_KEY, BUCKET, SECRET_KEY, serve_s3

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf.store import ObjectStore
    from tests.integration.rclone_s3 import S3Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Serve an empty folder as S3."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultyS3]:
    """A proxy without faults, for now."""
    with FaultyS3(server.address, seed=1) as proxy:
        yield proxy


def store_at(proxy: FaultyS3, prefix: str) -> S3Store:
    """Make a store behind the proxy, without patience of its own."""
    return S3Store(proxy.address, BUCKET, prefix, access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False)


def ask(proxy: FaultyS3, method: str, query: str = "") -> dict[str, object]:
    """Ask the proxy itself."""
    connection = HTTPConnection(proxy.address)
    try:
        connection.request(method, f"/-/faults{query}")
        found: dict[str, object] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()


def test_a_tenth_of_failures_is_survived(server: S3Server, proxy: FaultyS3, tmp_path: Path) -> None:
    """A user whose server fails every tenth request, slowly, loses nothing and gets every byte."""
    store = open_store(server.url("tenth", address=proxy.address), environ=server.environ)
    proxy.fail, proxy.delay = 0.1, 0.002
    content = {f"a/{number % 5}/{number}": f"{number}".encode() * number for number in range(300)}
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda key: store.put(key, content[key]), content))
        assert list(threads.map(store.get, content)) == list(content.values())
    (tmp_path / "large").write_bytes(bytes(range(256)) * 200_000)
    store.put_file("large", tmp_path / "large")
    store.get_file("large", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "large").read_bytes()
    assert [info.key for info in store.list("a/")] == sorted(content)
    assert list(store.children("a/")) == ["0", "1", "2", "3", "4"]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(store.delete, content))
    assert list(store.list("a/")) == []
    assert all(proxy.done[fault] > 0 for fault in FAULTS)


def test_an_outage_is_waited_out(server: S3Server, proxy: FaultyS3) -> None:
    """A user whose server is away for a while only waits; what was asked for then happens, once."""
    failing = threading.Event()

    def wait(event: threading.Event, seconds: float) -> bool:
        failing.set()
        return event.wait(seconds)

    store = PatientStore(store_at(proxy, "outage"), Patience(60.0, first=0.02, longest=0.02, wait=wait))
    proxy.fail = 1.0
    with ThreadPoolExecutor(1) as threads:
        putting = threads.submit(store.put, "a", b"x")
        assert failing.wait(30)
        assert not putting.done()
        proxy.fail = 0.0
        putting.result()
    assert store.get("a") == b"x"
    assert (server.folder / BUCKET / "outage" / "a").read_bytes() == b"x"


def test_a_long_outage_is_told(proxy: FaultyS3) -> None:
    """A user whose server stays away is told so in the end, in the words of the first error."""
    store: ObjectStore = PatientStore(store_at(proxy, "long"), Patience(0.2, first=0.02))
    proxy.fail = 1.0
    with pytest.raises(StoreUnavailable, match=r"^The store at s3://contract/long\S+ can"):
        store.put("a", b"x")
    with pytest.raises(StoreUnavailable, match="can"):
        list(store.list(""))


async def test_a_call_that_is_cancelled_leaves_the_store_alone(proxy: FaultyS3) -> None:
    """A user who cancels, or a service that stops, while the store is away does not wait until it is back."""
    waiting = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(event: threading.Event, seconds: float) -> bool:
        loop.call_soon_threadsafe(waiting.set)
        return event.wait(seconds)

    store = PatientStore(store_at(proxy, "cancelled"), Patience(3600.0, first=3600.0, longest=3600.0, wait=wait))
    proxy.fail = 1.0
    offload = Offload(threads=2, queue=0)

    def work(*, stop: threading.Event) -> None:
        del stop
        store.put("a", b"x")

    for end in ("the call is cancelled", "the service stops"):
        waiting.clear()
        call = asyncio.create_task(offload.run(work))
        await waiting.wait()
        if end == "the call is cancelled":
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        else:
            await offload.close()
            with pytest.raises(StoreUnavailable):
                await call


def test_a_start_is_told_of_a_store_that_is_away(server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that starts before its store waits for it a little, and then says that it cannot be reached."""
    monkeypatch.setattr("offshelf.store.opening.START_SECONDS", 0.1)
    with FaultyS3(server.address) as gone:
        address = gone.address
    with pytest.raises(StoreUnavailable, match="check the endpoint and that the server runs"):
        open_store(server.url("start", address=address), environ=server.environ)


def test_without_faults_the_proxy_is_not_noticed(proxy: FaultyS3) -> None:
    """A test that sets no fault sees the server as it is."""
    store = store_at(proxy, "plain")
    store.put("a", b"x" * 1_000_000)
    assert store.get("a", offset=999_999) == b"x"
    assert store.stat("b") is None
    assert proxy.done.keys() == {"passed"}


def test_faults_are_chosen_by_the_seed(server: S3Server) -> None:
    """A test that failed is run again with the same faults in the same order."""
    chosen = []
    for _ in range(2):
        with FaultyS3(server.address, fail=0.5, seed=7) as proxy:
            chosen.append([proxy.choose() for _ in range(50)])
    assert chosen[0] == chosen[1]
    assert set(chosen[0]) == {"", *FAULTS}


def test_faults_are_set_while_it_runs(proxy: FaultyS3) -> None:
    """An operator changes what the proxy does from outside its pod, and sees what it has done."""
    assert ask(proxy, "PUT", "?fail=0.5&delay=0.001&other=1") == {"fail": 0.5, "delay": 0.001, "done": {}}
    assert proxy.fail == 0.5
    proxy.choose()
    told = ask(proxy, "GET")
    assert told["fail"] == 0.5
    assert sum(proxy.done.values()) == 1


def test_the_proxy_is_a_program_of_one_file(server: S3Server) -> None:
    """An operator runs the proxy in a pod, with nothing but Python and this file."""
    command = [
        sys.executable,
        "-I",
        faulty_s3.__file__,
        "--upstream",
        f"http://{server.address}",
        "--host",
        "127.0.0.1",
    ]
    with subprocess.Popen([*command, "--fail", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            address = json.loads(process.stdout.readline())["address"]
            store = open_store(server.url("program", address=address), environ=server.environ)
            store.put("a", b"x")
            assert store.get("a") == b"x"
        finally:
            process.terminate()
