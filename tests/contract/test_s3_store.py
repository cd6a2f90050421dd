"""What only a server can get wrong: refusals in all forms, silence, answers that break off, lists out of order."""

from __future__ import annotations

import socket
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import InvalidInput, OffshelfError, StoreDenied, StoreFull, StoreUnavailable
from offshelf.store import open_store
from offshelf.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.contract.conftest import S3Server

SECRET = "secret-of-the-fake"


class FakeServer(ThreadingHTTPServer):
    """Gives prepared answers (status, headers, body), the last one again and again."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), FakeHandler)
        self.answers: list[tuple[int, dict[str, str], bytes]] = []
        self.requests: list[str] = []

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        return "127.0.0.1", self.server_port

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Take the next answer."""
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


class FakeHandler(BaseHTTPRequestHandler):
    """Answers every request as its server was told to."""

    server: FakeServer

    def respond(self) -> None:
        """Read the request, give the next answer."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(f"{self.command} {self.path}")
        status, headers, body = self.server.answer()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = respond  # noqa: N815  names by the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in the base class
        """Stay quiet."""


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A server whose answers a test prepares."""
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def store_at(address: tuple[str, int], timeout: float = 5.0) -> S3Store:
    """Make a store on a server that need not be one."""
    host, port = address
    return S3Store(
        f"{host}:{port}",
        "bucket",
        "some/prefix",
        access_key="fake-access",
        secret_key=SECRET,
        secure=False,
        timeout=timeout,
    )


def refusal(code: str) -> bytes:
    """Write an S3 error as servers do."""
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{SECRET}</Message></Error>".encode()


ASKED: tuple[Callable[[S3Store], object], ...] = (
    lambda store: store.get("a/b"),
    lambda store: store.put("a/b", b"x"),
    lambda store: list(store.list("a")),
)


@pytest.mark.parametrize("kind", ["application/xml", "text/xml; charset=utf-8"])
@pytest.mark.parametrize(
    ("status", "code", "expected", "words"),
    [
        (404, "NoSuchBucket", StoreDenied, "has no bucket 'bucket': create it"),
        (403, "AccessDenied", StoreDenied, "let these keys"),
        (403, "SignatureDoesNotMatch", StoreDenied, "check OFFSHELF_S3_ACCESS_KEY"),
        (403, "InvalidAccessKeyId", StoreDenied, "check OFFSHELF_S3_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", StoreDenied, "clock"),
        (400, "AuthorizationHeaderMalformed", StoreDenied, "region"),
        (400, "EntityTooLarge", StoreFull, "free some space, then run the same command again"),
        (403, "QuotaExceeded", StoreFull, "free some space"),
        (507, "XMinioStorageFull", StoreFull, "free some space"),
        (507, "Whatever", StoreFull, "free some space"),
        (409, "OperationAborted", StoreUnavailable, "try again later"),
        (429, "TooManyRequests", StoreUnavailable, "try again later"),
        (500, "InternalError", StoreUnavailable, "try again later"),
        (503, "SlowDown", StoreUnavailable, "try again later"),
        (501, "NotImplemented", StoreDenied, "NotImplemented"),
    ],
)
def test_a_refusal_says_what_to_do(
    fake: FakeServer, kind: str, status: int, code: str, expected: type[OffshelfError], words: str
) -> None:
    """A user whose server refuses reads why and what to do, and no secret."""
    fake.answers = [(status, {"Content-Type": kind}, refusal(code))]
    store = store_at(fake.address)
    for ask in ASKED:
        with pytest.raises(expected, match=words) as caught:
            ask(store)
        assert store.url in caught.value.message
        assert SECRET not in caught.value.message
        assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("status", "expected"),
    [(403, StoreDenied), (400, StoreDenied), (503, StoreUnavailable), (507, StoreFull), (301, StoreDenied)],
)
def test_a_refusal_without_words_is_understood(fake: FakeServer, status: int, expected: type[OffshelfError]) -> None:
    """A user gets the same kind of error where the server may only send a status."""
    fake.answers = [(status, {}, b"")]
    with pytest.raises(expected):
        store_at(fake.address).stat("a/b")


@pytest.mark.parametrize("body", [b"<html>Welcome!</html>", b"not even xml", b"", b"\xff\xfe"])
def test_what_is_no_s3_server_is_named(fake: FakeServer, body: bytes) -> None:
    """A user who points at some web server is told to check the endpoint."""
    fake.answers = [(200, {"Content-Type": "text/html"}, body)]
    with pytest.raises(StoreDenied, match="check the endpoint"):
        list(store_at(fake.address).list(""))


