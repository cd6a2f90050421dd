"""Services on this machine, for clients that name no server.

A client takes a lease on the store, then looks for a server that runs there and attaches to it, or starts one. A server
that was started so lives until no client holds a lease; the kernel ends a lease with the process that holds it, so
nothing stays behind, whoever is killed. Nobody kills a server that others may use: a client only lets go of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from offshelf.errors import Internal, InvalidInput, NotFound, OffshelfError, Unavailable
from offshelf.rpc.auth import read_token
from offshelf.store import open_store
from offshelf.store.durable import store_errors
from offshelf.store.ownership import FOLDER, ClientLease, StoreInUse, clients_present, is_owned, read_server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ORCHESTRATOR = (sys.executable, "-m", "offshelf.services.orchestrator")
"""The command that starts a server."""

_NEEDED = ("keras", "mahotas", "minio", "openvino", "pyarrow", "pycurl", "skimage", "sklearn", "skops", "ulid")
_START_SECONDS = 90.0
_END_SECONDS = 20.0
"""A server drains for up to ten seconds before it exits."""
_POLL_SECONDS = 0.1
# What is meant for clients, and what an embedded server decides for itself, is not passed on to it.
_NOT_PASSED_ON = (
    "OFFSHELF_CA",
    "OFFSHELF_DATA_ROOTS",
    "OFFSHELF_DEBUG",
    "OFFSHELF_FLEET",
    "OFFSHELF_HEALTH_PORT",
    "OFFSHELF_METRICS_PORT",
    "OFFSHELF_PARENT_PIPE",
    "OFFSHELF_PLAINTEXT",
    "OFFSHELF_PREDICTOR",
    "OFFSHELF_SERVER",
    "OFFSHELF_TLS",
    "OFFSHELF_TOKEN",
    "OFFSHELF_TOKEN_FILE",
    "OFFSHELF_USERS",
)


@dataclass(slots=True)
class Endpoint:
    """A server on this machine, and the lease that keeps it."""

    root: Path
    """The store."""
    address: str
    token: str = field(repr=False)
    lease: ClientLease
    started: subprocess.Popen[bytes] | None = None
    """The server's process, if this client started it."""

    def release(self, *, wait: bool = True) -> None:
        """Let go of the server; does nothing the second time.

        Parameters
        ----------
        wait
            Wait for the server to end if this client started it and no other is attached, so that nothing is left
            behind when this returns. Otherwise leave at once; it ends by itself.
        """
        self.lease.release()
        process, self.started = self.started, None
        if process is None:
            return
        try:
            if wait and not clients_present(self.root):
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_END_SECONDS)
        finally:
            _reap(process)


def attach_or_start(root: Path, *, command: Sequence[str] = ORCHESTRATOR) -> Endpoint:
    """Find the server of a store, or start one that lives as long as clients need it.

    Parameters
    ----------
    root
        Directory of the store; made if it is not there.
    command
        Starts a server that says on its first line whether it is ready (see `read_ready_line`).

    Raises
    ------
    NotFound
        If the services are not installed here.
    Unavailable
        If no server becomes ready.
    OffshelfError
        What the store, or the server at its start, says.
    """
    open_store(str(root))  # of the right version, and no folder that holds something else
    lease = ClientLease.take(root)
    try:
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            server = read_server(root)
            if server is not None:
                return Endpoint(root, server.address, read_token(server.token), lease)
            if not is_owned(root):
                # Of two clients that come here at once, one starts the server, and the other's finds it in use.
                with suppress(StoreInUse):
                    process, address = _start(root, command)
                    return _started(root, address, lease, process)
            time.sleep(_POLL_SECONDS)
    except BaseException:
        lease.release()
        raise
    lease.release()
    raise Unavailable(f"A server on the store {root} has been starting for too long: its log is {log_file(root)}.")


def _started(root: Path, address: str, lease: ClientLease, process: subprocess.Popen[bytes]) -> Endpoint:
    server = read_server(root)
    if server is None:
        end(process)
        raise Unavailable(f"The services on this machine ended while starting: their log is {log_file(root)}.")
    return Endpoint(root, address, read_token(server.token), lease, process)


def start_in_front(
    root: Path, *, port: int, command: Sequence[str] = ORCHESTRATOR
) -> tuple[subprocess.Popen[bytes], str]:
    """Start a server that lives until it is told to stop, or until this process ends; return it and its address.

    Parameters
    ----------
    root
        Directory of the store; made if it is not there.
    port
        Where it listens; 0 takes a free port.
    command
        As in `attach_or_start`.

    Raises
    ------
    StoreInUse
        If another server has the store; the message names its address.
    OffshelfError
        As `attach_or_start`.
    """
    open_store(str(root))
    environment = server_environment(root, stay="up", port=port) | {"OFFSHELF_PARENT_PIPE": "1"}
    return _launch(root, command, environment, stdin=subprocess.PIPE)


def _start(root: Path, command: Sequence[str]) -> tuple[subprocess.Popen[bytes], str]:
    return _launch(root, command, server_environment(root, stay="attached"), stdin=subprocess.DEVNULL)


