"""An S3 server that says what a test tells it to say."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

from offshelf.store.s3 import S3Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

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
        self.send_response_only(status)
        for name, value in {"Content-Length": str(len(body)), "Connection": "close", **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = respond  # noqa: N815  names by the base class

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in the base class
        """Stay quiet."""


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


def page(keys: Iterable[str], *, then: str = "") -> tuple[int, dict[str, str], bytes]:
    """Write one page of a list as servers do, and where to go on."""
    items = "".join(
        f"<Contents><Key>{key}</Key><Size>3</Size><LastModified>2026-01-02T03:04:05.000Z</LastModified></Contents>"
        for key in keys
    )
    more = (
        f"<IsTruncated>{'true' if then else 'false'}</IsTruncated><NextContinuationToken>{then}</NextContinuationToken>"
    )
    body = f"<ListBucketResult><Name>bucket</Name>{more}{items}</ListBucketResult>"
    return 200, {"Content-Type": "application/xml"}, body.encode()


ASKED: tuple[Callable[[S3Store], object], ...] = (
    lambda store: store.get("a/b"),
    lambda store: store.put("a/b", b"x"),
    lambda store: list(store.list("a")),
)
"""A question of each kind."""
