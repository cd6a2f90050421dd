"""Asking for files on the web: addresses as people write them, and whose failures are whose."""

from __future__ import annotations

import errno
import ssl
from http.client import IncompleteRead
from typing import TYPE_CHECKING, cast

import pytest

from offshelf.errors import InvalidInput
from offshelf.extraction.weights.web import Answer, Interrupted, ask
from tests.integration.weights_server import WeightsServer

if TYPE_CHECKING:
    from http.client import HTTPResponse

HOSTS = ("127.0.0.1", "m\u00fcnchen.example")


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("/mod\u00e8le.onnx", "/mod%C3%A8le.onnx"),
        ("/my net.onnx?a b=\u00e8", "/my%20net.onnx?a%20b=%C3%A8"),
        ("/my%20net.onnx?a=b+c&d=%C3%A8", "/my%20net.onnx?a=b+c&d=%C3%A8"),
    ],
)
def test_an_address_may_be_written_as_people_write_it(written: str, asked: str) -> None:
    """Letters of all languages and blanks are quoted; what is quoted stays as it is."""
    with WeightsServer({asked: b"net"}) as server, ask(f"http://127.0.0.1:{server.port}{written}", hosts=HOSTS) as got:
        assert got.read1(10) == b"net"


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("http://127.0.0.1/net\n.onnx", "cannot be printed"),
        ("http://127.0.0.1/net\r\nHost: other", "cannot be printed"),
        ("http://127.0.0.1/\ud800", "cannot be printed"),
        ("https://m\u00fcnchen.example/net.onnx", "no name of a host"),
        ("https://127.0.0.1 /net.onnx", "no name of a host"),
    ],
)
def test_an_address_that_cannot_be_sent_is_refused(address: str, said: str) -> None:
    """The message says what is wrong with it, and blames no host."""
    with pytest.raises(InvalidInput, match=said), ask(address, hosts=(*HOSTS, "127.0.0.1 ")):
        pass


class Broken:
    """An answer of which the line fails."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def read1(self, _most: int) -> bytes:
        """Fail."""
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EHOSTUNREACH, "No route to host"),
        OSError(errno.ENETDOWN, "Network is down"),
        ConnectionResetError(errno.ECONNRESET, "reset"),
        TimeoutError(),
        ssl.SSLError(1, "bad record"),
        IncompleteRead(b""),
    ],
)
def test_a_line_that_fails_while_a_file_comes_is_worth_another_try(error: Exception) -> None:
    """Whatever the system calls it: a download goes on, and no run ends for it."""
    with pytest.raises(Interrupted):
        Answer(cast("HTTPResponse", Broken(error)), "host").read1(10)


def test_a_disk_that_fails_is_not_taken_for_the_line() -> None:
    """Who keeps a file on a network drive hears of the drive, not of a host that did nothing wrong."""
    with (
        WeightsServer({"/net": b"net"}) as server,
        pytest.raises(TimeoutError, match="the drive"),
        ask(f"http://127.0.0.1:{server.port}/net", hosts=HOSTS),
    ):
        raise TimeoutError("the drive")
