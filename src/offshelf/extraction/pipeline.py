"""The pipeline: read, decode, infer; overlapping, in order, and in bounded memory.

Three things happen to an image, each where it belongs. It is *read* in this process, which has the credentials and sees
whether its bytes are the ones wanted. It is *decoded* (and, by a descriptor, described) in a worker process, which may
crash or hang. A network then *infers* on it in this process, on the engine's own threads, or on a remote engine. More
threads than cores take images through all three, so that reading hides behind the rest; a batch of a few images is all
that each holds.

The network sees one image at a time. It is the steps around it that take a batch: after an inference the code and the
tables of all others have left the processor's caches, and getting them back for every image took as long as their work.
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from offshelf.datasets import ImageUnread
from offshelf.digests import digest_of_bytes
from offshelf.errors import Cancelled, Internal
from offshelf.extraction.conversion import network_of
from offshelf.extraction.decoders import Decoders, pool_of
from offshelf.extraction.engine import Engine
from offshelf.extraction.spec import REMOTE_ENGINE, Network, fingerprint
from offshelf.extraction.weights.fetching import NEVER
from offshelf.features import SegmentRow
from offshelf.images import ImageStatus

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.extraction.decoding import Decoded
    from offshelf.extraction.engine import InferenceEngine
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.extraction.weights.fetching import FetchPolicy
    from offshelf.store.objects import ObjectStore
    from offshelf.workers import WorkerPool

_THREADS_A_CORE = 2
_THREADS_A_CORE_REMOTE = 8
"""A thread whose image is with a remote engine has nothing to do, and one that makes batches wants many images."""

_BATCH_IMAGES = 8
_BATCH_SECONDS = 0.5
_BATCH_BYTES = 4 << 20
"""Bounds of a batch: images, time that they should take, and bytes of their files (one image may have more)."""


@dataclass(frozen=True, slots=True)
class UnreadImage:
    """An image that could not be read from its source; this says nothing about the bytes that were wanted."""

    image: str
    """Its digest."""
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Extracted:
    """What became of images: each is in one of the two, in the order asked for."""

    rows: tuple[SegmentRow, ...]
    unread: tuple[UnreadImage, ...]


class Extraction:
    """One extractor, ready to turn images into vectors.

    Parameters
    ----------
    spec
        The extractor.
    store
        Where its converted network is kept.
    weights, fetch
        Where its weights are looked for, `Settings.weights`; and who may be asked for those that are missing.
    cores
        Cores to use.
    max_pixels
        Images with more pixels are put aside.
    decode_seconds
        Time for decoding one image; one that takes longer has a second trial with twice the time, then it is put aside.
    connect
        Makes the engine of an extractor whose network runs elsewhere.
    new_decoders
        Makes a pool of so many decoders; by default `offshelf.extraction.decoders.pool_of`.
    """

    def __init__(
        self,
        spec: ExtractorSpec,
        *,
        store: ObjectStore,
        weights: str,
        cores: int,
        max_pixels: int,
        decode_seconds: float,
        fetch: FetchPolicy = NEVER,
        connect: Callable[[ExtractorSpec], InferenceEngine] | None = None,
        new_decoders: Callable[[int], WorkerPool] | None = None,
    ) -> None:
        self.spec = spec
        self.fingerprint = fingerprint(spec)
        self.dimension = spec.dimension
        """Length of a vector; where only the network can tell, 0 until it has started."""
        self._store = store
        self._weights = weights
        self._fetch = fetch
        self._cores = cores
        new_pool = new_decoders or partial(pool_of, spec, max_pixels)
        self._decoders = Decoders(new_pool, size=cores, seconds=decode_seconds)
        self._connect = connect
        self._is_remote = isinstance(spec.method, Network) and spec.method.engine == REMOTE_ENGINE
        # A remote engine's server makes batches, from as many images at once as it is asked for.
        in_time = 1 if self._is_remote else int(_BATCH_SECONDS / spec.cost_seconds)
        self._batch_images = max(1, min(_BATCH_IMAGES, in_time))
        self._engine: InferenceEngine | None = None

    def start(self) -> None:
        """Load the network (converting it the first time), start the decoders, and take one image through everything.

        Raises
        ------
        NotFound, InvalidInput, DataLoss
            If its weights are needed and cannot be had.
        EngineUnavailable, EngineMismatch
            If its engine is remote, and away or another one than it should be.
        OffshelfError
            What the store raises.
        """
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End all worker processes; calls under way raise `Cancelled`."""
        self._decoders.close()
        if self._engine:
            self._engine.close()

    @property
    def seconds_in_inference(self) -> float:
        """How long the network has been at the image that it has been at longest; 0 if at none."""
        return self._engine.seconds_in_inference if self._engine else 0.0

    def extract(
        self,
        read: Callable[[str], bytes],
        images: Sequence[str],
        *,
        on_done: Callable[[], None],
        stop: threading.Event,
    ) -> Extracted:
        """Extract the images of a dataset.

        Parameters
        ----------
        read
            Gives bytes of exactly this digest, or raises `ImageUnread`; called from several threads
            (`offshelf.datasets.image_reader`).
        images
            Digests.
        on_done
            Called from this thread after each image.
        stop
            Ends the work within an image when it is set.

        Raises
        ------
        Cancelled
            If `stop` was set.
        OffshelfError
            What `read` raises, `ImageUnread` apart.
        """
        failed = threading.Event()

        def take(part: Sequence[str]) -> Extracted:
            unread: list[UnreadImage] = []

            def readable() -> Iterator[tuple[str, bytes]]:
                for image in part:
                    if stop.is_set() or failed.is_set():
                        raise Cancelled("Extraction was stopped.")
                    try:
                        data = read(image)
                    except ImageUnread as error:
                        unread.append(UnreadImage(image, error.message))
                    else:
                        yield image, data

            rows = [row for batch in _batches(readable()) for row in self._embed(batch, stop)]
            return Extracted(tuple(rows), tuple(unread))

        a_core = _THREADS_A_CORE_REMOTE if self._is_remote else _THREADS_A_CORE
        threads = max(1, min(a_core * self._cores, len(images)))
        with ThreadPoolExecutor(threads, thread_name_prefix="extract") as pool:
            # In this context: a deadline goes with the work.
            parts = [
                pool.submit(copy_context().run, take, part)
                for part in _shares(images, threads=threads, most=self._batch_images)
            ]
            try:
                for part in as_completed(parts):
                    for _ in chain(part.result().rows, part.result().unread):
                        on_done()
            except BaseException:
                failed.set()
                raise
        return Extracted(
            rows=tuple(row for part in parts for row in part.result().rows),
            unread=tuple(lost for part in parts for lost in part.result().unread),
        )

    def extract_bytes(self, images: Sequence[bytes], *, stop: threading.Event | None = None) -> list[SegmentRow]:
        """Extract encoded images that are at hand; one row each, in order.

        Raises
        ------
        Cancelled
            If `stop` was set.
        """
        digests = [digest_of_bytes(data) for data in images]
        read = dict(zip(digests, images, strict=True)).__getitem__
        found = self.extract(read, digests, on_done=lambda: None, stop=stop or threading.Event())
        return list(found.rows)

    def _start(self) -> None:
        with ThreadPoolExecutor(1, thread_name_prefix="start") as beside:
            starting = beside.submit(self._decoders.start)
            if isinstance(self.spec.method, Network):
                self._engine = self._new_engine(self.spec.method)
            starting.result()
        (row,) = self.extract_bytes([_generated_image()])
        if row.vector is None:
            raise Internal(f"{self.spec.name} does not work on this machine: {row.reason}.")
        self.dimension = row.vector.size

    def _new_engine(self, network: Network) -> InferenceEngine:
        if self._is_remote:
            if self._connect is None:
                raise TypeError(f"nothing connects to the engine of {self.spec.name}")
            return self._connect(self.spec)
        converted = network_of(self.spec, store=self._store, weights=self._weights, fetch=self._fetch)
        return Engine(converted, cores=self._cores, precision=network.precision)

    def _embed(self, images: Sequence[tuple[str, bytes]], stop: threading.Event) -> list[SegmentRow]:
        decoded = self._decoders.decode([data for _, data in images], stop)
        return [self._row(image, one, stop) for (image, _), one in zip(images, decoded, strict=True)]

    def _row(self, image: str, decoded: Decoded, stop: threading.Event) -> SegmentRow:
        import numpy as np

        if stop.is_set():
            raise Cancelled("Extraction was stopped.")
        if decoded.status is not ImageStatus.OK:
            return _put_aside(image, decoded.status, decoded.reason)
        vector = self._vector(decoded.array, stop)
        if not np.isfinite(vector).all():
            return _put_aside(image, ImageStatus.UNREADABLE, "its features are not finite numbers")
        return SegmentRow(image, ImageStatus.OK, "", vector)

    def _vector(self, content: bytes | memoryview, stop: threading.Event) -> NDArray[np.float32]:
        import numpy as np

        if self._engine is None or not isinstance(self.spec.method, Network):
            vector = np.frombuffer(content, dtype=np.float32)
        else:
            shape = (*self.spec.method.size, 3)
            vector = self._engine.infer(np.frombuffer(content, dtype=np.uint8).reshape(shape), stop=stop)
        if self.dimension and vector.shape != (self.dimension,):
            raise Internal(f"{self.spec.name} made {vector.size} numbers instead of {self.dimension}.")
        return vector


