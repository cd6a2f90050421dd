"""What an S3 server's refusals are called: one line that says what to do, whatever form the refusal has."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from ipaddress import ip_address
from socket import gethostname
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from offshelf.errors import InvalidInput, OffshelfError, StoreDenied, StoreFull, StoreUnavailable
from offshelf.store import open_store
from offshelf.store.s3 import S3Store
from tests.contract.fake_s3 import ASKED, SECRET, refusal, store_at

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.contract.fake_s3 import FakeServer
    from tests.integration.rclone_s3 import S3Server


@pytest.mark.parametrize("kind", ["application/xml", "text/xml; charset=utf-8"])
@pytest.mark.parametrize(
    ("status", "code", "expected", "words"),
    [
        (
            404,
            "NoSuchBucket",
            StoreDenied,
            r"has no bucket 'bucket': .*create it \(aws s3 mb s3://bucket --endpoint-url",
        ),
        (403, "AccessDenied", StoreDenied, "does not let these keys (read|write|list) in bucket 'bucket'"),
        (403, "SignatureDoesNotMatch", StoreDenied, "the secret key .*: check OFFSHELF_S3_SECRET_KEY"),
        (403, "InvalidAccessKeyId", StoreDenied, "the access key .*: check OFFSHELF_S3_ACCESS_KEY"),
        (403, "RequestTimeTooSkewed", StoreDenied, "this machine's clock is too far from its own .*: set the clock"),
        (405, "MethodNotAllowed", StoreDenied, "refuses to (read|write|list)"),
        (400, "AuthorizationHeaderMalformed", StoreDenied, "region"),
        (400, "EntityTooLarge", StoreFull, "free some space, then run the same command again"),
        (403, "QuotaExceeded", StoreFull, "free some space"),
        (507, "XMinioStorageFull", StoreFull, "free some space"),
        (507, "Whatever", StoreFull, "free some space"),
        (409, "OperationAborted", StoreUnavailable, "try again later"),
        (429, "TooManyRequests", StoreUnavailable, "try again later"),
        (500, "InternalError", StoreUnavailable, "try again later"),
        (503, "SlowDown", StoreUnavailable, "try again later"),
        (404, "NoSuchUpload", StoreUnavailable, "try again later"),
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


def test_what_is_refused_is_named(fake: FakeServer, tmp_path: Path) -> None:
    """A user whose keys may only read is told that writing is what is not allowed."""
    fake.answers = [(403, {"Content-Type": "application/xml"}, refusal("AccessDenied"))]
    (tmp_path / "file").write_bytes(b"x")
    asked: dict[str, Callable[[S3Store], object]] = {
        "write": lambda store: store.put_file("a/b", tmp_path / "file"),
        "delete": lambda store: store.delete("a/b"),
        "list": lambda store: store.children("a/"),
        "read": lambda store: store.stat("a/b"),
    }
    for doing, ask in asked.items():
        with pytest.raises(StoreDenied, match=rf"let these keys {doing} in bucket 'bucket' \(AccessDenied\): allow"):
            ask(store_at(fake.address))


@pytest.mark.parametrize(("minutes", "words"), [(-20, "20 minutes ahead of"), (20, "20 minutes behind")])
@pytest.mark.parametrize("status", [400, 403])
def test_a_clock_that_is_off_is_named_where_the_server_has_no_words(
    fake: FakeServer, status: int, minutes: int, words: str
) -> None:
    """A user whose clock is wrong is told so, and by how much, also where the server sends a status and its time."""
    fake.answers = [(status, {"Date": format_datetime(datetime.now(UTC) + timedelta(minutes=minutes))}, b"")]
    with pytest.raises(
        StoreDenied, match=f"this machine's clock is {words} its own .*: set the clock of {gethostname()}"
    ):
        store_at(fake.address).stat("a/b")


def test_a_clock_that_is_a_little_off_is_no_reason(fake: FakeServer) -> None:
    """A user whose clock is ten minutes off, which servers allow, is told the real reason of a refusal."""
    fake.answers = [(403, {"Date": format_datetime(datetime.now(UTC) - timedelta(minutes=10))}, b"")]
    with pytest.raises(StoreDenied, match="does not let these keys read"):
        store_at(fake.address).stat("a/b")


@pytest.mark.parametrize("body", [b"<html>Welcome!</html>", b"not even xml", b"", b"\xff\xfe"])
def test_what_is_no_s3_server_is_named(fake: FakeServer, body: bytes) -> None:
    """A user who points at some web server is told to check the endpoint."""
    fake.answers = [(200, {"Content-Type": "text/html"}, body)]
    with pytest.raises(StoreDenied, match="check the endpoint"):
        list(store_at(fake.address).list(""))


def make_certificate(path: Path, *, days: int = 1) -> Path:
    """Make a file with a key and a certificate for 127.0.0.1 that signs itself, valid for so many days from now."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "a test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    plain_key = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(plain_key + made.public_bytes(Encoding.PEM))
    return path


