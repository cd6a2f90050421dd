"""Decoder processes as extraction uses them: several images a call, a second trial for those that end or hang one."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from offshelf.digests import digest_of_bytes
from offshelf.errors import Cancelled
from offshelf.extraction.decoding import HANDLER, Decoded, answers, call, setup
from offshelf.images import ImageStatus
from offshelf.workers import KEEPING_MEMORY, ONE_THREAD, WITHOUT_SECRETS, WorkerCrashed, WorkerPool, WorkerTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from offshelf.extraction.spec import ExtractorSpec

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5

_SECOND_TRIAL = 2
"""So many times the limit of the first trial an image may take in its second one."""


def pool_of(spec: ExtractorSpec, max_pixels: int, size: int) -> WorkerPool:
    """Make so many workers that decode, and perhaps describe, for an extractor."""
    environment = {**ONE_THREAD, **KEEPING_MEMORY, **WITHOUT_SECRETS}
    return WorkerPool(size, HANDLER, setup=setup(spec, max_pixels), environment=environment)


class Decoders:
    """Decodes images in worker processes.

    Parameters
    ----------
    new_pool
        Makes a pool of so many workers.
    size
        Workers.
    seconds
        Time for a call; an image that takes longer alone has a second trial with twice the time.
    """

    def __init__(self, new_pool: Callable[[int], WorkerPool], *, size: int, seconds: float) -> None:
        self._new_pool = new_pool
        self._pool = new_pool(size)
        self._seconds = seconds
        # Each is a process more, perhaps on a machine that has too little memory already.
        self._second_trials = threading.BoundedSemaphore(size)

    def start(self) -> None:
        """Start the processes; see `WorkerPool.start`."""
        self._pool.start()

    def close(self) -> None:
        """End the processes; calls under way raise `Cancelled`."""
        self._pool.close()

    def decode(self, images: Sequence[bytes], stop: threading.Event) -> list[Decoded]:
        """Decode images in one call; blocks until all are.

        If the call fails, each image has one of its own.

        Raises
        ------
        Cancelled
            If `stop` was set, or this was closed.
        """
        try:
            return self._decode(self._pool, images, self._seconds, stop)
        except (WorkerCrashed, WorkerTimeout) as error:
            # It may have been what an image before it left behind, the kernel's memory killer, or a machine with too
            # much to do. What is put aside stays so: in a process of its own, and with more time, it has a fair trial.
            logger.warning(
                "a decoder failed, and its images are tried once more, one by one",
                extra={"images": [digest_of_bytes(data) for data in images], "reason": error.message},
            )
        if len(images) == 1:
            return [self._decode_again(images[0], stop)]
        return [decoded for data in images for decoded in self.decode([data], stop)]

    def _decode_again(self, data: bytes, stop: threading.Event) -> Decoded:
        while not self._second_trials.acquire(timeout=_LOOK_SECONDS):
            if stop.is_set():
                raise Cancelled("Extraction was stopped.")
        seconds = _SECOND_TRIAL * self._seconds
        try:
            with self._new_pool(1) as alone:
                (decoded,) = self._decode(alone, [data], seconds, stop)
        except WorkerCrashed:
            reason = "decoding it failed twice: in the end it ended the decoder's process"
            return Decoded(ImageStatus.CRASHED, reason)
        except WorkerTimeout:
            reason = f"decoding it failed twice: in the end it took longer than {seconds:g} seconds"
            return Decoded(ImageStatus.HUNG, reason)
        finally:
            self._second_trials.release()
        return decoded

    @staticmethod
    def _decode(pool: WorkerPool, images: Sequence[bytes], seconds: float, stop: threading.Event) -> list[Decoded]:
        return answers(*pool.call(*call(images), timeout=seconds, stop=stop))
