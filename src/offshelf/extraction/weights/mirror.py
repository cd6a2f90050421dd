"""Weights files in an S3 bucket of the installation: OFFSHELF_WEIGHTS=s3://bucket/prefix."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import TYPE_CHECKING

from offshelf.errors import DataLoss
from offshelf.extraction.weights.checking import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from offshelf.extraction.spec import WeightsFile
    from offshelf.extraction.weights.checking import Entry
    from offshelf.store.bucket import Bucket

KEPT_SECONDS = 30.0
"""For how long an answer about a file is given again without asking: a catalog asks for each extractor, a run too."""

_PIECE_BYTES = 8 * 1024 * 1024


class WeightsMirror:
    """A bucket, or a prefix of it, that holds weights files under their names.

    Parameters
    ----------
    bucket
        The bucket.
    clock
        Gives the time in seconds.
    """

    def __init__(self, bucket: Bucket, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._bucket = bucket
        self._clock = clock
        self._answers: dict[str, tuple[float, bool]] = {}

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

    def read(self, name: str) -> bytes:
        """Read a file whole. May raise what a store raises.

        Raises
        ------
        NotFound
            If it is not there.
        DataLoss
            If it was replaced meanwhile.
        """
        return b"".join(self._pieces(name))

    def check(self, file: WeightsFile) -> Entry:
        """Read a file, without holding it in memory, and see that it is the registered one.

        Raises
        ------
        NotFound
            If it is not there.
        DataLoss
            If it is another one, or was replaced meanwhile.
        """
        return verify(_Stream(self._pieces(file.name)), file)

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