def over_tls(fake: FakeServer, certificate: Path) -> str:
    """Have the fake speak TLS; return its host and port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    fake.socket = context.wrap_socket(fake.socket, server_side=True)
    return f"127.0.0.1:{fake.server_port}"


def test_a_certificate_that_is_not_trusted_is_named(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user of a server with a certificate of one's own is told how to have it trusted, and then it is."""
    fake.answers = [(200, {}, b"data")]
    certificate = make_certificate(tmp_path / "certificate.pem")
    address = over_tls(fake, certificate)
    with pytest.raises(StoreDenied, match=r"certificate does not pass \(self-signed certificate\). Set SSL_CERT_FILE"):
        S3Store(address, "bucket", access_key="a", secret_key="b").get("a/b")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert S3Store(address, "bucket", access_key="a", secret_key="b").get("a/b") == b"data"


def test_a_certificate_that_has_expired_is_named(
    fake: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user whose server's certificate has run out, or whose clock is wrong, is told so."""
    certificate = make_certificate(tmp_path / "certificate.pem", days=-1)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with pytest.raises(StoreDenied, match=r"\(certificate has expired\). Renew it, or set this machine's clock"):
        S3Store(over_tls(fake, certificate), "bucket", access_key="a", secret_key="b").get("a/b")


def test_a_server_without_tls_is_named(fake: FakeServer) -> None:
    """A user who writes https:// for a server that speaks http is told so."""
    fake.answers = [(200, {}, b"data")]
    with pytest.raises(StoreDenied, match="write http:// for its endpoint"):
        S3Store(f"127.0.0.1:{fake.server_port}", "bucket", access_key="a", secret_key="b").get("a/b")


def test_wrong_keys_are_refused(s3_server: S3Server) -> None:
    """A user with a wrong key is told which variable to check, at once."""
    for name in s3_server.environ:
        environ = {**s3_server.environ, name: "wrong-and-not-shown"}
        with pytest.raises(StoreDenied, match=f"check {name}") as caught:
            open_store(s3_server.url("wrong-keys"), environ=environ)
        assert "wrong-and-not-shown" not in caught.value.message


def test_a_missing_bucket_is_named(s3_server: S3Server) -> None:
    """A user who mistypes the bucket is told to create or correct it."""
    with pytest.raises(StoreDenied, match=r"has no bucket 'no-such-bucket'.*s3 mb s3://no-such-bucket"):
        open_store(s3_server.url("x", bucket="no-such-bucket"), environ=s3_server.environ)


@pytest.mark.parametrize("bucket", ["x..y", "192.168.0.1"])
def test_a_bucket_that_is_none_is_refused(bucket: str) -> None:
    """A user who writes a name that no bucket can have is told so when it is opened."""
    with pytest.raises(InvalidInput, match="cannot be the address"):
        S3Store("127.0.0.1:9", bucket, access_key="a", secret_key="b")


def test_an_endpoint_that_is_none_is_refused() -> None:
    """A user who writes an impossible endpoint is told so."""
    with pytest.raises(InvalidInput, match="cannot be the address"):
        S3Store("not a host:port", "bucket", access_key="a", secret_key="b")
