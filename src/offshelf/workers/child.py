"""The worker's side: ``python -m offshelf.workers.child CONNECTION LIFELINE``, started by `Worker`."""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import signal
import socket
import sys
import threading
import traceback
from typing import TYPE_CHECKING, NoReturn

from offshelf.errors import OffshelfError
from offshelf.workers.messages import LENGTHS

if TYPE_CHECKING:
    from offshelf.workers.messages import Handler, Header


def serve(connection: int, lifeline: int) -> None:
    """Answer calls until the parent closes its end.

    Parameters
    ----------
    connection
        Descriptor of the socket that messages come over; the first says what to build the handler from.
    lifeline
        Descriptor of a pipe whose other end the parent alone holds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _die_with_parent(lifeline)
    with socket.socket(fileno=connection) as joined, joined.makefile("rwb") as stream:
        handler: Handler | None = None
        while len(lengths := stream.read(LENGTHS.size)) == LENGTHS.size:
            header_length, payload_length = LENGTHS.unpack(lengths)
            header = json.loads(stream.read(header_length))
            payload = stream.read(payload_length)
            content = b""
            try:
                result: Header = {}
                if handler is None:
                    handler = _build(header["handler"], header["setup"])
                else:
                    result, content = handler(header, payload)
                # Here, where what JSON cannot hold is the handler's error.
                text = json.dumps({"result": result})
            except Exception as error:  # noqa: BLE001 - the border: the parent raises it, and this process goes on
                content = b""
                text = json.dumps(_failure(error))
            encoded = text.encode()
            stream.write(LENGTHS.pack(len(encoded), len(content)))
            stream.write(encoded)
            stream.write(content)
            stream.flush()


def _build(handler: str, setup: Header) -> Handler:
    module, _, function = handler.partition(":")
    built: Handler = getattr(importlib.import_module(module), function)(setup)
    return built


def _failure(error: Exception) -> Header:
    if isinstance(error, OffshelfError):
        return {"classes": [kind.__name__ for kind in type(error).__mro__], "message": error.message, "trace": ""}
    return {"classes": [], "message": "", "trace": "".join(traceback.format_exception(error))}


def _die_with_parent(lifeline: int) -> None:
    """End this process as soon as nobody holds the other end of the pipe any more."""
    if sys.platform == "linux":
        # The kernel does it, so that a C library that never gives the interpreter back cannot outlive the parent.
        # (PR_SET_PDEATHSIG would fire at the end of the thread that started us, not of the process.)
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> NoReturn:
        os.read(lifeline, 1)  # nothing is ever written: it returns when the parent is gone, even if it was before
        os._exit(1)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()


if __name__ == "__main__":
    serve(int(sys.argv[1]), int(sys.argv[2]))