def test_a_server_that_stumbles_is_asked_again(fake: FakeServer) -> None:
    """A user does not notice that a server answered at the second try only."""
    fake.answers = [
        (503, {"Content-Type": "application/xml", "Retry-After": "3600"}, refusal("SlowDown")),
        (200, {}, b"data"),
    ]
    assert store_at(fake.address).get("a/b") == b"data"
    assert len(fake.requests) == 2


def test_an_answer_that_breaks_off_is_not_an_object(fake: FakeServer, tmp_path: Path) -> None:
    """A user never gets the first half of an object for the whole."""
    fake.answers = [(200, {"Content-Length": "100"}, b"only this")]
    store = store_at(fake.address)
    with pytest.raises(StoreUnavailable):
        store.get("a/b")
    with pytest.raises(StoreUnavailable):
        store.get_file("a/b", tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_a_server_that_is_gone_is_unavailable() -> None:
    """A user whose server does not run is told to check that it does."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = free.getsockname()
    store = store_at(address)
    others: tuple[Callable[[S3Store], object], ...] = (lambda store: store.stat("a"), lambda store: store.delete("a"))
    for ask in ASKED + others:
        with pytest.raises(StoreUnavailable, match="check the endpoint and that the server runs"):
            ask(store)


def test_a_server_that_is_silent_is_unavailable() -> None:
    """A user whose server takes connections and says nothing gets an error after one timeout."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        store = store_at(mute.getsockname(), timeout=0.2)
        for ask in ASKED:
            with pytest.raises(StoreUnavailable):
                ask(store)
        mute.setblocking(False)
        seen = 0
        while True:
            try:
                mute.accept()[0].close()
            except BlockingIOError:
                break
            seen += 1
    assert seen == len(ASKED), "a timeout is not tried again"


def test_a_list_out_of_order_is_put_in_order(fake: FakeServer) -> None:
    """A user gets sorted keys, without folder markers and foreign names, from a server that sends them otherwise."""
    sent = [
        "some/prefix/b/",
        "some/prefix/b/x",
        "some/prefix/a/x",
        "some/prefix/a-b/x",
        "some/prefix/with space",
        "some/prefix/",
    ]
    items = "".join(
        f"<Contents><Key>{key}</Key><Size>3</Size><LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>"
        for key in sent
    )
    body = f"<ListBucketResult><Name>bucket</Name><IsTruncated>false</IsTruncated>{items}</ListBucketResult>"
    fake.answers = [(200, {"Content-Type": "application/xml"}, body.encode())]
    found = list(store_at(fake.address).list(""))
    assert [info.key for info in found] == ["a-b/x", "a/x", "b/x"]
    assert {info.modified for info in found} == {1767323045.0}
    assert {info.size for info in found} == {3}


def test_wrong_keys_are_refused(s3_server: S3Server) -> None:
    """A user with a wrong key is told which variables to check."""
    for name in s3_server.environ:
        environ = {**s3_server.environ, name: "wrong-and-not-shown"}
        with pytest.raises(StoreDenied, match="OFFSHELF_S3_SECRET_KEY") as caught:
            open_store(s3_server.url("wrong-keys"), environ=environ)
        assert "wrong-and-not-shown" not in caught.value.message


def test_a_missing_bucket_is_named(s3_server: S3Server) -> None:
    """A user who mistypes the bucket is told to create or correct it."""
    with pytest.raises(StoreDenied, match="has no bucket 'no-such-bucket'"):
        open_store(s3_server.url("x", bucket="no-such-bucket"), environ=s3_server.environ)


def test_stores_in_one_bucket_do_not_see_each_other(s3_server: S3Server) -> None:
    """A user keeps several stores in one bucket, also where the name of one begins as another's does."""
    first = open_store(s3_server.url("apart/one"), environ=s3_server.environ)
    second = open_store(s3_server.url("apart/one-more"), environ=s3_server.environ)
    first.put("a", b"1")
    second.put("b", b"2")
    assert [info.key for info in first.list("")] == ["a", "store.json"]
    assert [info.key for info in second.list("")] == ["b", "store.json"]


def test_an_endpoint_that_is_none_is_refused() -> None:
    """A user who writes an impossible endpoint is told so."""
    with pytest.raises(InvalidInput, match="cannot be the address"):
        S3Store("not a host:port", "bucket", access_key="a", secret_key="b")
