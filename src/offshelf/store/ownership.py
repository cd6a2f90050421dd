"""Who runs on a directory store: one server, its address, and the clients it works for.

Everything rests on the kernel's file locks (flock), which end with the process that holds them, however it ends. The
files lie in ``<root>/.embedded/``:

========== =============================================================================================
lock       held exclusively by the server from start to end
door       held for a moment while somebody takes or looks at `lock`, so that a look never refuses a start
epoch      how many servers there have been; fsynced before the server does anything
server     ``server.json``: address and process of the server, from `StoreOwnership.publish` to its end
token      the bearer token of this server, in a file that only this account can read
clients    ``clients.lock``: held shared by each client; held exclusively by a server that shuts down
logs/      what the server's processes write to stderr
scratch/   large files that the server needs for a while; emptied when the next one starts
========== =============================================================================================

Standard library only: the SDK imports this.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from offshelf.errors import Conflict, DataLoss
from offshelf.store.directory import DirectoryStore
from offshelf.store.durable import make_directory, store_errors, write_file
from offshelf.store.locks import HeldLock, open_locked, try_lock

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = ".embedded"
"""The folder in a store's root; not an object, since its name begins with a dot."""

_LOCK = "lock"
_DOOR = "door"
_EPOCH = "epoch"
_SERVER = "server.json"
_TOKEN = "token"  # noqa: S105  the name of a file
_CLIENTS = "clients.lock"
_LOGS = "logs"
_SCRATCH = "scratch"


class StoreInUse(Conflict):
    """Another server runs on this store."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """A server that runs on a store."""

    address: str
    """Host and port it answers at."""
    pid: int
    """Its process."""
    token: Path
    """File that holds its bearer token."""


class StoreOwnership:
    """The exclusive right to run a server on a directory store; made by `acquire`, ended by `release` or by dying.

    Attributes
    ----------
    root
        The store's directory.
    epoch
        How many servers there have been on this store, this one included.
    """

    def __init__(self, root: Path, lock: HeldLock, epoch: int) -> None:
        self.root = root
        self.epoch = epoch
        self._lock = lock

    @classmethod
    def acquire(cls, root: Path) -> Self:
        """Become the one server of a store: count the epoch up and write a new token.

        Parameters
        ----------
        root
            The store's directory; made if it is not there.

        Raises
        ------
        InvalidInput
            If the root is a file.
        StoreInUse
            If another server has it; the message names its address.
        DataLoss
            If the epoch cannot be read.
        StoreDenied, StoreFull, StoreUnavailable
            If the file system refuses.
        """
        root = _absolute(root)
        with _at_the_door(root, create=True) as folder:
            lock = try_lock(folder, _LOCK)
            if lock is None:
                raise _in_use(root, _read_server(root))
            try:
                # What the last server left behind when it was killed must not be taken for ours.
                with suppress(FileNotFoundError):
                    os.unlink(_SERVER, dir_fd=folder)
                epoch = _read_epoch(root) + 1
                write_file(folder, _EPOCH, (f"{epoch}\n".encode(),))
                write_file(folder, _TOKEN, (secrets.token_urlsafe(32).encode(),))
                make_directory(_LOGS, parent=folder)
                shutil.rmtree(root / FOLDER / _SCRATCH, ignore_errors=True)
                make_directory(_SCRATCH, parent=folder)
            except BaseException:
                lock.release()
                raise
        return cls(root, lock, epoch)

    @property
    def token_file(self) -> Path:
        """File with this server's bearer token, readable by this account alone."""
        return self.root / FOLDER / _TOKEN

    @property
    def logs(self) -> Path:
        """Folder for the logs of this server's processes."""
        return self.root / FOLDER / _LOGS

    @property
    def scratch(self) -> Path:
        """Folder, on the disk of the store, for large files that this server needs for a while; empty at its start."""
        return self.root / FOLDER / _SCRATCH

    def publish(self, address: str) -> None:
        """Let clients find the server, once it answers.

        Parameters
        ----------
        address
            Host and port.

        Raises
        ------
        StoreDenied, StoreFull, StoreUnavailable
            If the file system refuses.
        """
        content = json.dumps({"address": address, "pid": os.getpid()}).encode()
        with store_errors(str(self.root)), _folder(self.root) as folder:
            write_file(folder, _SERVER, (content,))

    def withdraw(self) -> None:
        """Let clients no longer find the server, which is about to stop: they wait until they can start their own."""
        with suppress(OSError):
            (self.root / FOLDER / _SERVER).unlink()

    def release(self) -> None:
        """Let the next server have the store. Does nothing the second time."""
        if self._lock.held:
            self.withdraw()
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ClientLease(HeldLock):
    """Says that a client needs the server of a store; ended by `release` or by dying."""

    @classmethod
    def take(cls, root: Path) -> Self:
        """Announce a client, before it looks for a server or starts one.

        Waits while a server that has no clients shuts down (`claim_no_clients`): it is of no use any more.

        Parameters
        ----------
        root
            The store's directory; made if it is not there.

        Raises
        ------
        InvalidInput
            If the root is a file.
        StoreDenied, StoreFull, StoreUnavailable
            If the file system refuses.
        """
        root = _absolute(root)
        with store_errors(str(root)), _folder(root, create=True) as folder:
            return cls(open_locked(folder, _CLIENTS, fcntl.LOCK_SH))


