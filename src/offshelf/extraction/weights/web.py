"""Asking for files on the web: over TLS, from hosts on a list, wherever redirects lead.

By urllib.request, since the SDK alone has no other client; it honours the proxies of the environment, and lets us look
at each redirect before it is followed. urllib3, which comes with the S3 client, would do no more for single files.
"""

from __future__ import annotations

import http.client
import ssl
import string
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Final
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlsplit
from urllib.request import (
    HTTPDefaultErrorHandler,
    HTTPErrorProcessor,
    HTTPHandler,
    HTTPRedirectHandler,
    HTTPSHandler,
    OpenerDirector,
    ProxyHandler,
    Request,
    UnknownHandler,
)

from offshelf.errors import InvalidInput, NotFound, OffshelfError, PermissionDenied, Unavailable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping
    from http.client import HTTPMessage, HTTPResponse

WAIT_SECONDS: Final = 30.0
"""How long to wait for a connection, and for the next bytes of an answer."""

_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_GONE: Final = frozenset({404, 410})
_DENIED: Final = frozenset({401, 403, 407})
_NO_SUCH_RANGE: Final = 416
_PASSING: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
_REDIRECTS: Final = range(300, 400)


class Interrupted(Exception):
    """The line or the server failed; another try may do better. The text says how, for the middle of a sentence."""


class NoSuchRange(Interrupted):
    """The server has not as many bytes as were asked for."""


class Hindered(Unavailable):
    """A server does not answer as it should, and will not at once."""


def check_address(url: str, hosts: Collection[str]) -> None:
    """See that an address may be asked.

    Parameters
    ----------
    url
        The address.
    hosts
        Names of the hosts that may be; any port of theirs.

    Raises
    ------
    InvalidInput
        If it is none of the web, or holds credentials or characters that cannot be sent.
    PermissionDenied
        If it is not encrypted, or the host is not on the list.
    """
    if not url.isprintable():
        raise InvalidInput("An address on the web holds no characters that cannot be printed: write them as %XX.")
    try:
        parts = urlsplit(url)
        host, _ = (parts.hostname or "").lower(), parts.port
    except ValueError:
        host = ""
        parts = urlsplit("")
    if not host or parts.scheme not in {"http", "https"} or "@" in parts.netloc:
        raise InvalidInput("An address to fetch from begins with https://host, and holds no user or password.")
    if not host.isascii() or " " in parts.netloc:
        raise InvalidInput(f"{host!r} is no name of a host: write it in ASCII, without blanks (xn--...).")
    if parts.scheme == "http" and host not in _LOOPBACK:
        raise PermissionDenied(f"Nothing is fetched from {host} without encryption: its address is http://.")
    if host not in hosts:
        raise PermissionDenied(
            f"Nothing is fetched from {host}: if it is to be trusted, add it to OFFSHELF_FETCH_HOSTS."
        )


@contextmanager
def ask(
    url: str,
    *,
    hosts: Collection[str],
    headers: Mapping[str, str] | None = None,
    method: str = "GET",
    seconds: float | None = None,
) -> Iterator[Answer]:
    """Ask for an address and give the answer, of which the body is read inside; only success is given.

    Parameters
    ----------
    url
        The address; blanks and letters beyond ASCII are quoted as browsers do.
    hosts
        Those that may be asked.
    headers, method
        Of the request.
    seconds
        How long to wait for each sign of life; by default `WAIT_SECONDS`.

    Raises
    ------
    Interrupted
        If the line or the server failed, here or while the body is read.
    NotFound
        If there is nothing at the address.
    PermissionDenied
        If the server refuses, or it or one it redirects to may not be asked.
    Hindered
        If the server does not answer as it should.
    """
    check_address(url, hosts)
    host = str(urlsplit(url).hostname)
    request = Request(  # noqa: S310  its scheme has been checked
        quote(url, safe=string.punctuation),
        headers={"User-Agent": "offshelf", "Accept-Encoding": "identity", **(headers or {})},
        method=method,
    )
    try:
        response = _opener(hosts).open(request, timeout=seconds or WAIT_SECONDS)
    except HTTPError as error:
        error.close()
        raise _refusal(error.code, host) from error
    except URLError as error:
        raise _failure(error.reason, host) from error
    except (http.client.HTTPException, OSError) as error:
        raise _failure(error, host) from error
    with response:
        yield Answer(response, host)


class Answer:
    """What a server answers.

    Its failures are told from those of whoever keeps what comes: both are `OSError` to Python.
    """

    def __init__(self, response: HTTPResponse, host: str) -> None:
        self._response = response
        self._host = host

    @property
    def status(self) -> int:
        """Of HTTP."""
        return self._response.status

    @property
    def headers(self) -> HTTPMessage:
        """Of HTTP."""
        return self._response.headers

    def read1(self, most: int) -> bytes:
        """Read what has come, so many bytes at most; none at its end. Raises `Interrupted`, `Hindered`."""
        try:
            return self._response.read1(most)
        except (http.client.HTTPException, OSError) as error:
            raise _failure(error, self._host) from error


class _CheckedRedirects(HTTPRedirectHandler):
    """Follows redirects as far as they stay encrypted and among the hosts."""

    def __init__(self, hosts: Collection[str]) -> None:
        self._hosts = hosts

    def redirect_request(
        self, req: Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> Request | None:
        fp.close()  # its text would be read to the end, however long
        try:
            if req.type == "https" and not newurl.lower().startswith("https:"):
                raise PermissionDenied(f"Weights are not fetched without encryption, to which {req.host} redirects.")
            check_address(newurl, self._hosts)
        except OffshelfError as error:
            raise PermissionDenied(f"{error.message} {req.host} redirected to it.") from None
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _opener(hosts: Collection[str]) -> OpenerDirector:
    # Put together by hand: the usual one also opens file: and ftp: addresses.
    opener = OpenerDirector()
    for handler in (
        ProxyHandler(),
        HTTPHandler(),
        HTTPSHandler(),
        _CheckedRedirects(hosts),
        HTTPErrorProcessor(),
        HTTPDefaultErrorHandler(),
        UnknownHandler(),
    ):
        opener.add_handler(handler)
    return opener


def _refusal(status: int, host: str) -> Exception:
    if status in _GONE:
        return NotFound(f"{host} has no such file (status {status}).")
    if status in _DENIED:
        return PermissionDenied(f"{host} refuses (status {status}).")
    if status == _NO_SUCH_RANGE:
        return NoSuchRange(f"the file at {host} is shorter than it was")
    if status in _PASSING:
        return Interrupted(f"{host} answered with status {status}")
    if status in _REDIRECTS:
        return Hindered(f"{host} redirects in a circle, or to nowhere (status {status}).")
    return Hindered(f"{host} answered with status {status}.")


def _failure(reason: object, host: str) -> Exception:
    if isinstance(reason, ssl.SSLCertVerificationError):
        return Hindered(f"The certificate of {host} cannot be trusted: {reason.verify_message}.")
    if isinstance(reason, TimeoutError):
        return Interrupted(f"{host} was silent for too long")
    if isinstance(reason, OSError):
        return Interrupted(f"{host} could not be reached ({reason.strerror or reason})")
    return Interrupted(f"{host} did not answer as web servers do ({type(reason).__name__})")