def _launch(
    root: Path, command: Sequence[str], environment: dict[str, str], *, stdin: int
) -> tuple[subprocess.Popen[bytes], str]:
    check_installed()
    with open_log(root) as log:
        process = subprocess.Popen(  # noqa: S603  our own module, or what a test gives
            command,
            env=environment,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=log,
            start_new_session=True,  # Ctrl-C is for the client, which asks the run or the server to stop
        )
    try:
        return process, read_ready_line(process, root)
    except BaseException:
        # Not ready, so nobody can be attached to it.
        end(process)
        raise


def check_installed(find: Callable[[str], object | None] = importlib.util.find_spec) -> None:
    """Make sure that the services are installed here.

    Raises
    ------
    NotFound
        If they are not; the message says how to install them, and what to do instead.
    """
    if any(find(module) is None for module in _NEEDED):
        raise NotFound(
            "The services are not installed on this machine: pip install 'offshelf[embedded]', or name a server "
            "with --server or OFFSHELF_SERVER."
        )


def store_root(store: str) -> Path:
    """Return the directory of a store that an embedded server can run on.

    Raises
    ------
    InvalidInput
        If it is not a directory.
    """
    if "://" in store:
        raise InvalidInput(f"An embedded server needs a store in a directory, not {store.partition('?')[0]}.")
    # resolve() would hide what the user wrote, and pathlib fails at a "~" of nobody's.
    return Path(os.path.abspath(os.path.expanduser(store)))  # noqa: PTH100, PTH111


def server_environment(root: Path, *, stay: str, port: int = 0) -> dict[str, str]:
    """Return the environment of a server on a store.

    Parameters
    ----------
    root
        Directory of the store.
    stay
        How long it lives: "attached", until no client holds a lease; "up", until it is told to stop.
    port
        Where it listens; 0 takes a free port.
    """
    kept_back = set(_NOT_PASSED_ON)
    if stay == "up":
        kept_back.remove("OFFSHELF_DATA_ROOTS")  # whoever starts a server for others says what they may read
    passed_on = {name: value for name, value in os.environ.items() if name not in kept_back}
    return {
        **passed_on,
        "OFFSHELF_STORE": str(root),
        "OFFSHELF_HOST": "127.0.0.1",
        "OFFSHELF_PORT": str(port),
        "OFFSHELF_EMBEDDED": stay,
        "PYTHONUNBUFFERED": "1",
    }


def log_file(root: Path) -> Path:
    """Where the server of a store writes its log."""
    return root / FOLDER / "logs" / "orchestrator.log"


def open_log(root: Path) -> IO[bytes]:
    """Open the server's log for appending.

    Raises
    ------
    StoreDenied, StoreFull, StoreUnavailable
        If the file system refuses.
    """
    path = log_file(root)
    with store_errors(str(root)):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        return path.open("ab")


def read_ready_line(process: subprocess.Popen[bytes], root: Path) -> str:
    """Wait for a server's one line, and return its address.

    The line is ``{"ready": true, "address": "127.0.0.1:1234"}`` or ``{"ready": false, "error": ..., "kind": ...}``.

    Raises
    ------
    StoreInUse
        If another server has the store.
    OffshelfError
        What the server says is wrong.
    Unavailable
        If it ends or stays silent.
    """
    assert process.stdout is not None  # noqa: S101  both callers ask for a pipe
    line = _read_line(process.stdout)
    try:
        said = json.loads(line)
        ready, address = said["ready"], said.get("address", "")
    except (ValueError, KeyError, TypeError, AttributeError):
        what = "ended while starting" if process.poll() is not None or not line else "did not start as they should"
        raise Unavailable(f"The services on this machine {what}: their log is {log_file(root)}.") from None
    if not ready:
        raise _error(said)
    return str(address)


def _read_line(stream: IO[bytes]) -> bytes:
    deadline = time.monotonic() + _START_SECONDS
    received = bytearray()
    with stream, selectors.DefaultSelector() as selector:
        selector.register(stream, selectors.EVENT_READ)
        while not received.endswith(b"\n") and selector.select(max(0.0, deadline - time.monotonic())):
            chunk = os.read(stream.fileno(), 1 << 16)
            if not chunk:
                break
            received += chunk
    return bytes(received)


def _error(said: dict[str, Any]) -> OffshelfError:
    message = str(said.get("error", "the services did not start"))
    kinds: list[type[OffshelfError]] = [OffshelfError]
    for kind in kinds:  # grows as it goes: the whole tree, with what the store adds to it
        if kind.__name__ == said.get("kind"):
            return kind(message)
        kinds.extend(kind.__subclasses__())
    return Internal(message)


def end(process: subprocess.Popen[bytes]) -> None:
    """Ask a server to stop and wait for it; one that does not stop is killed."""
    try:
        process.terminate()
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdin is not None:
            process.stdin.close()


def _reap(process: subprocess.Popen[bytes]) -> None:
    """Have somebody take note of a process's end, or it stays in the process table for as long as this one lives."""
    if process.poll() is None:
        threading.Thread(target=process.wait, name="offshelf-reaper", daemon=True).start()
