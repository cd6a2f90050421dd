"""Sending images over several connections, and going on after a cut with what is missing."""

from __future__ import annotations

import hashlib
import queue
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from offshelf.client.dataset_gateway import Part
from offshelf.client.patience import PASSING
from offshelf.datasets import ImageUnread
from offshelf.digests import digest_of_bytes
from offshelf.errors import OffshelfError
from offshelf.rpc.limits import CHUNK_BYTES

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from offshelf.client.dataset_gateway import DatasetGateway, UploadLine
    from offshelf.client.patience import Attempts
    from offshelf.client.tally import Tally
    from offshelf.datasets import ImageSource

CONNECTIONS = 4
"""Connections at a time: one alone waits for the server's disk, and for the network, after every message."""

BATCH_IMAGES = 500
BATCH_BYTES = 32 * 1024 * 1024
"""At most so much is sent in one call, and so much has to be asked for after a cut."""

_LOOK_SECONDS = 0.2

_CHANGED = "changes while it is read"


class Outgoing(NamedTuple):
    """An image that is to be sent."""

    digest: str
    path: str
    size: int
    """Bytes, as they were when it was listed."""


class Sender:
    """Sends images of one source.

    Parameters
    ----------
    source
        Where the images are.
    attempts
        Begins something that may have to be tried again.
    stop
        Set it to stop sending; `send` then raises `Cancelled`.
    """

    def __init__(
        self,
        gateway: DatasetGateway,
        source: ImageSource,
        tally: Tally,
        *,
        attempts: Callable[[], Attempts],
        stop: threading.Event,
    ) -> None:
        self._gateway = gateway
        self._source = source
        self._tally = tally
        self._attempts = attempts
        self._stop = stop

    def send(self, images: Sequence[Outgoing], on_look: Callable[[], None]) -> dict[str, str]:
        """Send images that the server does not have.

        Parameters
        ----------
        images
            Each content once.
        on_look
            Called in this thread some times a second.

        Returns
        -------
        dict[str, str]
            By its digest, why an image could not be sent: it is no longer what it was, or was refused.
        """
        batches: queue.SimpleQueue[list[Outgoing]] = queue.SimpleQueue()
        for batch in _batches(images):
            batches.put(batch)
        workers = min(CONNECTIONS, batches.qsize())
        if not workers:
            return {}
        with ThreadPoolExecutor(workers, thread_name_prefix="upload") as pool:
            try:
                lines = [pool.submit(self._work, batches) for _ in range(workers)]
                while True:
                    done, going_on = wait(lines, timeout=_LOOK_SECONDS, return_when=FIRST_EXCEPTION)
                    on_look()
                    if not going_on or any(line.exception() for line in done):
                        break
                for line in done:
                    line.result()
            except BaseException:
                self._stop.set()
                raise
        return {digest: reason for line in lines for digest, reason in line.result().items()}

    def _work(self, batches: queue.SimpleQueue[list[Outgoing]]) -> dict[str, str]:
        failed: dict[str, str] = {}
        with closing(self._gateway.open_line()) as line:
            while True:
                try:
                    batch = batches.get_nowait()
                except queue.Empty:
                    return failed
                failed |= self._send_batch(line, batch)

    def _send_batch(self, line: UploadLine, batch: list[Outgoing]) -> dict[str, str]:
        attempts = self._attempts()
        failed: dict[str, str] = {}
        while batch:
            call = _Call()
            try:
                refused = line.send(self._parts(batch, call), self._stop)
            except PASSING as error:
                call.over = True
                self._tally.send(-call.images, -call.bytes)
                attempts.wait_after(error)
                digests = [image.digest for image in batch]
                missing = set(self._attempts().insist(partial(self._gateway.find_missing, digests), on=PASSING))
                there = [image for image in batch if image.digest not in missing]
                if there:
                    attempts.succeed()
                    self._tally.send(len(there), sum(image.size for image in there))
                batch = [image for image in batch if image.digest in missing and image.digest not in call.failed]
                failed |= call.failed
            else:
                return failed | refused | call.failed
        return failed

    def _parts(self, images: Iterable[Outgoing], call: _Call) -> Iterator[Part]:
        """Read images for one call. What is no longer what it was is left out, or left in the middle, and noted."""
        for image in images:
            sent = call.bytes
            try:
                for part in self._parts_of(image):
                    if call.over or self._stop.is_set():
                        return
                    yield part
                    call.bytes += len(part.data)
                    self._tally.send(0, len(part.data))
            except OffshelfError as error:
                call.failed[image.digest] = error.message
            else:
                call.images += 1
                self._tally.send(1, 0)
                continue
            self._tally.send(0, sent - call.bytes)
            call.bytes = sent

    def _parts_of(self, image: Outgoing) -> Iterator[Part]:
        if image.size <= CHUNK_BYTES:
            data = self._source.read(image.path)
            if digest_of_bytes(data) != image.digest:
                raise ImageUnread(_CHANGED)
            if len(data) <= CHUNK_BYTES:
                yield Part(image.digest, len(data), 0, data)
                return
        offset, whole = 0, hashlib.sha256()
        for data in self._source.chunks(image.path):
            whole.update(data)
            end = offset + len(data)
            # The last part completes the image at the server, so it is looked at before.
            if end > image.size or (end == image.size and whole.hexdigest() != image.digest):
                raise ImageUnread(_CHANGED)
            yield Part(image.digest, image.size, offset, data, digest_of_bytes(data))
            offset = end
        if offset < image.size:
            raise ImageUnread(_CHANGED)


@dataclass(slots=True)
class _Call:
    """What one call has sent."""

    images: int = 0
    bytes: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    over: bool = False
    """Nobody reads its parts any more."""


def _batches(images: Iterable[Outgoing]) -> Iterator[list[Outgoing]]:
    batch: list[Outgoing] = []
    size = 0
    for image in images:
        if batch and (len(batch) >= BATCH_IMAGES or size + image.size > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(image)
        size += image.size
    if batch:
        yield batch