def _shares(images: Sequence[str], *, threads: int, most: int) -> Iterator[Sequence[str]]:
    """Divide images among threads, in order: few at a time, and fewer towards the end, so that all end at once.

    Half of what a thread would still get is its next share: guided self-scheduling (Polychronopoulos and Kuck, IEEE
    Transactions on Computers 36(12), 1987), with a limit.
    """
    begin = 0
    while begin < len(images):
        size = min(most, -(-(len(images) - begin) // (2 * threads)))
        yield images[begin : begin + size]
        begin += size


def _batches(images: Iterable[tuple[str, bytes]]) -> Iterator[list[tuple[str, bytes]]]:
    """Divide images so that those of a batch have not too many bytes, unless it is only one."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for image, data in images:
        if batch and size + len(data) > _BATCH_BYTES:
            yield batch
            batch, size = [], 0
        batch.append((image, data))
        size += len(data)
    if batch:
        yield batch


def _put_aside(image: str, status: ImageStatus, reason: str) -> SegmentRow:
    return SegmentRow(image, status, reason, None)


def _generated_image() -> bytes:
    """Make a PPM of 64 x 64 pixels: this process needs no image library for that."""
    side = 64
    return b"P6 %d %d 255\n" % (side, side) + bytes(number % 251 for number in range(3 * side * side))
