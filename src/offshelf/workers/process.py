"""The parent's side of one worker process."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from offshelf import errors
from offshelf.workers.messages import LENGTHS, LONGEST_HEADER, LONGEST_PAYLOAD

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.workers.messages import Header
    from offshelf.workers.pulse import Pulse

logger = logging.getLogger(__name__)

LOOK_SECONDS = 0.05
"""How often whoever waits looks at the stop event and the deadline; an answer is noticed at once."""

_START_SECONDS = 300.0
"""A worker that has not built its handler by then never will (a cold disk takes seconds)."""


class WorkerCrashed(errors.Internal):
    """The worker's process ended before it answered."""


class WorkerTimeout(errors.DeadlineExceeded):
    """The worker gave no answer in time, or was stuck, and was killed."""


class Patience:
    """How long to wait for a worker.

    Parameters
    ----------
    seconds
        From now; None for ever.
    stop
        Ends the waiting when it is set.
    pulse
        Ends it when the worker is stuck.
    """

    def __init__(self, seconds: float | None, stop: threading.Event | None, pulse: Pulse | None = None) -> None:
        self._deadline = float("inf") if seconds is None else time.monotonic() + seconds
        self._stop = stop
        self._pulse = pulse

    def check(self) -> None:
        """Raise `Cancelled` or `WorkerTimeout` if there is no waiting any longer."""
        if self._stop is not None and self._stop.is_set():
            raise errors.Cancelled("Stopped.")
        if time.monotonic() > self._deadline:
            raise WorkerTimeout("The worker gave no answer in time.")
        if self._pulse is not None and self._pulse.is_missed():
            raise WorkerTimeout("The worker has used no processor time for long: it is stuck.")


class Worker:
    """One process, started by making it; used by one thread at a time, but for `end`.

    Parameters
    ----------
    handler, setup
        What it builds its handler from.
    environment
        Variables set in it on top of this process' own.

    Raises
    ------
    Unavailable
        If the system starts no more processes.
    """

    def __init__(self, handler: str, setup: Mapping[str, Any], environment: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        lifeline, self._lifeline = os.pipe()
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module, no text from outside
                # -P: a user's file named like a library, in the current folder, must not be imported.
                [sys.executable, "-P", "-m", "offshelf.workers.child", str(theirs.fileno()), str(lifeline)],
                stdin=subprocess.DEVNULL,
                stdout=2,  # stdout belongs to the service: its ready line is read by a program
                env={**os.environ, **environment},
                pass_fds=(theirs.fileno(), lifeline),
                process_group=0,  # Ctrl-C in a terminal is the parent's to deal with
            )
        except OSError as error:
            os.close(self._lifeline)
            ours.close()
            raise errors.Unavailable(f"A worker could not be started: {error.strerror}.") from error
        finally:
            theirs.close()
            os.close(lifeline)
        self.pid = self._process.pid
        ours.settimeout(LOOK_SECONDS)
        self._socket = ours
        self._ready = False
        self._ending = threading.Lock()
        self._ended = False
        # Sent at once, so that all workers of a pool build their handlers at the same time.
        try:
            self.send({"handler": handler, "setup": dict(setup)}, b"", Patience(_START_SECONDS, None))
        except WorkerCrashed:
            # `wait_until_ready` finds that out again, and says so.
            logger.warning("a worker ended as soon as it was started")

    def wait_until_ready(self, stop: threading.Event | None) -> None:
        """Wait until it has built its handler.

        Raises
        ------
        OffshelfError
            What the factory raised.
        Unavailable
            If the process ended instead.
        Cancelled
            If `stop` was set.
        """
        if self._ready:
            return
        try:
            answer, _ = self.receive(Patience(_START_SECONDS, stop))
        except (WorkerCrashed, WorkerTimeout) as error:
            # No work is to blame for that, so it must not look as if it were.
            raise errors.Unavailable(f"A worker could not be started: {error.message} Its log says why.") from error
        result_of(answer)
        self._ready = True

    def send(self, header: Header, payload: bytes | memoryview, patience: Patience) -> None:
        """Send a message whole."""
        text = json.dumps(header).encode()
        for part in (LENGTHS.pack(len(text), len(payload)), text, payload):
            rest = memoryview(part)
            while rest:
                patience.check()
                try:
                    rest = rest[self._socket.send(rest) :]
                except TimeoutError:
                    continue
                except OSError:
                    raise self._crashed() from None

    def receive(self, patience: Patience) -> tuple[Header, bytearray]:
        """Receive a message whole."""
        header_length, payload_length = LENGTHS.unpack(self._read(LENGTHS.size, patience))
        if header_length > LONGEST_HEADER or payload_length > LONGEST_PAYLOAD:
            raise self._crashed()
        header: Header = json.loads(self._read(header_length, patience))
        return header, self._read(payload_length, patience)

    def end(self) -> None:
        """Kill the process and release what it held; once is enough, from any thread."""
        with self._ending:
            if self._ended:
                return
            self._process.kill()
            self._process.wait()
            # Whoever waits on the socket in another thread wakes up; closing it alone would not do that.
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                logger.debug("a worker had closed its socket")
            self._socket.close()
            os.close(self._lifeline)
            self._ended = True

    def _read(self, length: int, patience: Patience) -> bytearray:
        buffer = bytearray(length)
        rest = memoryview(buffer)
        while rest:
            patience.check()
            try:
                count = self._socket.recv_into(rest)
            except TimeoutError:
                continue
            except OSError:
                raise self._crashed() from None
            if count == 0:
                raise self._crashed()
            rest = rest[count:]
        return buffer

    def _crashed(self) -> WorkerCrashed:
        try:
            status: object = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            status = "unknown"
        return WorkerCrashed(f"The worker's process ended before it answered (status {status}).")


def result_of(answer: Header) -> Header:
    """Give back what a worker's handler returned, or raise the error it carries.

    Raises
    ------
    OffshelfError
        The same class that was raised, or the nearest one of `offshelf.errors` that it descends from.
    Internal
        For any other error, whose traceback is logged.
    """
    if "result" in answer:
        result: Header = answer["result"]
        return result
    if answer["trace"]:
        logger.error("a worker failed", extra={"worker_trace": answer["trace"]})
    for name in answer["classes"]:
        kind = getattr(errors, name, None)
        if isinstance(kind, type) and issubclass(kind, errors.OffshelfError):
            raise kind(answer["message"])
    raise errors.Internal("A worker failed; the log says why.")
