"""A web server on loopback that gives files as it is told: whole, in part, slowly, wrongly, or not at all."""

from __future__ import annotations

import hashlib
import re
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Callable

    Behaviour = Callable[["Exchange"], None]


class Exchange(BaseHTTPRequestHandler):
    """One request, and what can be done with it."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Do what is next in the script, or answer as one should."""
        ours = self.server.owner
        ours.requests.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        behaviour = ours.script.popleft() if ours.script else ours.otherwise
        behaviour(self)

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    @property
    def content(self) -> bytes | None:
        """The file that was asked for."""
        return self.server.owner.files.get(self.path)

    def begin(self, status: int, length: int, **headers: str) -> None:
        """Send the head of an answer."""
        self.send_response(status)
        self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def hang_up(self) -> None:
        """Close the connection after this answer."""
        self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    owner: WeightsServer

    def handle_error(self, *_: object) -> None:
        """Keep quiet about clients that have left."""


class WeightsServer:
    """Serves `files`, by path; for the time of a block.

    Attributes
    ----------
    script
        What to do with the next requests, one each.
    otherwise
        What to do with all others.
    requests
        Paths and headers of what was asked.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self.files = dict(files or {})
        self.script: deque[Behaviour] = deque()
        self.otherwise: Behaviour = properly
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.released = threading.Event()
        self._server = _Server(("127.0.0.1", 0), Exchange)
        self._server.owner = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def url(self, path: str = "") -> str:
        """Address of a file."""
        return f"http://127.0.0.1:{self.port}{path}"


def etag(data: bytes) -> str:
    """What the server calls some content."""
    return f'"{hashlib.sha256(data).hexdigest()[:16]}"'


def properly(exchange: Exchange) -> None:
    """Answer as one should, ranges included."""
    data = exchange.content
    if data is None:
        exchange.begin(404, 0)
        return
    wanted = re.fullmatch(r"bytes=(\d+)-", exchange.headers.get("Range", ""))
    if wanted and exchange.headers.get("If-Range", etag(data)) == etag(data):
        offset = int(wanted[1])
        if offset >= len(data):
            exchange.begin(416, 0, Content_Range=f"bytes */{len(data)}")
            return
        place = f"bytes {offset}-{len(data) - 1}/{len(data)}"
        exchange.begin(206, len(data) - offset, ETag=etag(data), Content_Range=place)
        exchange.wfile.write(data[offset:])
        return
    exchange.begin(200, len(data), ETag=etag(data))
    exchange.wfile.write(data)


def refusing(status: int) -> Behaviour:
    """Answer with a status and nothing more."""
    return lambda exchange: exchange.begin(status, 0)


def cut(after: int) -> Behaviour:
    """Hang up after some bytes."""

    def answer(exchange: Exchange) -> None:
        data = exchange.content or b""
        exchange.begin(200, len(data), ETag=etag(data))
        exchange.wfile.write(data[:after])
        exchange.hang_up()

    return answer


def stall(after: int) -> Behaviour:
    """Say nothing more after some bytes, and keep the line open."""

    def answer(exchange: Exchange) -> None:
        data = exchange.content or b""
        exchange.begin(200, len(data), ETag=etag(data))
        exchange.wfile.write(data[:after])
        exchange.wfile.flush()
        exchange.server.owner.released.wait()
        exchange.hang_up()

    return answer


def corrupt(exchange: Exchange) -> None:
    """Send as many bytes, but one of them another."""
    data = bytearray(exchange.content or b"")
    data[len(data) // 2] ^= 1
    exchange.begin(200, len(data), ETag=etag(bytes(data)))
    exchange.wfile.write(data)


def without_ranges(exchange: Exchange) -> None:
    """Send the whole, whatever was asked for."""
    data = exchange.content or b""
    exchange.begin(200, len(data), ETag=etag(data))
    exchange.wfile.write(data)


def too_much(exchange: Exchange) -> None:
    """Announce and send more than the file has."""
    data = (exchange.content or b"") + b"x" * 1000
    exchange.begin(200, len(data))
    exchange.wfile.write(data)


def endless(exchange: Exchange) -> None:
    """Send and send, without saying how much."""
    exchange.send_response(200)
    exchange.send_header("Connection", "close")
    exchange.end_headers()
    while not exchange.server.owner.released.is_set():
        exchange.wfile.write(b"x" * 65536)


def other_rest(exchange: Exchange) -> None:
    """Send the rest of another file as if it were that of this one."""
    data = exchange.content or b""
    offset = int(exchange.headers.get("Range", "bytes=0-")[6:-1])
    place = f"bytes {offset}-{len(data) - 1}/{len(data)}"
    exchange.begin(206, len(data) - offset, Content_Range=place)
    exchange.wfile.write(b"y" * (len(data) - offset))


def status(code: int, **headers: str) -> Behaviour:
    """Answer with a status and nothing else."""
    return lambda exchange: exchange.begin(code, 0, **headers)


def endless_redirect(url: str) -> Behaviour:
    """Send to another address, with a text that does not end."""

    def answer(exchange: Exchange) -> None:
        exchange.send_response(302)
        exchange.send_header("Location", url)
        exchange.send_header("Connection", "close")
        exchange.end_headers()
        while not exchange.server.owner.released.is_set():
            exchange.wfile.write(b"x" * 65536)

    return answer


def redirect(url: str) -> Behaviour:
    """Send to another address."""
    return status(302, Location=url)
