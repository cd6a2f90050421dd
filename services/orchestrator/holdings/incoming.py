"""One image on its way into the store: collected piece by piece, checked, then written whole."""

from __future__ import annotations

import errno
import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from offshelf.datasets import MAX_IMAGE_BYTES
from offshelf.digests import digest_of_bytes, is_digest
from offshelf.errors import InvalidInput, ResourceExhausted, Unavailable
from offshelf.store import keys
from offshelf.store.patience import waits_end_with

if TYPE_CHECKING:
    import threading
    from collections.abc import Awaitable, Callable
    from typing import TypeAlias

    from offshelf.errors import OffshelfError
    from offshelf.store import ObjectStore

    FindsRoom: TypeAlias = Callable[[int], Awaitable[Callable[[], None]]]
    """Waits for room for so many bytes, and gives what gives it back; see `spool`."""

PIECE_BYTES = 1024 * 1024
"""Most bytes of one piece, and of all pieces that come together."""

MEMORY_BYTES = 1024 * 1024
"""Larger images wait in a temporary file until they are complete."""

MOST_PIECES = 1024
"""Of an image that is held in memory: a piece of one byte takes some hundred."""

NOT_ITS_BYTES = "its bytes are not those that its digest names: send it again"
PIECE_DAMAGED = "a piece of it arrived damaged: send it again"
NOT_TO_ITS_END = "it was not sent to its end"


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an image, or all of a small one."""

    image: str
    """SHA-256 of the whole image, 64 hexadecimal digits."""
    size: int
    """Bytes of the whole image."""
    offset: int
    data: bytes
    digest: str = ""
    """SHA-256 of `data`; may be left out when the piece is the whole image."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of an image."""

    written: bool
    refused: str = ""
    """Why it was not taken; empty if it is in the store."""


class IncomingImage:
    """An image that is being sent.

    Parameters
    ----------
    piece
        The first one; `add` takes it too.

    Raises
    ------
    InvalidInput
        If it is no beginning of an image, or the image is too large.
    """

    def __init__(self, piece: Piece) -> None:
        if not is_digest(piece.image):
            raise InvalidInput("An image is named by its SHA-256, which has 32 bytes.")
        if piece.offset:
            raise InvalidInput(f"Image {piece.image} begins at byte {piece.offset}: send its parts in order.")
        if piece.size > MAX_IMAGE_BYTES:
            raise InvalidInput(f"Image {piece.image} has {piece.size} bytes, more than the {MAX_IMAGE_BYTES} allowed.")
        self.digest = piece.image
        self.size = piece.size
        self._received = 0
        self._pieces: list[Piece] = []
        self._sum = hashlib.sha256()
        self._file: IO[bytes] | None = None
        self._give_back: Callable[[], None] | None = None

    @property
    def begun(self) -> bool:
        """Whether anything of it has come."""
        return self._received > 0

    @property
    def complete(self) -> bool:
        """Whether all of it has come."""
        return self._received == self.size

    @property
    def large(self) -> bool:
        """Whether its pieces have to be written to a file as they come, with `spool`."""
        return self.size > MEMORY_BYTES

    async def find_room(self, find: FindsRoom) -> None:
        """Wait for room for the file of a large image; `discard` gives it back. Raises `ResourceExhausted`."""
        self._give_back = await find(self.size)

    def add(self, piece: Piece) -> None:
        """Take the next piece.

        Raises
        ------
        InvalidInput
            If it is not the next one, or does not fit.
        """
        if piece.size != self.size or piece.offset != self._received or piece.offset + len(piece.data) > self.size:
            raise InvalidInput(
                f"A part of image {self.digest} does not follow the one before: send the parts in order, "
                "and begin the image again after one that was refused."
            )
        if piece.digest and not is_digest(piece.digest):
            raise InvalidInput("The digest of a part is a SHA-256, which has 32 bytes.")
        if self.size and not piece.data:
            raise InvalidInput(f"A part of image {self.digest} holds nothing.")
        if not piece.digest and len(piece.data) != self.size:
            raise InvalidInput(f"A part of image {self.digest} has no digest: only a whole image may leave it out.")
        if not self.large and len(self._pieces) == MOST_PIECES:
            raise InvalidInput(f"Image {self.digest} comes in more than {MOST_PIECES} parts: send larger ones.")
        self._received += len(piece.data)
        if not self.large:
            self._pieces.append(piece)

    def spool(self, piece: Piece, *, stop: threading.Event) -> bool:
        """Write a piece of a large image to its file; False if its bytes are not those of its digest. Blocks.

        Raises
        ------
        ResourceExhausted, Unavailable
            If this machine cannot write the file.
        """
        del stop  # a piece takes milliseconds
        if not _intact(piece):
            return False
        self._sum.update(piece.data)
        try:
            if self._file is None:
                self._file = tempfile.TemporaryFile()  # noqa: SIM115  closed by `discard`; has no name, so nothing stays
            self._file.write(piece.data)
        except OSError as error:
            raise no_room(error) from error
        return True

    def settle(self, store: ObjectStore, *, stop: threading.Event) -> Settled:
        """Check the complete image and write it, unless the store has it. Blocks.

        Raises
        ------
        StoreFull, StoreDenied, StoreUnavailable
            If the store refuses.
        """
        with waits_end_with(stop):
            return self._settle(store)

    def _settle(self, store: ObjectStore) -> Settled:
        data = b"".join(piece.data for piece in self._pieces)
        if not all(map(_intact, self._pieces)):
            return Settled(written=False, refused=PIECE_DAMAGED)
        if (self._sum.hexdigest() if self._file else digest_of_bytes(data)) != self.digest:
            return Settled(written=False, refused=NOT_ITS_BYTES)
        key = keys.image(self.digest)
        if store.stat(key) is not None:
            return Settled(written=False)
        if self._file is None:
            store.put(key, data)
            return Settled(written=True)
        try:
            self._file.flush()
            self._file.seek(0)  # where opening by number gives the same open file, as on macOS
        except OSError as error:
            raise no_room(error) from error
        store.put_file(key, Path(f"/dev/fd/{self._file.fileno()}"))
        return Settled(written=True)

    def discard(self) -> None:
        """Let go of what was collected."""
        self._pieces.clear()
        if self._file is not None:
            self._file.close()
        if self._give_back is not None:
            self._give_back()
            self._give_back = None


def _intact(piece: Piece) -> bool:
    return not piece.digest or digest_of_bytes(piece.data) == piece.digest


def no_room(error: OSError) -> OffshelfError:
    """Say that this machine cannot write a temporary file."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return ResourceExhausted(
            "The server has no room for temporary files at the moment: try again later, or give it more room in /tmp."
        )
    return Unavailable(f"The server cannot write temporary files ({error.strerror}): its TMPDIR needs a folder.")
