"""Reading whole objects in native code: the same bytes from the same servers, and the other client where it fails."""

from __future__ import annotations

import gzip
import io
import logging
import weakref
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, TypeAlias

import pytest

from offshelf.certificate_authority import Authority
from offshelf.errors import StoreUnavailable
from offshelf.store.bucket import Piece
from offshelf.store.s3 import S3Store
from offshelf.store.s3_bucket import S3Bucket
from offshelf.store.s3_connection import S3Connection
from offshelf.store.s3_native import NativeReader
from tests.contract.fake_s3 import SECRET, refusal, store_at
from tests.contract.test_s3_errors import over_tls
from tests.integration.rclone_s3 import ACCESS_KEY, BUCKET, SECRET_KEY

if TYPE_CHECKING:
    from pathlib import Path

    from tests.contract.fake_s3 import FakeServer
    from tests.integration.rclone_s3 import S3Server

Answer: TypeAlias = tuple[int, dict[str, str], bytes]

NAMES = (
    "plain.jpg", "a b", "a%20b", "a%2Fb", "a+b", "a#b", "a?b=c", "a&b", "a=b,c", "(x)", "a'b", 'a"b', "a\\b", "~x",
    "a*b", "[z]", "a:b@c", "é", "e\u0301", "日本.jpg",
)  # fmt: skip


def bucket_of(server: S3Server, prefix: str = "") -> S3Bucket:
    """Open the bucket of a server, or what lies below a prefix of it."""
    return S3Bucket(server.address, BUCKET, prefix, access_key=ACCESS_KEY, secret_key=SECRET_KEY, secure=False)


