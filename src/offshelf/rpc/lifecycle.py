"""How a service process learns that it should stop, and that it does stop."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from offshelf.digests import JSONValue

_LOG: Final = logging.getLogger(__name__)


class StopRequest:
    """Whether, and how urgently, this process was asked to stop."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        """Set by the first signal, or by the end of standard input."""
        self.urgent = asyncio.Event()
        """Set by a second signal."""

    @classmethod
    def listen(cls, *, parent_pipe: bool) -> StopRequest:
        """Watch SIGTERM and SIGINT, and with `parent_pipe` standard input.

        To be called in the running event loop.
        """
        request = cls()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, request.ask, number.name)
        if parent_pipe:
            # A thread of its own, since it may wait for ever: as a daemon it keeps nothing from ending. os.read holds
            # no lock of Python's that the end of the interpreter could trip over.
            threading.Thread(target=request.watch_parent, args=(loop,), name="parent-pipe", daemon=True).start()
        return request

    def ask(self, reason: str) -> None:
        """Ask for an end; the second time, for a quick one."""
        _LOG.info("asked to stop", extra={"reason": reason, "again": self.asked.is_set()})
        (self.urgent if self.asked.is_set() else self.asked).set()

    def watch_parent(self, loop: asyncio.AbstractEventLoop) -> None:
        """Read standard input to its end, which comes when the parent is gone, and ask for an end then."""
        with contextlib.suppress(OSError):
            while os.read(0, 4096):
                pass
        # The loop may have ended before the parent did.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(self._parent_is_gone)

    def _parent_is_gone(self) -> None:
        # Alone, without making a signal that came before urgent.
        if not self.asked.is_set():
            self.ask("parent gone")


async def finish(name: str, work: Coroutine[object, object, None], *, seconds: float, hurry: asyncio.Event) -> None:
    """Let one step of shutting down run until it ends, its time is over or hurry is asked for; log what it raises."""
    task = asyncio.ensure_future(work)
    hurried = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({task, hurried}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for pending in (task, hurried):
        pending.cancel()
    (outcome, _) = await asyncio.gather(task, hurried, return_exceptions=True)
    if isinstance(outcome, Exception):
        _LOG.error("a step of shutting down failed", extra={"step": name}, exc_info=outcome)


def exit_at_the_latest(seconds: float, code: int, reason: str) -> None:
    """End this process after so many seconds, whatever threads still run.

    Python waits for threads at its end, and a thread in foreign code (a network that is being converted) can neither
    be interrupted nor is it worth waiting for.
    """

    def leave() -> None:
        _LOG.warning("leaving with work unfinished", extra={"reason": reason, "exit_code": code})
        logging.shutdown()
        os._exit(code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()


def take_stdout() -> Callable[[JSONValue], None]:
    """Keep standard output for the lines that the parent reads, and send all else that is printed to standard error.

    Libraries print, some of them from C; one line of theirs in between and the parent could not read ours.

    Returns
    -------
    Callable
        Writes one value as a line of JSON to the real standard output. A parent that is gone is no error.
    """
    sys.stdout.flush()
    real = os.dup(1)
    os.dup2(2, 1)

    def announce(value: JSONValue) -> None:
        with contextlib.suppress(OSError):
            os.write(real, (json.dumps(value) + "\n").encode())

    return announce


def print_line(value: JSONValue) -> None:
    """Print a value as a line of JSON."""
    print(json.dumps(value), flush=True)  # noqa: T201  # what the parent of this process reads
