"""The pipeline: read, decode, infer; overlapping, in order, and in bounded memory.

Three things happen to an image, each where it belongs. It is *read* in this process, which has the credentials and sees
whether its bytes are the ones wanted. It is *decoded* (and, by a descriptor, described) in a worker process, which may
crash or hang. A network then *infers* on it in this process, on the engine's own threads, or on a remote engine. More
threads than cores take images through all three, so that reading hides behind the rest; an image in flight is all that
each holds.
"""

from __future__ import annotations

import logging
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from offshelf.datasets import ImageUnread
from offshelf.digests import digest_of_bytes
from offshelf.errors import Cancelled, Internal
from offshelf.extraction import decoding
from offshelf.extraction.conversion import network_of
from offshelf.extraction.engine import Engine
from offshelf.extraction.spec import REMOTE_ENGINE, Network, fingerprint
from offshelf.extraction.weights.fetching import NEVER
from offshelf.features import SegmentRow
from offshelf.images import ImageStatus
from offshelf.workers import KEEPING_MEMORY, ONE_THREAD, WITHOUT_SECRETS, WorkerCrashed, WorkerPool, WorkerTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.extraction.engine import InferenceEngine
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.extraction.weights.fetching import FetchPolicy
    from offshelf.store.objects import ObjectStore

T = TypeVar("T")
R = TypeVar("R")

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5

_THREADS_A_CORE = 2
_THREADS_A_CORE_REMOTE = 8
"""A thread whose image is with a remote engine has nothing to do, and one that makes batches wants many images."""

_SECOND_TRIAL = 2
"""So many times the limit of the first trial an image may take in its second one."""


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
        Makes a pool of so many decoders; by default of `offshelf.extraction.decoding`.
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
        self._decode_seconds = decode_seconds
        self._new_decoders = new_decoders or partial(_decoders_of, spec, max_pixels)
        self._decoders = self._new_decoders(cores)
        # Each is a process more, perhaps on a machine that has too little memory already.
        self._second_trials = threading.BoundedSemaphore(cores)
        self._connect = connect
        self._is_remote = isinstance(spec.method, Network) and spec.method.engine == REMOTE_ENGINE
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
            Gives the bytes of an image by its digest, or raises `ImageUnread`; called from several threads.
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

        def take(image: str) -> SegmentRow | UnreadImage:
            try:
                data = read(image)
            except ImageUnread as error:
                return UnreadImage(image, error.message)
            if digest_of_bytes(data) != image:
                return UnreadImage(image, "has changed since the dataset was read")
            return self._embed(image, data, stop)

        outcomes = self._in_threads(take, images, on_done, stop)
        return Extracted(
            rows=tuple(outcome for outcome in outcomes if isinstance(outcome, SegmentRow)),
            unread=tuple(outcome for outcome in outcomes if isinstance(outcome, UnreadImage)),
        )

    def extract_bytes(self, images: Sequence[bytes], *, stop: threading.Event | None = None) -> list[SegmentRow]:
        """Extract encoded images that are at hand; one row each, in order.

        Raises
        ------
        Cancelled
            If `stop` was set.
        """
        stop = stop or threading.Event()
        return self._in_threads(lambda data: self._embed(digest_of_bytes(data), data, stop), images, lambda: None, stop)

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

    def _in_threads(
        self, take: Callable[[T], R], images: Sequence[T], on_done: Callable[[], None], stop: threading.Event
    ) -> list[R]:
        """Apply a function to all, on more threads than cores and in this context; the first error ends it."""
        failed = threading.Event()

        def unless_ended(image: T) -> R:
            if stop.is_set() or failed.is_set():
                raise Cancelled("Extraction was stopped.")
            return take(image)

        a_core = _THREADS_A_CORE_REMOTE if self._is_remote else _THREADS_A_CORE
        threads = max(1, min(a_core * self._cores, len(images)))
        with ThreadPoolExecutor(threads, thread_name_prefix="extract") as pool:
            futures = [pool.submit(copy_context().run, unless_ended, image) for image in images]
            try:
                for future in as_completed(futures):
                    future.result()
                    on_done()
            except BaseException:
                failed.set()
                raise
        return [future.result() for future in futures]

    def _embed(self, image: str, data: bytes, stop: threading.Event) -> SegmentRow:
        import numpy as np

        try:
            answer, content = self._decode(image, data, stop)
        except WorkerCrashed:
            reason = "decoding it failed twice: in the end it ended the decoder's process"
            return _put_aside(image, ImageStatus.CRASHED, reason)
        except WorkerTimeout:
            seconds = _SECOND_TRIAL * self._decode_seconds
            reason = f"decoding it failed twice: in the end it took longer than {seconds:g} seconds"
            return _put_aside(image, ImageStatus.HUNG, reason)
        status = ImageStatus(answer["status"])
        if status is not ImageStatus.OK:
            return _put_aside(image, status, str(answer["reason"]))
        vector = self._vector(content, stop)
        if not np.isfinite(vector).all():
            return _put_aside(image, ImageStatus.UNREADABLE, "its features are not finite numbers")
        return SegmentRow(image, ImageStatus.OK, "", vector)

    def _decode(self, image: str, data: bytes, stop: threading.Event) -> tuple[dict[str, Any], bytes]:
        try:
            return self._decoders.call({}, data, timeout=self._decode_seconds, stop=stop)
        except (WorkerCrashed, WorkerTimeout) as error:
            # It may have been what an image before it left behind, the kernel's memory killer, or a machine with too
            # much to do. What is put aside stays so: in a process of its own, and with more time, it has a fair trial.
            logger.warning(
                "a decoder failed, and its image is tried once more", extra={"image": image, "reason": error.message}
            )
        while not self._second_trials.acquire(timeout=_LOOK_SECONDS):
            if stop.is_set():
                raise Cancelled("Extraction was stopped.")
        try:
            with self._new_decoders(1) as alone:
                return alone.call({}, data, timeout=_SECOND_TRIAL * self._decode_seconds, stop=stop)
        finally:
            self._second_trials.release()

    def _vector(self, content: bytes, stop: threading.Event) -> NDArray[np.float32]:
        import numpy as np

        if self._engine is None or not isinstance(self.spec.method, Network):
            vector = np.frombuffer(content, dtype=np.float32)
        else:
            shape = (*self.spec.method.size, 3)
            vector = self._engine.infer(np.frombuffer(content, dtype=np.uint8).reshape(shape), stop=stop)
        if self.dimension and vector.shape != (self.dimension,):
            raise Internal(f"{self.spec.name} made {vector.size} numbers instead of {self.dimension}.")
        return vector


def _decoders_of(spec: ExtractorSpec, max_pixels: int, size: int) -> WorkerPool:
    return WorkerPool(
        size,
        decoding.HANDLER,
        setup=decoding.setup(spec, max_pixels),
        environment={**ONE_THREAD, **KEEPING_MEMORY, **WITHOUT_SECRETS},
    )


def _put_aside(image: str, status: ImageStatus, reason: str) -> SegmentRow:
    return SegmentRow(image, status, reason, None)


def _generated_image() -> bytes:
    """Make a PPM of 64 x 64 pixels: this process needs no image library for that."""
    side = 64
    return b"P6 %d %d 255\n" % (side, side) + bytes(number % 251 for number in range(3 * side * side))
