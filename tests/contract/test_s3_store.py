"""What only a server can get wrong: silence, answers that break off, lists out of order, uploads cut in the middle."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import StoreDenied, StoreUnavailable
from offshelf.store import open_store
from offshelf.store.s3 import S3Store
from tests.contract.fake_s3 import ASKED, page, refusal, store_at
from tests.integration.faulty_s3 import FaultyS3
from tests.integration.rclone_s3 import ACCESS_KEY, BUCKET, SECRET_KEY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.fake_s3 import FakeServer
    from tests.integration.rclone_s3 import S3Server


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
    fake.answers = [page(sent, then="more"), page(["some/prefix/0"])]
    found = list(store_at(fake.address).list(""))
    assert [info.key for info in found] == ["0", "a-b/x", "a/x", "b/x"]
    assert {info.modified for info in found} == {1767323045.0}
    assert {info.size for info in found} == {3}


def test_a_long_list_is_not_fetched_whole_before_it_begins(fake: FakeServer) -> None:
    """A user who wants the first of very many objects does not wait for all of them."""
    first = [f"some/prefix/{number:04d}" for number in range(1000)]
    fake.answers = [page(first, then="more"), page(["some/prefix/9999"])]
    found = store_at(fake.address).list("")
    assert next(found).key == "0000"
    assert len(fake.requests) == 1
    assert [info.key for info in found][-1] == "9999"
    assert len(fake.requests) == 2


def test_a_long_list_that_loses_its_order_is_refused(fake: FakeServer) -> None:
    """A user whose server sends the first objects in order and later ones not never gets a wrong order for right."""
    first = [f"some/prefix/{number:04d}" for number in range(1000)]
    fake.answers = [page(first, then="more"), page(["some/prefix/0000a"])]
    found = store_at(fake.address).list("")
    with pytest.raises(StoreDenied, match="lists its objects out of order"):
        list(found)


def test_an_upload_that_breaks_off_leaves_nothing(s3_server: S3Server, tmp_path: Path) -> None:
    """A user whose upload is cut between its parts finds no half object, and can upload it again."""
    (tmp_path / "large").write_bytes(os.urandom(40 << 20))
    with FaultyS3(s3_server.address) as proxy:
        store = S3Store(proxy.address, BUCKET, "cut", access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False)
        # Begun, one part sent; then the server is gone, also for telling it that the upload is given up.
        proxy.fail_after(2)
        with pytest.raises(StoreUnavailable):
            store.put_file("a/large", tmp_path / "large")
        proxy.fail = 0.0
        assert store.stat("a/large") is None
        assert list(store.list("")) == []
        store.put_file("a/large", tmp_path / "large")
        store.get_file("a/large", tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == (tmp_path / "large").read_bytes()


def test_stores_in_one_bucket_do_not_see_each_other(s3_server: S3Server) -> None:
    """A user keeps several stores in one bucket, also where the name of one begins as another's does."""
    first = open_store(s3_server.url("apart/one"), environ=s3_server.environ)
    second = open_store(s3_server.url("apart/one-more"), environ=s3_server.environ)
    first.put("a", b"1")
    second.put("b", b"2")
    assert [info.key for info in first.list("")] == ["a", "store.json"]
    assert [info.key for info in second.list("")] == ["b", "store.json"]
