"""Files that this server fetches for a user: from buckets and hosts that it may fetch from, and nowhere else."""

from __future__ import annotations

import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Final, Protocol
from urllib.parse import urlsplit, urlunsplit

from offshelf.datasets.bucket import check_bucket
from offshelf.errors import Cancelled, DeadlineExceeded, InvalidInput, NotFound, PermissionDenied, Unavailable
from offshelf.extraction.weights.web import Hindered, Interrupted, ask
from offshelf.store import open_bucket
from offshelf.store.addresses import is_s3

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

_PIECE_BYTES: Final = 1 << 20
_LONGEST_SECONDS: Final = 1800.0
"""Of one file, for its bytes: who sends a byte now and then would else hold a place for days."""

_NUMBER: Final = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class Fetched:
    """A file that is being fetched."""

    size: int | None
    """Bytes that it should have; None if whoever sends it does not say."""
    pieces: Iterator[bytes]

    def read(self, *, stop: threading.Event) -> Iterator[bytes]:
        """Yield it piece by piece, until the event is set. Raises what `Fetches` does."""
        for piece in self.pieces:
            if stop.is_set():
                raise Cancelled("Nobody waits for this file any more.")
            yield piece


class Fetches(Protocol):
    """Fetches a file; blocks."""

    def __call__(self, address: str, *, most: int) -> AbstractContextManager[Fetched]:
        """Open a file, which is read within the block.

        Parameters
        ----------
        address
            "s3://bucket/name" or "https://host/path".
        most
            Bytes that it may have.

        Raises
        ------
        InvalidInput
            If the address is none, its host does not answer as it should, or the file is too large.
        NotFound
            If there is no such file.
        PermissionDenied
            If it may not be fetched from there.
        DeadlineExceeded
            If it comes too slowly.
        Unavailable
            If it cannot be fetched at the moment.
        """
        ...


class Fetcher:
    """Fetches from buckets and hosts.

    Parameters
    ----------
    buckets
        Buckets, perhaps with a prefix, that users may read from: `Settings.data_buckets`.
    hosts
        Hosts that users may have this server ask: those of `Settings.fetch_hosts` and no others, whatever hosts
        weights come from by default.
    beside
        Address of the installation's store; see `open_bucket`.
    """

    def __init__(self, *, buckets: tuple[str, ...], hosts: tuple[str, ...], beside: str) -> None:
        self._buckets = buckets
        self._hosts = hosts
        self._beside = beside

    @contextmanager
    def __call__(self, address: str, *, most: int) -> Iterator[Fetched]:
        """See `Fetches`."""
        with self._from_bucket(address) if is_s3(address) else self._from_host(address) as found:
            if found.size is not None and found.size > most:
                raise _too_large(address, most)
            yield Fetched(found.size, _bounded(address, found.pieces, most))

    @contextmanager
    def _from_bucket(self, address: str) -> Iterator[Fetched]:
        checked = check_bucket(address, self._buckets)
        name, _, key = checked.removeprefix("s3://").partition("/")
        if not key:
            raise InvalidInput(f"{address!r} names a bucket and no file in it.")
        bucket = open_bucket(f"s3://{name}", beside=self._beside)
        first = bucket.read(key, length=_PIECE_BYTES)

        def pieces() -> Iterator[bytes]:
            offset, piece = 0, first
            while piece.data:
                if piece.version != first.version:
                    raise Unavailable(f"{address} was replaced while it was read: try again.")
                yield piece.data
                offset += len(piece.data)
                if offset >= piece.size:
                    return
                piece = bucket.read(key, offset=offset, length=_PIECE_BYTES)

        yield Fetched(first.size, pieces())

    @contextmanager
    def _from_host(self, address: str) -> Iterator[Fetched]:
        # Without encryption only this machine is asked, and only if it is on the list: see `check_address`.
        if not address.lower().startswith(("https://", "http://")):
            raise InvalidInput(f"{address!r} cannot be fetched: write s3://bucket/name or https://host/path.")
        if not self._hosts:
            raise PermissionDenied(
                f"This server fetches no files for users, so not {address} either: upload the file, or have its host "
                "added to OFFSHELF_FETCH_HOSTS."
            )
        try:
            with ask(address, hosts=self._hosts) as answer:
                said = answer.headers.get("Content-Length", "")
                size = int(said) if _NUMBER.fullmatch(said) else None

                def pieces() -> Iterator[bytes]:
                    received = 0
                    while piece := answer.read1(_PIECE_BYTES):
                        received += len(piece)
                        yield piece
                    if size is not None and received < size:
                        raise Unavailable(f"{address} was cut after {received} of {size} bytes: try again.")

                yield Fetched(size, pieces())
        except Hindered as error:
            raise InvalidInput(f"{address} cannot be fetched. {error.message}") from error
        except Interrupted as error:
            raise Unavailable(f"{address} could not be fetched: {error}. Try again.") from error


def _bounded(address: str, pieces: Iterator[bytes], most: int) -> Iterator[bytes]:
    received, deadline = 0, time.monotonic() + _LONGEST_SECONDS
    for piece in pieces:
        received += len(piece)
        if received > most:
            raise _too_large(address, most)
        if time.monotonic() > deadline:
            raise DeadlineExceeded(f"{address} took longer than {_LONGEST_SECONDS:g} seconds to fetch.")
        yield piece


def _too_large(address: str, most: int) -> InvalidInput:
    return InvalidInput(f"{address} has more than the {most} bytes that are allowed.")


def read_beside(fetch: Fetches, address: str, *, most: int, stop: threading.Event) -> tuple[str, bytes]:
    """Fetch the description of a network from beside it: its address, and what it holds.

    Raises
    ------
    InvalidInput
        If the address names no file.
    NotFound
        If there is none.
    PermissionDenied
        If it may not be fetched; also what some buckets say of a file that is not there.
    """
    first: NotFound | PermissionDenied | None = None
    tried = _beside(address)
    for beside in tried:
        try:
            with fetch(beside, most=most) as found:
                return beside, b"".join(found.read(stop=stop))
        except (NotFound, PermissionDenied) as error:
            first = first or error
    if isinstance(first, PermissionDenied):
        raise first
    raise NotFound(f"There is no description beside {address}: put one at {tried[0]}.")


def _beside(address: str) -> list[str]:
    """Name the descriptions of a network: net.onnx.json and net.json for net.onnx, each with the query behind it."""
    try:
        parts = urlsplit(address)
    except ValueError:
        raise InvalidInput(f"{address!r} cannot be fetched: write s3://bucket/name or https://host/path.") from None
    folder, _, name = parts.path.rpartition("/")
    if not name:
        raise InvalidInput(f"{address!r} names no file: write s3://bucket/name or https://host/path.")
    names = dict.fromkeys((f"{name}.json", f"{PurePosixPath(name).stem}.json"))
    return [urlunsplit(parts._replace(path=f"{folder}/{each}")) for each in names]