def forbid(monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
    """Have a method fail the test."""

    def refuse(*_: object, **__: object) -> None:
        pytest.fail(f"{name} was called")

    monkeypatch.setattr(owner, name, refuse)


def test_any_name_is_read(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose photos have odd names has each of them read, and never one for another."""
    forbid(monkeypatch, S3Connection, "_read")
    bucket = bucket_of(s3_server, "odd-names")
    for name in NAMES:
        (tmp_path / "photo").write_bytes(name.encode())
        bucket.put_file(name, tmp_path / "photo")
    for name in NAMES:
        piece = bucket.read(name, length=1000)
        assert (piece.data, piece.size) == (name.encode(), len(name.encode()))
        assert piece.version


def test_a_server_with_a_certificate_of_its_own_is_read(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose S3 server has a certificate of an authority of one's own has it read in native code too."""
    now = datetime.now(UTC)
    Authority.make(now, None).certify("s3", ["127.0.0.1"], tmp_path, now, now + timedelta(days=1))
    certificate = tmp_path / "both.pem"
    certificate.write_bytes((tmp_path / "tls.key").read_bytes() + (tmp_path / "tls.crt").read_bytes())
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
    forbid(monkeypatch, S3Connection, "_read")
    fake.answers = [(200, {}, b"data")]
    assert S3Store(over_tls(fake, certificate), "bucket", access_key="a", secret_key="b").get("a/b") == b"data"


def test_parts_are_read(s3_server: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user with a huge file among the photos has no more of it read at a time than is looked at."""
    (tmp_path / "large").write_bytes(b"0123456789")
    bucket = bucket_of(s3_server, "a-large-one")
    bucket.put_file("large", tmp_path / "large")
    assert bucket.read("large", offset=10, length=1).data == b""
    forbid(monkeypatch, S3Connection, "_read")
    first = bucket.read("large", length=4)
    assert (first.data, first.size) == (b"0123", 10)
    rest = bucket.read("large", offset=4, length=10)
    assert (rest.data, rest.size, rest.version) == (b"456789", 10, first.version)


def test_what_was_read_is_not_kept(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's service does not keep the largest object that it has read, for every thread, as long as it runs."""

    class Body(io.BytesIO):
        """A buffer that tells when it is gone."""

        def __init__(self) -> None:
            super().__init__()
            bodies.append(weakref.ref(self))

    bodies: list[weakref.ref[Body]] = []
    monkeypatch.setattr("offshelf.store.s3_native.io", SimpleNamespace(BytesIO=Body))
    fake.answers = [(200, {}, b"data")]
    store = store_at(fake.address)
    assert store.get("a/b") == b"data"
    assert [body() for body in bodies] == [None]


def test_what_is_stored_is_what_is_read(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user gets the bytes of an object, whatever it says of their encoding, from both clients."""
    packed = gzip.compress(b"data" * 100)
    fake.answers = [(200, {"Content-Encoding": "gzip"}, packed)]
    store = store_at(fake.address)
    assert store.get("a/b") == packed
    monkeypatch.setattr(NativeReader, "read", lambda _self, _name, _offset, _length, otherwise: otherwise())
    assert store.get("a/b") == packed


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ("s3.amazonaws.com", "https://photos.s3.eu-central-1.amazonaws.com"),
        ("storage.example.org:9000", "https://storage.example.org:9000/photos"),
    ],
)
def test_a_bucket_is_asked_where_it_is(endpoint: str, expected: str) -> None:
    """A user of Amazon has each bucket asked at its own address and region, by both clients."""
    connection = S3Connection(endpoint, "photos", access_key="a", secret_key="b", region="eu-central-1")
    assert connection._address_of_bucket() == expected


def test_a_client_that_does_not_get_on_with_a_server_has_a_rest(
    fake: FakeServer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of an odd server has each object asked for once, after a few; the log says so, without keys."""
    stumble: Answer = (503, {}, refusal("SlowDown"))
    answer: Answer = (200, {}, b"data")
    # It stumbles twice in a row, and then three times.
    fake.answers = [*[stumble, answer] * 2, answer, *[stumble, answer] * 3, answer]
    store = store_at(fake.address)

    def requests_for_one() -> int:
        before = len(fake.requests)
        assert store.get("a/b") == b"data"
        return len(fake.requests) - before

    with caplog.at_level(logging.WARNING):
        assert [requests_for_one() for _ in range(6)] == [2, 2, 1, 2, 2, 2]
    (record,) = caplog.records
    assert "slower of two clients" in record.message
    assert SECRET not in str(vars(record))
    with monkeypatch.context() as resting:
        forbid(resting, NativeReader, "_get")
        assert requests_for_one() == 1
    monkeypatch.setattr("offshelf.store.s3_native.time.monotonic", lambda: float("inf"))
    forbid(monkeypatch, S3Connection, "_read")
    assert requests_for_one() == 1


def test_proxies_are_not_used(fake: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user whose environment names a proxy for the web has a store inside the network asked without it."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    forbid(monkeypatch, S3Connection, "_read")
    fake.answers = [(200, {}, b"data")]
    assert store_at(fake.address).get("a/b") == b"data"


def test_redirects_are_not_followed(fake: FakeServer) -> None:
    """A user's service asks no other machine than the store's, whatever that one answers."""
    fake.answers = [(302, {"Location": f"http://127.0.0.1:{fake.server_port}/elsewhere"}, b"")]
    with pytest.raises(StoreUnavailable, match="check the endpoint"):
        store_at(fake.address).get("a/b")
    assert set(fake.requests) == {"GET /bucket/some/prefix/a/b"}


@pytest.mark.parametrize("name", ["a/../b", "./a", "a/.", ".."])
def test_names_that_look_like_ways_are_left_to_the_other_client(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user's object is never taken for another one that an address could be shortened to."""
    forbid(monkeypatch, NativeReader, "_get")
    reader = NativeReader(
        "http://127.0.0.1:9/bucket", access_key="a", secret_key="b", region="r", timeout=1, certificates=""
    )
    other = Piece(b"other", 5, "1")
    assert reader.read(name, 0, None, lambda: other) is other
