"""Files that are there whole or not at all, also after a power cut, and what a file system's refusals mean.

Shared by the directory store and by the files beside its lock; standard library only.
"""

from __future__ import annotations

import errno
import os
import secrets
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, BinaryIO

from offshelf.errors import StoreDenied, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from offshelf.errors import OffshelfError

TEMPORARY = ".writing-"
"""How the name of a file begins that is not complete yet."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})
_NO_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP})


def store_error(error: OSError, place: str) -> OffshelfError:
    """Say in words what the file system under a store refused.

    Parameters
    ----------
    error
        What the operating system reported.
    place
        Where the store is, as its user wrote it.
    """
    why = error.strerror or type(error).__name__
    if error.errno in _FULL:
        return StoreFull(f"The store at {place} is full: free some space, then run the same command again.")
    if error.errno in _DENIED:
        return StoreDenied(
            f"The store at {place} refuses access ({why}): give this account the right to read and write it, "
            "or use another store.",
        )
    if error.errno in _NO_LOCKS:
        return StoreUnavailable(
            f"The store at {place} is on a file system without file locks ({why}): put it on a local disk.",
        )
    return StoreUnavailable(f"The store at {place} cannot be used at the moment ({why}): check its disk or mount.")


@contextmanager
def store_errors(place: str) -> Iterator[None]:
    """Turn what the operating system reports inside into the store's errors (see `store_error`).

    Raises
    ------
    StoreFull, StoreDenied, StoreUnavailable
        Instead of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        raise store_error(error, place) from error


def write_file(directory: int, name: str, chunks: Iterable[bytes]) -> None:
    """Write a file so that a reader sees all of it or the one before, and so that it survives a power cut.

    Parameters
    ----------
    directory
        Open descriptor of the directory it goes to.
    name
        The file's name; a file or link of that name is replaced.
    chunks
        Its content, piece by piece.

    Raises
    ------
    OSError
        What the file system reported; nothing is left behind then.
    """
    temporary = f"{TEMPORARY}{secrets.token_hex(8)}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600, dir_fd=directory)
    try:
        with open(descriptor, "wb") as file:  # noqa: PTH123  a descriptor, not a path
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    os.fsync(directory)


@contextmanager
def new_file(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing, and remove it if what is written inside does not come to its end.

    Parameters
    ----------
    path
        The file; replaced if it is there.
    """
    with path.open("wb") as file:
        try:
            yield file
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def make_directory(path: str, *, parent: int | None = None) -> None:
    """Make a directory that only this account can enter, unless it is there already, and make it last.

    Raises
    ------
    OSError
        What the file system reported.
    """
    try:
        os.mkdir(path, 0o700, dir_fd=parent)
    except FileExistsError:
        return
    if parent is not None:
        os.fsync(parent)
        return
    above = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120
    try:
        os.fsync(above)
    finally:
        os.close(above)
