"""Images that users send."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from offshelf.errors import InvalidInput
from offshelf.services.orchestrator.concurrency import outlast
from offshelf.services.orchestrator.holdings.admission import Admission
from offshelf.services.orchestrator.holdings.incoming import (
    NOT_TO_ITS_END,
    PIECE_BYTES,
    PIECE_DAMAGED,
    IncomingImage,
)
from offshelf.services.orchestrator.holdings.spool import LONGEST_SPOOLED, SpoolRoom

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from offshelf.services.orchestrator.holdings.hearing import Hearing
    from offshelf.services.orchestrator.holdings.incoming import FindsRoom, Piece
    from offshelf.services.orchestrator.holdings.quotas import Allowance, Quotas
    from offshelf.services.orchestrator.holdings.shelf import Threads
    from offshelf.store import ObjectStore

MOST_UPLOADS = 32
"""Calls at a time: each may hold some MiB of memory."""

MOST_UPLOADS_OF_USER = 8
"""Of one user; a client uses four connections."""

LEAST_BYTES = 64 * 1024
"""So much has to come in the time that a client may be silent; what a link brings that serves for uploads is more."""

_UNDER_WAY = 8
"""Images of one call that are being written at a time; the next message is read when there is room."""

_MOST_REFUSED = 10_000
"""A call with more images that are not what they say is no accident."""


@dataclass(slots=True)
class UploadOutcome:
    """What became of the images of one call."""

    stored: int = 0
    """Images that this call added to the store; those that were there are not counted."""
    refused: dict[str, str] = field(default_factory=dict)
    """Reason by the digest of each image that was not taken."""


class Uploads:
    """Takes images in.

    Parameters
    ----------
    hearing
        Says how long a client may be silent.
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        threads: Threads,
        quotas: Quotas,
        hearing: Hearing,
        admission: Admission | None = None,
        room: SpoolRoom | None = None,
    ) -> None:
        self._store = store
        self._threads = threads
        self._quotas = quotas
        self._hearing = hearing
        self._room = room or SpoolRoom()
        self._admission = admission or Admission(most=MOST_UPLOADS, most_of_user=MOST_UPLOADS_OF_USER)

    async def receive(self, user: str, messages: AsyncIterator[Sequence[Piece]]) -> UploadOutcome:
        """Store what one call sends. What has come completely is stored, however the call ends.

        Raises
        ------
        InvalidInput
            If parts do not follow each other, or are too large.
        QuotaExceeded
            If the user has as much as they may have.
        ResourceExhausted
            If too many uploads are going on, there is no room for large images, or the store is full.
        DeadlineExceeded
            If nothing comes for too long, or too little.
        Unavailable
            If the store cannot be reached, or this server is stopping.
        """
        with self._admission.admitted(user):
            allowance = await self._quotas.allowance(user)
            reception = _Reception(self._store, self._threads, allowance, partial(self._room.take, user))
            try:
                async with aclosing(self._hearing.of(messages, _bytes, least=reception.least)) as heard:
                    async for pieces in heard:
                        await reception.take(pieces)
                return await reception.outcome()
            finally:
                await reception.close()


class _Reception:
    """The images of one call."""

    def __init__(self, store: ObjectStore, threads: Threads, allowance: Allowance, find_room: FindsRoom) -> None:
        self._store = store
        self._threads = threads
        self._allowance = allowance
        self._find_room = find_room
        self._outcome = UploadOutcome()
        self._current: IncomingImage | None = None
        self._passed_over = ""
        """The image that was refused last, of which more pieces may come."""
        self._room = asyncio.Semaphore(_UNDER_WAY)
        self._writing: set[asyncio.Task[None]] = set()
        self._settling: set[str] = set()
        self._failure: BaseException | None = None

    def least(self) -> int:
        """Say how much has to come in the time that the client may be silent."""
        spooled = self._current.size if self._current is not None and self._current.large else 0
        return max(LEAST_BYTES, spooled // LONGEST_SPOOLED)

    async def take(self, pieces: Sequence[Piece]) -> None:
        if _bytes(pieces) > PIECE_BYTES:
            raise InvalidInput(f"A message holds more than {PIECE_BYTES} bytes of images: send them in smaller parts.")
        for piece in pieces:
            if self._failure is not None:
                raise self._failure
            await self._take(piece)

    async def _take(self, piece: Piece) -> None:
        if piece.offset and piece.image == self._passed_over:
            return
        self._passed_over = ""
        if self._current is not None and (piece.image != self._current.digest or not piece.offset):
            self._refuse(self._current, NOT_TO_ITS_END)
        if self._current is None:
            while piece.image in self._settling:  # the same again: one after the other, or both would count
                await asyncio.wait(self._writing, return_when=asyncio.FIRST_COMPLETED)
            self._current = IncomingImage(piece)
            self._allowance.take(piece.image, piece.size)
            if self._current.large:
                await self._current.find_room(self._find_room)
        image = self._current
        image.add(piece)
        if image.large and not await self._threads.run(image.spool, piece):
            self._refuse(image, PIECE_DAMAGED)
            self._passed_over = piece.image
        elif image.complete:
            await self._room.acquire()
            self._current = None
            self._settling.add(image.digest)
            task = asyncio.create_task(self._settle(image))
            self._writing.add(task)
            task.add_done_callback(self._writing.discard)

    async def _settle(self, image: IncomingImage) -> None:
        try:
            settled = await self._threads.run(image.settle, self._store)
            if settled.refused:
                self._refuse(image, settled.refused)
            elif settled.written:
                self._allowance.keep(image.digest)
                self._outcome.stored += 1
            else:
                self._allowance.give_back(image.digest)
        except BaseException as error:  # noqa: BLE001  raised by `take` or `outcome`: a task has nobody to raise to
            self._allowance.give_back(image.digest)
            self._failure = self._failure or error
        finally:
            self._settling.discard(image.digest)
            self._room.release()
            image.discard()

    def _refuse(self, image: IncomingImage, reason: str) -> None:
        self._allowance.give_back(image.digest)
        image.discard()
        if self._current is image:
            self._current = None
        self._outcome.refused[image.digest] = reason
        if len(self._outcome.refused) > _MOST_REFUSED:
            raise InvalidInput("Thousands of images are not what their digests say: check how they are read.")

    async def outcome(self) -> UploadOutcome:
        if self._current is not None:
            self._refuse(self._current, NOT_TO_ITS_END)
        await outlast(self._writing)
        if self._failure is not None:
            raise self._failure
        return self._outcome

    async def close(self) -> None:
        """Wait until nothing is written any more, and let go of the rest."""
        if self._current is not None:
            self._allowance.give_back(self._current.digest)
            self._current.discard()
            self._current = None
        await outlast(self._writing)


def _bytes(pieces: Sequence[Piece]) -> int:
    return sum(len(piece.data) for piece in pieces)
