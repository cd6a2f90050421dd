"""Reading files of a folder, and of nothing outside it."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf.datasets.model import ImageUnread
from offshelf.datasets.names import check_path
from offshelf.errors import InvalidDataset

if TYPE_CHECKING:
    from collections.abc import Iterator

CHUNK_BYTES = 1024 * 1024
"""How much of a file is held at once while hashing."""

# Windows has no way to open what lies in an open folder. No service runs there: it is the SDK that reads, what its own
# user names, and nobody exchanges folders for links to make it read something else.
_STEP_BY_STEP = os.open in os.supports_dir_fd and os.scandir in os.supports_fd and hasattr(os, "O_NOFOLLOW")
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)
_ONLY_FOLDER = getattr(os, "O_DIRECTORY", 0)
# O_PATH, where there is one, needs no permission to list the folders on the way.
_PASS_FLAGS = getattr(os, "O_PATH", os.O_RDONLY) | _ONLY_FOLDER | _NO_LINK
_FOLDER_FLAGS = os.O_RDONLY | _ONLY_FOLDER | _NO_LINK
# Non-blocking, or opening a named pipe that was put in place of an image would wait for a writer for ever.
_FILE_FLAGS = os.O_RDONLY | _NO_LINK | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)

# What opening a path with a link in it fails with, when links are not followed.
_LINK_ERRORS = (errno.ELOOP, errno.ENOTDIR, errno.EMLINK)

_REASONS = {
    errno.ENOENT: "does not exist",
    errno.ENOTDIR: "does not exist",
    errno.ELOOP: "is a link that leads nowhere, or became one while it was read",
    errno.EACCES: "may not be read (permission denied)",
    errno.EPERM: "may not be read (permission denied)",
}


def reason_of(error: OSError) -> str:
    """Say in a few words, without a path, why a file could not be read."""
    return _REASONS.get(error.errno or 0) or f"cannot be read ({error.strerror or type(error).__name__})"


def too_long(limit: int) -> ImageUnread:
    """Make the error for a file of more than `limit` bytes."""
    return ImageUnread(f"is longer than the limit of {limit} bytes for one image")


def open_real(real: str, *, folder: bool = False) -> int:
    """Open a file or folder by its real path, following no link in any part of it.

    What is opened is then what was checked, even if somebody exchanges a folder for a link in between.

    Parameters
    ----------
    real
        An absolute path as `os.path.realpath` gives it.
    folder
        Open a folder, to list it; otherwise a regular file, to read it.

    Returns
    -------
    int
        A file descriptor, which the caller closes.

    Raises
    ------
    OSError
        If it is not there, is no regular file (``ENOENT``), or may not be read.
    """
    if not _STEP_BY_STEP:
        return _regular(os.open(real, _FILE_FLAGS))
    *passed, name = [part for part in real.split("/") if part] or ["."]
    here = os.open("/", _PASS_FLAGS)
    try:
        for part in passed:
            below = os.open(part, _PASS_FLAGS, dir_fd=here)
            os.close(here)
            here = below
        descriptor = os.open(name, _FOLDER_FLAGS if folder else _FILE_FLAGS, dir_fd=here)
    finally:
        os.close(here)
    return descriptor if folder else _regular(descriptor)


def _regular(descriptor: int) -> int:
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file")
    return descriptor


def _real_path(path: str) -> str:
    """Resolve a path; with "/" between its parts everywhere."""
    return os.path.realpath(path).replace(os.sep, "/")


class Tree:
    """A folder whose files are opened only if they really lie in it.

    Parameters
    ----------
    root
        The folder as a real path: absolute, without links.
    """

    def __init__(self, root: str) -> None:
        self._prefix = root.replace(os.sep, "/").rstrip("/") + "/"

    def resolve(self, path: str) -> str:
        """Return the real, absolute path of a file, which need not exist.

        Raises
        ------
        InvalidDataset
            If it lies outside the folder.
        """
        real = _real_path(self._prefix + check_path(path))
        if not f"{real}/".startswith(self._prefix):
            raise InvalidDataset(
                f"The path {path!r} is a link that leads out of the dataset: put the file itself there instead."
            )
        return real

    def size(self, path: str, resolved: dict[str, str]) -> int:
        """Look up the bytes of a file.

        Parameters
        ----------
        path
            Of the file.
        resolved
            Real paths of folders, filled here: resolving anew for each of 100,000 files takes most of the time.

        Raises
        ------
        InvalidDataset
            If it lies outside the folder.
        OSError
            If there is none.
        """
        folder, _, name = path.rpartition("/")
        if folder not in resolved:
            resolved[folder] = self.resolve(folder) if folder else self._prefix
        status = os.lstat(f"{resolved[folder]}/{name}")
        return Path(self.resolve(path)).stat().st_size if stat.S_ISLNK(status.st_mode) else status.st_size

    @contextmanager
    def listed(self, path: str) -> Iterator[Iterator[os.DirEntry[str]]]:
        """List a folder in this one ("" for itself) for the time of a block, without following links.

        Raises
        ------
        OSError
            If it cannot be opened.
        """
        if not _STEP_BY_STEP:
            with os.scandir(self._prefix + path) as children:
                yield children
            return
        descriptor = open_real(self._prefix + path, folder=True)
        try:
            with os.scandir(descriptor) as children:
                yield children
        finally:
            os.close(descriptor)

    def chunks(self, path: str, limit: int) -> Iterator[bytes]:
        """Yield a file's bytes in pieces, `limit` bytes at most in all.

        Raises
        ------
        InvalidDataset
            If the file lies outside the folder.
        ImageUnread
            If it cannot be read.
        """
        try:
            descriptor = self._open(path)
            try:
                total = 0
                while chunk := os.read(descriptor, CHUNK_BYTES):
                    total += len(chunk)
                    if total > limit:
                        raise too_long(limit)
                    yield chunk
            finally:
                os.close(descriptor)
        except OSError as error:
            raise ImageUnread(reason_of(error)) from error

    def _open(self, path: str) -> int:
        try:
            return open_real(self._prefix + check_path(path))
        except OSError as error:
            if error.errno not in _LINK_ERRORS:
                raise
        return open_real(self.resolve(path))