def claim_no_clients(root: Path) -> HeldLock | None:
    """Make sure that no client is there and that none comes until the server is gone.

    A server that ends with its last client holds this until it exits: a client that comes meanwhile waits, then finds
    no server and starts one, instead of attaching to one that is going away.

    Parameters
    ----------
    root
        The store's directory.

    Returns
    -------
    HeldLock or None
        None if there are clients.

    Raises
    ------
    StoreDenied, StoreUnavailable
        If the file system refuses.
    """
    root = _absolute(root)
    with store_errors(str(root)), _folder(root) as folder:
        return try_lock(folder, _CLIENTS)


def clients_present(root: Path) -> bool:
    """Tell whether any client needs the store's server at this moment.

    Parameters
    ----------
    root
        The store's directory.

    Raises
    ------
    StoreDenied, StoreUnavailable
        If the file system refuses.
    """
    claim = claim_no_clients(root)
    if claim is None:
        return True
    claim.release()
    return False


def read_server(root: Path) -> ServerInfo | None:
    """Find the server that runs on a store.

    Parameters
    ----------
    root
        The store's directory.

    Returns
    -------
    ServerInfo or None
        None if no server runs, or it has not said yet where it answers (see `is_owned`).

    Raises
    ------
    StoreDenied, StoreUnavailable
        If the file system refuses.
    """
    root = _absolute(root)
    if not _was_owned(root):
        return None
    with _at_the_door(root) as folder:
        return _read_server(root) if _is_locked(folder) else None


def is_owned(root: Path) -> bool:
    """Tell whether a server has the store, also one that is still starting.

    Parameters
    ----------
    root
        The store's directory.

    Raises
    ------
    StoreDenied, StoreUnavailable
        If the file system refuses.
    """
    root = _absolute(root)
    if not _was_owned(root):
        return False
    with _at_the_door(root) as folder:
        return _is_locked(folder)


def _absolute(root: Path) -> Path:
    return Path(os.path.abspath(root))  # noqa: PTH100  resolve() would hide what the user wrote


@contextmanager
def _folder(root: Path, *, create: bool = False) -> Iterator[int]:
    """Open the folder of the files above."""
    if create:
        DirectoryStore(root).create()
        make_directory(str(root / FOLDER))
    descriptor = os.open(root / FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _at_the_door(root: Path, *, create: bool = False) -> Iterator[int]:
    """Open the folder and keep everybody else from taking or looking at the store's lock meanwhile."""
    with (
        store_errors(str(root)),
        _folder(root, create=create) as folder,
        HeldLock(open_locked(folder, _DOOR, fcntl.LOCK_EX)),
    ):
        yield folder


def _is_locked(folder: int) -> bool:
    lock = try_lock(folder, _LOCK)
    if lock is None:
        return True
    lock.release()
    return False


def _was_owned(root: Path) -> bool:
    with store_errors(str(root)):
        return (root / FOLDER / _LOCK).is_file()


def _read_server(root: Path) -> ServerInfo | None:
    try:
        content = json.loads((root / FOLDER / _SERVER).read_bytes())
        return ServerInfo(str(content["address"]), int(content["pid"]), root / FOLDER / _TOKEN)
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _read_epoch(root: Path) -> int:
    path = root / FOLDER / _EPOCH
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except ValueError as error:
        raise DataLoss(
            f"{path} is damaged: write into it a number higher than any that a file under runs/*/events/ begins with.",
        ) from error


def _in_use(root: Path, server: ServerInfo | None) -> StoreInUse:
    if server is None:
        return StoreInUse(f"The store at {root} is in use by a server that is starting or stopping: try again soon.")
    return StoreInUse(
        f"The store at {root} is in use by the server at {server.address} (process {server.pid}). "
        f"Use --server {server.address} or stop that server.",
    )
