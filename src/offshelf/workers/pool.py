"""The pool: a fixed number of worker processes that answer calls from any number of threads."""

from __future__ import annotations

import contextlib
import queue
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Self

from offshelf import errors
from offshelf.workers.process import LOOK_SECONDS, Patience, Worker, WorkerCrashed, result_of
from offshelf.workers.pulse import Pulse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import TracebackType

    from offshelf.workers.messages import Header

ONE_THREAD: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(
        (
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "MKL_NUM_THREADS",
            "BLIS_NUM_THREADS",
            "VECLIB_MAXIMUM_THREADS",
            "NUMEXPR_NUM_THREADS",
        ),
        "1",
    )
)
"""Environment that keeps numeric libraries to one thread a process: the pool is the parallelism."""

KEEPING_MEMORY: Final[Mapping[str, str]] = MappingProxyType(
    {"MALLOC_MMAP_THRESHOLD_": str(16 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
)
"""Environment of workers that need much the same memory for each call: up to 64 MiB of it stay with them. Otherwise the
GNU C library gives it back each time, and nearly half of the time of decoding a photo went into getting it again,
cleared, from the kernel. Other C libraries do not heed it."""

WITHOUT_SECRETS: Final[Mapping[str, str]] = MappingProxyType(
    dict.fromkeys(("OFFSHELF_S3_ACCESS_KEY", "OFFSHELF_S3_SECRET_KEY", "OFFSHELF_TOKEN"), "")
)
"""Environment of workers that read files of strangers: one that those have taken over should find nothing of worth."""


class WorkerPool:
    """A fixed number of processes that answer calls from any number of threads.

    Parameters
    ----------
    size
        Number of processes; calls beyond that wait for one to be free.
    handler
        ``"package.module:function"``. Each worker imports the module and calls ``function(setup)`` once; what that
        returns answers the calls.
    setup
        JSON object for the factory.
    environment
        Variables set in the workers before any library is imported, on top of this process' own.
    stuck_seconds
        A worker that has used no processor time for so long in the middle of a call is killed, as after a timeout; None
        for never. For work that may take any time. Only Linux tells; elsewhere nothing counts as stuck.

    Notes
    -----
    Processes start with the first call that needs them, or all at once with `start`. One that crashed, hung or was
    stopped is replaced by the next call that needs it.
    """

    def __init__(
        self,
        size: int,
        handler: str,
        *,
        setup: Mapping[str, Any] | None = None,
        environment: Mapping[str, str] | None = None,
        stuck_seconds: float | None = None,
    ) -> None:
        self._size = size
        self._handler = handler
        self._setup = dict(setup or {})
        self._environment = dict(environment or {})
        self._stuck_seconds = stuck_seconds
        self._idle: queue.LifoQueue[Worker | None] = queue.LifoQueue()  # None: a process that is yet to be started
        for _ in range(size):
            self._idle.put(None)
        self._lock = threading.Lock()
        self._running: set[Worker] = set()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Start all processes and wait until each has built its handler.

        Raises
        ------
        OffshelfError
            What the factory raised.
        Unavailable
            If a process could not be started, or ended before it had built its handler.
        Cancelled
            If the pool was closed.
        """
        with contextlib.ExitStack() as borrowed:
            slots = [borrowed.enter_context(self._borrowed(None)) for _ in range(self._size)]
            for slot in slots:
                slot.fill()
            for slot in slots:
                slot.fill().wait_until_ready(None)

    def call(
        self,
        header: Header,
        payload: bytes | memoryview = b"",
        *,
        timeout: float | None = None,
        stop: threading.Event | None = None,
    ) -> tuple[Header, bytearray]:
        """Let a worker answer; blocks until it has.

        Parameters
        ----------
        header, payload
            What the handler gets: a JSON object and bytes.
        timeout
            Seconds from when a worker that is ready has the call, after which it is killed; None waits for ever.
        stop
            Ends the call when it is set: the worker is killed, which no library can resist.

        Returns
        -------
        tuple of dict and bytearray
            What the handler returned.

        Raises
        ------
        WorkerCrashed
            If the process ended.
        WorkerTimeout
            If there was no answer in time, or the worker was stuck.
        Cancelled
            If `stop` was set, or the pool was closed.
        OffshelfError
            If the handler, or its factory, raised one: the same class, as far as `offshelf.errors` has it.
        Unavailable
            If a process could not be started.
        Internal
            If the handler raised anything else; the worker's traceback is logged.
        """
        with self._borrowed(stop) as slot:
            worker = slot.fill()
            worker.wait_until_ready(stop)
            pulse = None if self._stuck_seconds is None else Pulse(worker.pid, self._stuck_seconds)
            patience = Patience(timeout, stop, pulse)
            worker.send(header, payload, patience)
            answer, content = worker.receive(patience)
        return result_of(answer), content

    def close(self) -> None:
        """End all processes, busy or not; calls under way raise `Cancelled`. Further calls do nothing."""
        with self._lock:
            self._closed = True
            running = list(self._running)
            self._running.clear()
        for worker in running:
            worker.end()

    @contextlib.contextmanager
    def _borrowed(self, stop: threading.Event | None) -> Iterator[_Slot]:
        """Take a place in the pool; its process is given up if anything goes wrong in it."""
        slot = _Slot(self._take(stop), self._launch)
        try:
            yield slot
        except BaseException as error:
            if slot.worker is not None:
                slot.worker.end()
                with self._lock:
                    self._running.discard(slot.worker)
            slot.worker = None
            if self._closed and isinstance(error, (WorkerCrashed, errors.Unavailable)):
                raise _closing() from None
            raise
        finally:
            self._idle.put(slot.worker)

    def _take(self, stop: threading.Event | None) -> Worker | None:
        while True:
            if self._closed:
                raise _closing()
            if stop is not None and stop.is_set():
                raise errors.Cancelled("Stopped.")
            with contextlib.suppress(queue.Empty):
                return self._idle.get(timeout=LOOK_SECONDS)

    def _launch(self) -> Worker:
        with self._lock:
            if self._closed:
                raise _closing()
            worker = Worker(self._handler, self._setup, self._environment)
            self._running.add(worker)
        return worker


class _Slot:
    """A place in the pool that a call has for itself."""

    def __init__(self, worker: Worker | None, launch: Callable[[], Worker]) -> None:
        self.worker = worker
        self._launch = launch

    def fill(self) -> Worker:
        if self.worker is None:
            self.worker = self._launch()
        return self.worker


def _closing() -> errors.Cancelled:
    return errors.Cancelled("The worker was stopped because its service is closing.")
