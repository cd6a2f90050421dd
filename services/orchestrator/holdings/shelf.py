"""The uploaded images in the store, asked for many at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from offshelf.errors import Cancelled
from offshelf.services.orchestrator.concurrency import all_of
from offshelf.store import keys
from offshelf.store.patience import waits_end_with

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Sequence

    from offshelf.store import ObjectStore

T = TypeVar("T")

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
        self._questions = asyncio.Semaphore(_QUESTIONS)

    async def sizes(self, digests: Collection[str]) -> dict[str, int]:
        """Find out which of these images the store has, and their bytes."""
        folders: dict[str, list[str]] = {}
        for digest in dict.fromkeys(digests):
            folders.setdefault(keys.image(digest).removesuffix(digest), []).append(digest)
        shared = list(folders.items())
        async with self._questions:
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
