"""Weights files in a folder, each under its registered name."""

from __future__ import annotations

import io
import os
import tempfile
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from offshelf.errors import OffshelfError, StoreDenied
from offshelf.extraction.weights.checking import LEDGER, is_weak, read_ledger, verify, write_ledger
from offshelf.extraction.weights.downloads import download, keep_quiet
from offshelf.extraction.weights.parts import folder_errors, locked_folder

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Collection, Mapping

    from offshelf.extraction.spec import WeightsFile
    from offshelf.extraction.weights.checking import Entry, Ledger
    from offshelf.extraction.weights.downloads import Progress

_KEPT: Final = 256
"""Checks of files that are remembered for as long as the files do not change."""


def cache_folder(environ: Mapping[str, str] | None = None) -> Path:
    """Say where weights are kept that were downloaded and have no other folder: `offshelf/weights` in the user's cache.

    That is below ``$XDG_CACHE_HOME``, or ``~/.cache``. Who has no home that can be written to, as in a container, gets
    a folder for themselves among the temporary files.
    """
    environ = os.environ if environ is None else environ
    named, home = environ.get("XDG_CACHE_HOME", ""), environ.get("HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    bases = [Path(named)] * named.startswith("/") + [Path(home, ".cache")] * home.startswith("/")
    for base in bases:
        folder = base / "offshelf" / "weights"
        if folder.is_dir() or _may_become(folder):
            return folder
    return Path(tempfile.gettempdir(), f"offshelf-weights-{os.geteuid()}")


def _may_become(folder: Path) -> bool:
    existing = next(path for path in folder.parents if path.exists())
    return existing.is_dir() and os.access(existing, os.W_OK | os.X_OK)


class WeightsFolder:
    """A folder of weights files, which need not exist before something is put there.

    Parameters
    ----------
    path
        The folder.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def find(self, file: WeightsFile) -> Entry | None:
        """Check a file, if it is there; one that was checked and has not changed is not read again.

        Raises
        ------
        DataLoss
            If it is another file than registered.
        """
        path = self.path / file.name
        try:
            state = path.stat()
            identity = (state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns)
            return _checked(path, identity, file, self.ledger().get(file.name))
        except OSError:
            return None

    def read(self, file: WeightsFile) -> bytes | None:
        """Read a file whole, and check what was read; None if it is not there. Raises `DataLoss` as `find`."""
        try:
            data = (self.path / file.name).read_bytes()
        except OSError:
            return None
        verify(io.BytesIO(data), file, self.ledger())
        return data

    def fetch(
        self,
        file: WeightsFile,
        url: str,
        *,
        hosts: Collection[str],
        on_progress: Callable[[Progress], None] = keep_quiet,
        stop: threading.Event | None = None,
    ) -> Entry:
        """Download a file into the folder, unless it is there, and record what came.

        Raises
        ------
        OffshelfError
            As `download`.
        """
        self.prepare()
        entry = download(file, url, self.path, hosts=hosts, ledger=self.ledger(), on_progress=on_progress, stop=stop)
        self.record({file.name: entry})
        return entry

    def vouch(self, file: WeightsFile) -> Entry | None:
        """Check a file, if it is there, and record what it is if its registered digest is a weak one.

        Raises
        ------
        DataLoss
            If it is another file than registered, or than recorded before.
        """
        entry = self.find(file)
        if entry is not None and is_weak(file):
            with suppress(OffshelfError):  # a folder that is only read is as good as its owner makes it
                self.record({file.name: entry})
        return entry

    def prepare(self) -> None:
        """Make the folder.

        Raises
        ------
        StoreDenied, StoreFull, Unavailable
            If it cannot be made, or is somebody else's among the temporary files.
        """
        with folder_errors(self.path):
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            state = self.path.lstat()
        if self.path.parent == Path(tempfile.gettempdir()) and state.st_uid != os.geteuid():
            raise StoreDenied(f"{self.path} belongs to somebody else: set OFFSHELF_WEIGHTS to a folder of yours.")

    def ledger(self) -> Ledger:
        """Read the record of what came; empty if there is none."""
        try:
            return read_ledger((self.path / LEDGER).read_bytes())
        except OSError:
            return {}

    def record(self, entries: Mapping[str, Entry]) -> None:
        """Add to the record, which several processes may do at a time.

        Raises
        ------
        StoreDenied, StoreFull, Unavailable
            If the file system refuses.
        """
        path = self.path / LEDGER
        with folder_errors(path), locked_folder(self.path):
            before = self.ledger()
            after = {**before, **entries}
            if after != before:
                fresh = path.with_name(f"{LEDGER}.new")
                fresh.write_bytes(write_ledger(after))
                fresh.replace(path)


@lru_cache(maxsize=_KEPT)
def _checked(path: Path, _identity: tuple[int, ...], file: WeightsFile, known: Entry | None) -> Entry:
    """Check a file. What it is known by (`_identity`) is there for the cache."""
    with path.open("rb") as stream:
        return verify(stream, file, {file.name: known} if known else {})
