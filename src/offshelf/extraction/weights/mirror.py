"""Weights files in an S3 bucket of the installation: OFFSHELF_WEIGHTS=s3://bucket/prefix."""

from __future__ import annotations

import io
import logging
import time
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from offshelf.errors import DataLoss, NotFound, OffshelfError, PermissionDenied
from offshelf.extraction.weights.checking import LEDGER, is_weak, read_ledger, verify, write_ledger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from offshelf.extraction.spec import WeightsFile
    from offshelf.extraction.weights.checking import Entry, Ledger
    from offshelf.store.bucket import WritableBucket

logger = logging.getLogger(__name__)

KEPT_SECONDS = 30.0
"""For how long an answer about a file is given again without asking: a catalog asks for each extractor, a run too."""

_PIECE_BYTES = 8 * 1024 * 1024


class WeightsMirror:
    """A bucket, or a prefix of it, that holds weights files under their names, and the record of the weak ones.

    Parameters
    ----------
    bucket
        The bucket.
    clock
        Gives the time in seconds.
    """

    def __init__(self, bucket: WritableBucket, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bucket = bucket
        self._clock = clock
        self._answers: dict[str, tuple[float, bool]] = {}
        self._ledger: tuple[float, Ledger] | None = None

    @property
    def url(self) -> str:
        """Where it is, without secrets."""
        return self._bucket.url

    def has(self, name: str) -> bool:
        """Tell, perhaps as of some seconds ago, whether a file is there. May raise what a store raises."""
        asked, answer = self._answers.get(name, (0.0, False))
        if name not in self._answers or self._clock() - asked > KEPT_SECONDS:
            answer = self._bucket.size(name) is not None
            self._answers[name] = self._clock(), answer
        return answer

    def read(self, file: WeightsFile) -> bytes:
        """Read a file whole, and check what was read. May raise what a store raises.

        Raises
        ------
        NotFound
            If it is not there.
        DataLoss
            If it is another one than registered, or than recorded before, or was replaced meanwhile.
        """
        data = b"".join(self._pieces(file.name))
        verify(io.BytesIO(data), file, self._known(file))
        return data

    def check(self, file: WeightsFile) -> Entry:
        """Read a file, without holding it in memory, and see that it is the registered one.

        Raises
        ------
        NotFound
            If it is not there.
        DataLoss
            If it is another one than registered, or than recorded before, or was replaced meanwhile.
        """
        return verify(_Stream(self._pieces(file.name)), file, self._known(file))

    def vouch(self, file: WeightsFile) -> Entry:
        """Check a file, and record what it is if its registered digest is a weak one. Raises as `check`."""
        entry = self.check(file)
        if is_weak(file):
            with suppress(OffshelfError):  # a bucket that is only read is as good as its owner makes it
                self._record({file.name: entry})
        return entry

    def put(self, file: WeightsFile, path: Path) -> None:
        """Write a file into the bucket, unless it is another one than registered or recorded, and record it.

        Raises
        ------
        DataLoss
            If it is another one.
        OffshelfError
            If the bucket may not be written to, is full or away.
        """
        with path.open("rb") as stream:
            entry = verify(stream, file, self._known(file))
        self._bucket.put_file(file.name, path)
        self._answers.pop(file.name, None)
        if is_weak(file):
            self._record({file.name: entry})

    def ledger(self) -> Ledger:
        """Read the record, perhaps as of some seconds ago; empty if there is none that may be read."""
        if self._ledger is None or self._clock() - self._ledger[0] > KEPT_SECONDS:
            self._ledger = self._clock(), self._read_ledger()
        return self._ledger[1]

    def _known(self, file: WeightsFile) -> Ledger:
        return self.ledger() if is_weak(file) else {}

    def _read_ledger(self) -> Ledger:
        try:
            return read_ledger(self._bucket.read(LEDGER, length=_PIECE_BYTES).data)
        except NotFound:
            return {}
        except PermissionDenied:  # what some servers say of objects that are not there, too
            logger.warning("the record of weights may not be read", extra={"bucket": self.url})
            return {}

    def _record(self, entries: Mapping[str, Entry]) -> None:
        """Add to the record, in which the first that was found of a file holds.

        Of two processes that do so at a time one may lose its entry, until that file is verified again.
        """
        before = self._read_ledger()
        held = {name for name, entry in entries.items() if name in before and before[name].checked == entry.checked}
        after = {**before, **{name: entry for name, entry in entries.items() if name not in held}}
        if after != before:
            with TemporaryDirectory() as folder:
                fresh = Path(folder, LEDGER)
                fresh.write_bytes(write_ledger(after))
                self._bucket.put_file(LEDGER, fresh)
        self._ledger = self._clock(), after

    def _pieces(self, name: str) -> Iterator[bytes]:
        first = self._bucket.read(name, length=_PIECE_BYTES)
        yield first.data
        offset = len(first.data)
        while offset < first.size:
            piece = self._bucket.read(name, offset=offset, length=_PIECE_BYTES)
            if piece.version != first.version or not piece.data:
                raise DataLoss(f"{name} at {self.url} was replaced while it was read: try again.")
            yield piece.data
            offset += len(piece.data)


class _Stream:
    """Pieces, as they come, to read from."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces

    def read(self, _size: int, /) -> bytes:
        return next(self._pieces, b"")


@lru_cache(maxsize=4)
def open_mirror(url: str) -> WeightsMirror:
    """Open the mirror at an address, once a process, with the installation's keys; see `open_bucket`.

    Raises
    ------
    InvalidInput
        If the address cannot be one, keys are missing, or no server is known.
    """
    from offshelf.store import open_bucket

    return WeightsMirror(open_bucket(url))
