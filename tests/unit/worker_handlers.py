"""What the tests have worker processes do."""

from __future__ import annotations

import ctypes
import os
import signal
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offshelf.errors import InvalidInput, StoreFull
from offshelf.images import ImageStatus

if TYPE_CHECKING:
    from offshelf.workers import Handler

ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
}
"""With this a worker finds this module."""


def make(setup: dict[str, Any]) -> Handler:
    """Make a handler that does what the call's header says."""
    if setup.get("crash"):
        os._exit(4)
    if setup.get("refuse"):
        raise InvalidInput("The setup cannot be used: give another.")

    def handle(header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        if header["do"] == "reverse":
            return {"pid": os.getpid(), "setup": setup}, payload[::-1]
        if header["do"] == "environment":
            return {name: os.environ.get(name, "") for name in header["names"]}, b""
        if header["do"] == "return nonsense":
            return {"value": {1, 2}}, b""
        _misbehave(header)
        return {}, b""

    return handle


def _misbehave(header: dict[str, Any]) -> None:
    match header["do"]:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "say and hang":
            Path(header["file"]).touch()
            threading.Event().wait()
        case "say and hold the interpreter":
            Path(header["file"]).touch()
            # PyDLL keeps Python's lock during the call: no other thread of this process runs.
            ctypes.PyDLL(None).sleep(600)
        case "compute":
            end = time.monotonic() + header["seconds"]
            while time.monotonic() < end:
                sum(range(1000))
        case "ask for too much":
            raise StoreFull("The store is full: make room.")
        case "fail":
            raise ZeroDivisionError
        case "print":
            print("a library that prints", flush=True)  # noqa: T201
        case _:
            raise InvalidInput(f"unknown {header['do']!r}")


def decode_as_told(setup: dict[str, Any]) -> Handler:
    """Make a decoder whose images are texts that say what happens to it."""

    def handle(header: dict[str, Any], payload: bytes) -> tuple[dict[str, Any], bytes]:
        images, arrays, begin = [], [], 0
        for length in header["lengths"]:
            text = payload[begin : begin + length].decode(errors="replace")
            _suffer(text, Path(setup["folder"]))
            status, reason, array = ImageStatus.OK, "", bytes(4 * 13)
            if text == "truncated":
                status, reason, array = ImageStatus.UNREADABLE, "truncated", b""
            elif text == "not a number":
                array = struct.pack("13f", *[float("nan")] * 13)
            images.append({"status": status, "reason": reason, "length": len(array)})
            arrays.append(array)
            begin += length
        return {"images": images}, b"".join(arrays)

    return handle


def _suffer(text: str, marker: Path) -> None:
    if text == "crash":
        os._exit(9)
    if text == "crash once" and not (marker / "crashed").exists():
        (marker / "crashed").touch()
        os._exit(9)
    if text == "hang once" and not (marker / "hung").exists():
        (marker / "hung").touch()
        time.sleep(600)
    if text == "hang, then crash":
        if (marker / "hung before the crash").exists():
            os._exit(9)
        (marker / "hung before the crash").touch()
        time.sleep(600)
    if text == "hang":
        time.sleep(600)


def end_at_once(blueprint: Any, data: bytes) -> None:
    """Build a network, and crash over it."""
    del blueprint, data
    os.kill(os.getpid(), signal.SIGSEGV)
