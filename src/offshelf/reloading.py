"""Files that change while a process runs: certificates and users are exchanged without a restart."""

from __future__ import annotations

import logging
import math
import threading
import time
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from offshelf.errors import InvalidInput, OffshelfError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

T = TypeVar("T")

_log = logging.getLogger(__name__)

_ATTEMPTS: Final = 5
"""How often files are read that change while they are read."""

_AGAIN_SECONDS: Final = 5.0
"""After so long are files read again that could not be used: it may have been a moment's trouble."""


class Reloaded(Generic[T]):
    """What some files say, read again when one of them has changed. Safe to use from any thread.

    Files are compared by what they are (inode, times, size) and not by name: Kubernetes changes the files of a Secret
    by exchanging a link above them. New files that cannot be used are reported in the log, once, and what the old ones
    said stays in force; they are tried again some seconds later.

    Parameters
    ----------
    read
        Reads the files.
    paths
        The files.
    clock
        Gives the time in seconds.

    Raises
    ------
    OffshelfError
        Whatever `read` raises the first time.
    """

    def __init__(self, read: Callable[[], T], *paths: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._paths = paths
        self._clock = clock
        self._again = math.inf
        """When files are tried again that could not be used."""
        self._trouble = ""
        self._lock = threading.Lock()
        self._seen = self._signatures()
        self._value = self._read_whole()

    def value(self) -> T:
        """Give what the files say; the same object until they change."""
        with self._lock:
            seen = self._signatures()
            if seen != self._seen or self._clock() >= self._again:
                # Taken before reading: files that change meanwhile are read again the next time.
                self._seen = seen
                self._reload()
            return self._value

    def _reload(self) -> None:
        try:
            self._value = self._read_whole()
        except OffshelfError as error:
            if error.message != self._trouble:
                _log.warning("changed files cannot be used; the old ones stay in force: %s", error.message)
            self._again, self._trouble = self._clock() + _AGAIN_SECONDS, error.message
        else:
            self._again, self._trouble = math.inf, ""
            _log.info("files were read again", extra={"files": [str(path) for path in self._paths]})

    def _read_whole(self) -> T:
        for _ in range(_ATTEMPTS):
            before = self._signatures()
            value = self._read()
            if self._signatures() == before:
                return value
        raise InvalidInput(f"{self._paths[0].parent} changes all the time.")

    def _signatures(self) -> list[tuple[int, int, int, int] | None]:
        return [_signature(path) for path in self._paths]


def _signature(path: Path) -> tuple[int, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
