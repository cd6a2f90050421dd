"""An S3 server on a bad day: a proxy before a real one that fails a share of the requests and slows down all.

As a program, for chaos in a cluster (standard library only, so that this one file is all a pod needs):

    python -m tests.integration.faulty_s3 --upstream http://s3:9000 --port 9000 --fail 0.1 --delay 0.2

`GET /-/faults` tells what it does and has done; `PUT /-/faults?fail=0.5&delay=0` changes it while it runs.
"""

from __future__ import annotations

import argparse
import json
import random
import socket
import struct
import sys
import threading
import time
from collections import Counter
from http.client import HTTPConnection, HTTPException, HTTPResponse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

INTERNAL, SLOW_DOWN, CUT_BEFORE, CUT_AFTER, CUT_WITHIN = "500", "503", "cut before", "cut after", "cut within"
"""What is done to a request: answered with an error instead of passed on; the connection reset before anything of it is
passed on, after all of it was done, or in the middle of the answer."""

FAULTS = (INTERNAL, SLOW_DOWN, CUT_BEFORE, CUT_AFTER, CUT_WITHIN)

_CHUNK = 256 << 10
_CONTROL = "/-/faults"
_HOP_BY_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "proxy-connection", "upgrade"})
_ERRORS = {INTERNAL: (500, "InternalError"), SLOW_DOWN: (503, "SlowDown")}


class FaultyS3(ThreadingHTTPServer):
    """The proxy; as a context manager it serves in a thread.

    Parameters
    ----------
    upstream
        Host and port of the real server.
    fail
        Share of the requests that fail, from 0 to 1; may be set at any time.
    delay
        Seconds that each request is held back; may be set at any time.
    seed
        Of the choice of faults.
    listen
        Host and port to listen on; port 0 takes a free one.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(
        self,
        upstream: str,
        *,
        fail: float = 0.0,
        delay: float = 0.0,
        seed: int = 0,
        listen: tuple[str, int] = ("127.0.0.1", 0),
    ) -> None:
        super().__init__(listen, _Handler)
        self.upstream = upstream
        self.fail = fail
        self.delay = delay
        self.done: Counter[str] = Counter()
        """How often each fault was made, and how many requests were passed on ("passed")."""
        self._random = random.Random(seed)
        self._spared: int | None = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.server_port}"

    def fail_after(self, requests: int) -> None:
        """Pass on so many more requests, and then none until `fail` is set."""
        with self._lock:
            self._spared = requests

    def choose(self) -> str:
        """Draw what becomes of a request: one of `FAULTS`, or nothing."""
        with self._lock:
            if self._spared is not None:
                self._spared -= 1
                if self._spared < 0:
                    self._spared, self.fail = None, 1.0
            fault = self._random.choice(FAULTS) if self._random.random() < self.fail else ""
            self.done[fault or "passed"] += 1
        return fault

    def shutdown_request(self, request: Any) -> None:
        """Close a connection without the farewell that would come before a reset."""
        self.close_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that leaves is what this server is made for."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyS3
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def setup(self) -> None:
        super().setup()
        self._upstream = HTTPConnection(self.server.upstream, timeout=60)

    def finish(self) -> None:
        self._upstream.close()
        super().finish()

    def respond(self) -> None:
        if urlsplit(self.path).path == _CONTROL:
            self._control()
            return
        time.sleep(self.server.delay)
        fault = self.server.choose()
        if fault == CUT_BEFORE:
            self._reset()
        elif fault in _ERRORS:
            for _ in self._body():
                pass
            status, code = _ERRORS[fault]
            self._answer(status, f"<?xml version='1.0'?><Error><Code>{code}</Code></Error>".encode(), "application/xml")
        else:
            self._pass_on(fault)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = respond  # noqa: N815  names by the base class

    def _pass_on(self, fault: str) -> None:
        headers = {name: value for name, value in self.headers.items() if name.lower() not in _HOP_BY_HOP}
        try:
            # With Host as the client wrote it: it is part of what the client has signed.
            self._upstream.request(self.command, self.path, body=self._body(), headers=headers)
            response = self._upstream.getresponse()
            if fault == CUT_AFTER:
                response.read()
                self._reset()
            else:
                self._return(response, cut=fault == CUT_WITHIN)
        except (OSError, HTTPException):
            self._upstream.close()  # opened again by the next request
            self._reset()

    def _return(self, response: HTTPResponse, *, cut: bool) -> None:
        self.send_response_only(response.status, response.reason)
        headers = [(name, value) for name, value in response.getheaders() if name.lower() not in _HOP_BY_HOP]
        for name, value in headers:
            self.send_header(name, value)
        has_length = any(name.lower() == "content-length" for name, _ in headers)
        if not has_length and response.status not in {204, 304} and self.command != "HEAD":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        while chunk := response.read(_CHUNK):
            self.wfile.write(chunk[: len(chunk) // 2] if cut else chunk)
            if cut:
                break
        if cut:
            self._reset()

    def _body(self) -> Iterator[bytes]:
        rest = int(self.headers.get("Content-Length") or 0)
        while rest > 0 and (chunk := self.rfile.read(min(rest, _CHUNK))):
            rest -= len(chunk)
            yield chunk

    def _reset(self) -> None:
        self.wfile.flush()
        # Closing then sends a reset instead of an orderly end.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True

    def _control(self) -> None:
        for name, value in parse_qsl(urlsplit(self.path).query) if self.command == "PUT" else ():
            if name in {"fail", "delay"}:
                setattr(self.server, name, float(value))
        told = {"fail": self.server.fail, "delay": self.server.delay, "done": dict(self.server.done)}
        self._answer(200, json.dumps(told).encode(), "application/json")

    def _answer(self, status: int, body: bytes, kind: str) -> None:
        self.send_response_only(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the name in the base class
        """Stay quiet."""


def main() -> None:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description="A proxy that makes an S3 server fail.")
    parser.add_argument("--upstream", required=True, help="the real server, as http://HOST:PORT")
    parser.add_argument("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104  it is for pods
    parser.add_argument("--port", type=int, default=0, help="port to listen on; 0 takes a free one")
    parser.add_argument("--fail", type=float, default=0.1, help="share of the requests that fail")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds that each request is held back")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of faults")
    asked = parser.parse_args()
    upstream = urlsplit(asked.upstream).netloc or asked.upstream
    server = FaultyS3(upstream, fail=asked.fail, delay=asked.delay, seed=asked.seed, listen=(asked.host, asked.port))
    sys.stdout.write(json.dumps({"address": f"{asked.host}:{server.server_port}", "upstream": upstream}) + "\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
