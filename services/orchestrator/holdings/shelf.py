"""The uploaded images in the store, asked for many at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from offshelf.digests import is_digest
from offshelf.errors import Cancelled, InvalidInput
from offshelf.services.orchestrator.concurrency import all_of
from offshelf.services.orchestrator.holdings.admission import Admission
from offshelf.store import keys
from offshelf.store.patience import waits_end_with

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Sequence

    from offshelf.store import ObjectStore

T = TypeVar("T")

MOST_ASKED = 100_000
"""Images that one question may name."""

MOST_QUESTIONS = 32
MOST_QUESTIONS_OF_USER = 8
"""About images, at a time; a client asks over four connections."""

_LOOKERS = 8
"""Threads that look for the images of one question."""

_QUESTIONS = 4
"""Questions that are answered at a time; others wait."""

_LIST_FROM = 32
"""So many images wanted of one folder of the store are found faster by a list of it than one by one: a list brings a
thousand names at once, also where each question to the store takes milliseconds."""


class Threads(Protocol):
    """Runs blocking work off the event loop, with `stop` as a further argument (`offshelf.rpc.offload.Offload`)."""

    async def run(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> T:
        """Call the function in a thread."""
        ...


class ImageShelf:
    """Says which images are there."""

    def __init__(self, store: ObjectStore, threads: Threads) -> None:
        self._store = store
        self._threads = threads
        self._answering = asyncio.Semaphore(_QUESTIONS)
        self._questions = Admission(
            most=MOST_QUESTIONS, most_of_user=MOST_QUESTIONS_OF_USER, what="questions about images"
        )

    async def missing(self, user: str, digests: Collection[str]) -> list[str]:
        """Find out which images the store does not have.

        Raises
        ------
        InvalidInput
            For something that is no digest, or too many of them.
        ResourceExhausted
            If the user, or all together, ask too much at a time.
        """
        check_number_asked(len(digests))
        if not all(map(is_digest, digests)):
            raise InvalidInput("An image is named by its SHA-256, which has 32 bytes.")
        with self._questions.admitted(user):
            found = await self.sizes(digests)
        return [digest for digest in dict.fromkeys(digests) if digest not in found]

    async def sizes(self, digests: Collection[str]) -> dict[str, int]:
        """Find out which of these images the store has, and their bytes."""
        folders: dict[str, list[str]] = {}
        for digest in dict.fromkeys(digests):
            folders.setdefault(keys.image(digest).removesuffix(digest), []).append(digest)
        shared = list(folders.items())
        async with self._answering:
            answers = await all_of(
                self._threads.run(self._look_up, shared[first::_LOOKERS]) for first in range(min(_LOOKERS, len(shared)))
            )
        return {digest: size for answer in answers for digest, size in answer.items()}

    def _look_up(self, folders: Sequence[tuple[str, list[str]]], *, stop: threading.Event) -> dict[str, int]:
        found: dict[str, int] = {}
        for folder, digests in folders:
            if stop.is_set():
                raise Cancelled("Nobody waits for this answer any more.")
            with waits_end_with(stop):
                found.update(self._look_into(folder, digests))
        return found

    def _look_into(self, folder: str, digests: list[str]) -> dict[str, int]:
        if len(digests) < _LIST_FROM:
            infos = {digest: self._store.stat(keys.image(digest)) for digest in digests}
            return {digest: info.size for digest, info in infos.items() if info is not None}
        wanted = set(digests)
        names = ((info.key.removeprefix(folder), info.size) for info in self._store.list(folder))
        return {name: size for name, size in names if name in wanted}


def check_number_asked(images: int) -> None:
    """Refuse a question about too many images. Raises `InvalidInput`."""
    if images > MOST_ASKED:
        raise InvalidInput(f"{images} images are asked for at once: ask for at most {MOST_ASKED}.")
