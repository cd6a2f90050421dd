"""A file that is coming: what of it is here, of which version, and that one process alone writes it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import IO, TYPE_CHECKING, Final

from offshelf.errors import OffshelfError, StoreDenied, StoreFull, Unavailable
from offshelf.extraction.weights.checking import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from offshelf.extraction.spec import WeightsFile
    from offshelf.extraction.weights.checking import Entry

SUFFIX: Final = ".part"

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class Version:
    """Which file it is that is coming."""

    url: str
    etag: str
    """What its server calls its content; empty if nothing, and then no rest can be asked for."""
    total: int
    """Bytes of the whole; 0 if the server did not say."""


class Part:
    """A file that is coming, open and locked.

    Attributes
    ----------
    size
        Bytes that are here.
    complete
        Whether that is all.
    """

    def __init__(self, path: Path, stream: IO[bytes]) -> None:
        self._path = path
        self._target = path.with_name(path.name.removesuffix(SUFFIX))
        self._note = path.with_name(f"{path.name}.json")
        self._stream = stream
        self._version = self._read_version()
        self.size = stream.seek(0, os.SEEK_END)
        self.complete = self.size > 0 and self.size == self.total

    @property
    def total(self) -> int:
        """Bytes that the server has announced; 0 if it has not."""
        return self._version.total if self._version else 0

    def version_of(self, url: str) -> Version | None:
        """Say of what file at an address this is a part; None if no rest of it can be asked for."""
        version = self._version
        # A weak ETag promises no equal bytes.
        known = version is not None and version.url == url and version.etag.startswith('"') and version.total
        return version if known else None

    def finished(self, file: WeightsFile, ledger: Mapping[str, Entry] | None) -> Entry | None:
        """Look whether the whole file is there under its name, as when another process has just had it."""
        with suppress(OSError, OffshelfError), self._target.open("rb") as stream:
            found = verify(stream, file, ledger)
            self.remove()
            return found
        return None

    def begin(self, version: Version) -> None:
        """Begin anew with a version of the file."""
        self.clear()
        with folder_errors(self._path):
            self._note.write_text(json.dumps(asdict(version)))
        self._version = version

    def clear(self) -> None:
        """Forget what is here."""
        with folder_errors(self._path):
            self._note.unlink(missing_ok=True)
            self._stream.seek(0)
            self._stream.truncate()
        self._version, self.size, self.complete = None, 0, False

    def write(self, data: bytes) -> None:
        """Add some bytes. If there is no room for them, nothing is left of the part."""
        try:
            with folder_errors(self._path):
                self._stream.write(data)
        except StoreFull:
            self.remove()
            raise
        self.size += len(data)

    def check(self, file: WeightsFile, ledger: Mapping[str, Entry] | None) -> Entry:
        """Read what is here, and see that it is the file; see `verify`."""
        self._stream.seek(0)
        return verify(self._stream, file, ledger)

    def finish(self) -> None:
        """Give the file its name, for good."""
        with folder_errors(self._path):
            os.fsync(self._stream.fileno())
            self._path.replace(self._target)
            folder = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._note.unlink(missing_ok=True)

    def remove(self) -> None:
        """Leave nothing of it."""
        with suppress(OSError):
            self._note.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)

    def _read_version(self) -> Version | None:
        try:
            return Version(**json.loads(self._note.read_bytes()))
        except (OSError, ValueError, TypeError):
            return None


@contextmanager
def locked_part(folder: Path, name: str, wait: Callable[[], None]) -> Iterator[Part]:
    """Open the part of a file, made if it is not there, for this process alone; the kernel ends that with the process.

    Parameters
    ----------
    folder, name
        Of the file as it will be.
    wait
        Called while another process has it.

    Raises
    ------
    StoreFull, StoreDenied, Unavailable
        If the file system refuses.
    """
    path = folder / f"{name}{SUFFIX}"
    while True:
        with folder_errors(path):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o644)
        # Without a buffer: what was written is in the file, and a full disk is told at once.
        with open(descriptor, "r+b", buffering=0) as stream:  # noqa: PTH123  a descriptor, not a path
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                wait()
                continue
            if not _is(path, descriptor):
                continue  # who had it has given it its name, or removed it
            yield Part(path, stream)
            return


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Wait for, and have, a folder for this process alone; of those that ask for it this way."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is(path: Path, descriptor: int) -> bool:
    try:
        here, there = os.fstat(descriptor), path.lstat()
    except OSError:
        return False
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


@contextmanager
def folder_errors(path: Path) -> Iterator[None]:
    """Turn what the operating system reports about a file of weights into errors for people.

    Raises
    ------
    StoreFull, StoreDenied, Unavailable
        Instead of any `OSError`.
    """
    try:
        yield
    except OSError as error:
        name, why = path.name.removesuffix(SUFFIX), error.strerror or str(error)
        if error.errno in _FULL:
            raise StoreFull(f"There is no room for {name} in the folder of weights: free some space.") from error
        if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
            raise StoreDenied(f"{name} cannot be written into the folder of weights ({why}).") from error
        raise Unavailable(f"{name} cannot be kept in the folder of weights ({why}).") from error
