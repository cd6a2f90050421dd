"""One network on its way into the store: announced, then collected on the disk of this machine."""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final, Self

from offshelf.digests import is_digest
from offshelf.errors import InvalidInput
from offshelf.extraction.own.description import Description, network_digest
from offshelf.extraction.own.stored import MAX_NETWORK_BYTES
from offshelf.services.orchestrator.holdings.incoming import no_room

if TYPE_CHECKING:
    import threading

    from offshelf.extraction.own.description import NetworkFormat

LONGEST_NAME: Final = 200


@dataclass(frozen=True, slots=True)
class NetworkHeader:
    """What a client says of a network before it sends it."""

    name: str
    """Of the file."""
    format: NetworkFormat
    description: Description
    size: int
    """Bytes of the file."""
    file: str
    """SHA-256 of the file."""

    def __post_init__(self) -> None:
        if not is_digest(self.file):
            raise InvalidInput("A network is named by the SHA-256 of its file, which has 32 bytes.")
        if not 0 < self.size <= MAX_NETWORK_BYTES:
            raise InvalidInput(f"A network has 1 to {MAX_NETWORK_BYTES} bytes (1 GiB); {self.name!r} has {self.size}.")
        if not 0 < len(self.name) <= LONGEST_NAME or not self.name.isprintable():
            raise InvalidInput(f"The name of a network's file has 1 to {LONGEST_NAME} characters that can be printed.")

    @property
    def digest(self) -> str:
        """Names the network."""
        return network_digest(self.file, self.format, self.description)


class IncomingNetwork:
    """A file on its way into the store, on the disk of this machine; it goes with the block."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._sum = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self.received = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()

    @property
    def digest(self) -> str:
        """SHA-256 of what has come."""
        return self._sum.hexdigest()

    def write(self, data: bytes, *, stop: threading.Event) -> None:
        """Take the next bytes; blocks.

        Raises
        ------
        InvalidInput
            If there are more than was said.
        ResourceExhausted, Unavailable
            If this machine cannot write the file.
        """
        del stop  # a piece takes milliseconds
        self.received += len(data)
        if self.received > self._most:
            raise InvalidInput(f"More than the {self._most} bytes came that the network should have.")
        self._sum.update(data)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed with the block; has no name
            self._file.write(data)
        except OSError as error:
            raise no_room(error) from error

    def finished(self) -> Path:
        """Return where all of it can be read."""
        assert self._file is not None  # noqa: S101  (a network has a byte at least)
        self._file.flush()
        self._file.seek(0)  # where opening by number gives the same open file, as on macOS
        return Path(f"/dev/fd/{self._file.fileno()}")
