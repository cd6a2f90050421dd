"""File locks (flock), which the kernel takes back from a process that dies, however it dies."""

from __future__ import annotations

import fcntl
import os
from typing import Self


class HeldLock:
    """A file lock that this process holds; ended by `release` or by dying. Child processes do not inherit it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    @property
    def held(self) -> bool:
        """Whether it has not been released."""
        return self._descriptor is not None

    def release(self) -> None:
        """Let go of the lock. Does nothing the second time."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            try:
                # Closing alone would leave it with a child that was forked without exec.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
            finally:
                os.close(descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


def open_locked(folder: int, name: str, how: int) -> int:
    """Open a file, made if it is not there, and lock it; the lock ends when the descriptor is closed.

    Parameters
    ----------
    folder
        Open descriptor of the folder the file is in.
    name
        The file's name; not a link.
    how
        As for `fcntl.flock`.

    Raises
    ------
    BlockingIOError
        If `how` says not to wait, and another holds it.
    OSError
        What else the file system reports.
    """
    descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        fcntl.flock(descriptor, how)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def try_lock(folder: int, name: str) -> HeldLock | None:
    """Lock a file exclusively, if nobody holds it; None otherwise.

    Parameters
    ----------
    folder
        Open descriptor of the folder the file is in.
    name
        The file's name; made if it is not there.
    """
    try:
        return HeldLock(open_locked(folder, name, fcntl.LOCK_EX | fcntl.LOCK_NB))
    except BlockingIOError:
        return None
