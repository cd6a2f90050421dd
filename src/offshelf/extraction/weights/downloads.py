"""Downloading one file: resumable, bounded, and under its name only when it is the right one.

While it comes it is ``NAME.part``, locked by the process that writes it, and ``NAME.part.json`` says of which version
of the file it is a part (the server's ETag). What is interrupted goes on there; what has changed begins again.
"""

from __future__ import annotations

import re
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from offshelf.backoff import full_jitter
from offshelf.errors import Cancelled, DataLoss, NotFound, OffshelfError, Unavailable
from offshelf.extraction.weights.fetching import megabytes
from offshelf.extraction.weights.parts import Part, Version, locked_part
from offshelf.extraction.weights.web import WAIT_SECONDS, Interrupted, NoSuchRange, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

    from offshelf.extraction.spec import WeightsFile
    from offshelf.extraction.weights.checking import Entry
    from offshelf.extraction.weights.web import Answer

LARGEST_BYTES: Final = 1 << 30
"""Of a file whose size is not registered."""

LEAST_BYTES: Final = 64 * 1024
"""A server that sends less than that in `Pace.least_seconds` is as good as silent; a modem is faster."""

_CHUNK: Final = 1 << 16
_PARTIAL: Final = 206
_RANGE: Final = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a download goes on trying."""

    attempts: int = 5
    """In a row that bring nothing new, before a download is given up."""
    first_attempts: int = 2
    """The same while the server has not answered once: somebody without a network is not to wait for minutes."""
    first_seconds: float = 1.0
    """Longest pause before the second attempt; it doubles with each."""
    longest_seconds: float = 15.0
    """Longest pause of all."""
    silent_seconds: float = WAIT_SECONDS
    """Without any sign of life, after which an attempt is over."""
    least_seconds: float = 60.0
    """See `LEAST_BYTES`."""


PACE: Final = Pace()


@dataclass(frozen=True, slots=True)
class Progress:
    """How a download stands."""

    name: str
    """Of the file."""
    done: int
    """Bytes that are here."""
    total: int
    """Bytes of the file; 0 if not known."""
    note: str = ""
    """What it waits for at the moment."""

    def __str__(self) -> str:
        """Say it to people."""
        share = f"{100 * self.done // self.total} % of {megabytes(self.total)}" if self.total else megabytes(self.done)
        return f"{share} ({self.note})" if self.note else share


def in_steps(tell: Callable[[Progress], None], *, percent: int = 10) -> Callable[[Progress], None]:
    """Pass progress on when it is worth a line: at the beginning, each so many per cent, and when the note changes."""
    told: set[tuple[str, int, str]] = set()

    def update(progress: Progress) -> None:
        share = 100 * progress.done // progress.total if progress.total else progress.done // LEAST_BYTES // 160
        step = progress.name, share // percent, progress.note
        if step not in told:
            told.add(step)
            tell(progress)

    return update


def keep_quiet(_progress: Progress) -> None:
    """Show nothing."""


def download(
    file: WeightsFile,
    url: str,
    folder: Path,
    *,
    hosts: Collection[str],
    ledger: Mapping[str, Entry] | None = None,
    on_progress: Callable[[Progress], None] = keep_quiet,
    stop: threading.Event | None = None,
    pace: Pace = PACE,
) -> Entry:
    """Download a registered file into a folder, unless it is there; of several processes, one does.

    Parameters
    ----------
    file
        What must come.
    url
        Where from.
    folder
        Where to; it exists.
    hosts
        Those that may be asked, or redirected to.
    ledger
        What is known of files besides their registered digests.
    on_progress
        Called again and again; what it raises ends the download, which can be gone on with.
    stop
        Ends the download when set.
    pace
        How long it goes on trying.

    Returns
    -------
    Entry
        What came.

    Raises
    ------
    NotFound
        If there is no such file at the address.
    DataLoss
        If what comes is another file; nothing of it is kept.
    StoreFull, StoreDenied
        If the folder has no room, and nothing is left there then, or may not be written to.
    PermissionDenied, Unavailable
        If the address, or one it redirects to, may not or cannot be asked.
    Cancelled
        If `stop` was set.
    """
    going = _Download(file, url, hosts=hosts, on_progress=on_progress, stop=stop or threading.Event(), pace=pace)
    with locked_part(folder, file.name, going.wait_for_another) as part:
        if (found := part.finished(file, ledger)) is not None:
            return found
        try:
            return going.into(part, ledger)
        except OffshelfError as error:
            if isinstance(error, DataLoss | NotFound) or not part.size:
                part.remove()
            raise


class _Download:
    """One download while it goes on."""

    def __init__(
        self,
        file: WeightsFile,
        url: str,
        *,
        hosts: Collection[str],
        on_progress: Callable[[Progress], None],
        stop: threading.Event,
        pace: Pace,
    ) -> None:
        self._file = file
        self._url = url
        self._hosts = hosts
        self._most = file.size or LARGEST_BYTES
        self._on_progress = on_progress
        self._stop = stop
        self._pace = pace
        self._answered = False

    def wait_for_another(self) -> None:
        """Wait a moment while another process has the part."""
        self._tell(0, self._file.size, "another process is downloading it")
        self._pause(0.2)

    def into(self, part: Part, ledger: Mapping[str, Entry] | None) -> Entry:
        """Download, again and again while it is of use, and give the part its name."""
        mixed = self._complete(part)  # of bytes that came at different times
        while True:
            try:
                entry = part.check(self._file, ledger)
            except DataLoss:
                # A server may have put the end of one file to the beginning of another.
                part.clear()
                if not mixed:
                    raise
                self._complete(part)
                mixed = False
            else:
                part.finish()
                return entry

    def _complete(self, part: Part) -> bool:
        """Have all of the file sent; tells whether in several pieces."""
        failures, most, pieces = 0, part.size, int(part.size > 0)
        while not part.complete:
            pieces += 1
            try:
                self._receive(part)
            except Interrupted as error:
                # A server that begins again each time, and is cut at one point, brings nothing new.
                failures = 1 if part.size >= most + LEAST_BYTES else failures + 1
                most = max(most, part.size)
                if failures >= (self._pace.attempts if self._answered else self._pace.first_attempts):
                    raise self._given_up(part, error) from error
                self._tell(part.size, part.total or self._file.size, f"{error}; trying again")
                self._pause(full_jitter(failures, first=self._pace.first_seconds, longest=self._pace.longest_seconds))
        return pieces > 1

    def _receive(self, part: Part) -> None:
        """Ask for what is missing, and take what comes to its end."""
        version, offset = part.version_of(self._url), part.size
        headers = {}
        if version is not None and offset:
            headers = {"Range": f"bytes={offset}-", "If-Range": version.etag}
        else:
            part.clear()
        try:
            self._ask(part, headers, version, offset)
        except NoSuchRange:
            # What is here is longer than the file, which must have changed: never to be gone on with.
            part.clear()
            raise
        if part.total and part.size < part.total:
            raise Interrupted(f"the line was cut after {part.size} of {part.total} bytes")
        part.complete = True

    def _ask(self, part: Part, headers: Mapping[str, str], version: Version | None, offset: int) -> None:
        with ask(self._url, hosts=self._hosts, headers=headers, seconds=self._pace.silent_seconds) as response:
            self._answered = True
            if response.status == _PARTIAL and version is not None:
                if not _goes_on(response, version, offset):
                    part.clear()
                    raise Interrupted("the file has changed meanwhile")
            else:
                length = response.headers.get("Content-Length", "")
                total = int(length) if length.isdecimal() else 0
                part.begin(Version(self._url, response.headers.get("ETag", ""), total))
            if part.total > self._most:
                raise self._too_large(part.total)
            self._take(part, response)

    def _take(self, part: Part, response: Answer) -> None:
        since, then = time.monotonic(), part.size
        # Not `read`, which would wait for a whole chunk from a server that sends one byte now and then.
        while chunk := response.read1(_CHUNK):
            if part.size + len(chunk) > self._most:
                raise self._too_large(part.size + len(chunk))
            part.write(chunk)
            self._tell(part.size, part.total or self._file.size)
            now = time.monotonic()
            if part.size - then >= LEAST_BYTES:
                since, then = now, part.size
            elif now - since > self._pace.least_seconds:
                raise Interrupted("the server sends next to nothing")

    def _given_up(self, part: Part, error: Interrupted) -> Unavailable:
        kept = "What has come is kept, and the next attempt goes on from there." if part.size else "Try again later."
        return Unavailable(f"{self._file.name} could not be downloaded: {error}. {kept}")

    def _too_large(self, size: int) -> DataLoss:
        return DataLoss(
            f"{self._file.name} is not the file it should be: it has {size} bytes or more, and {self._most} are "
            "expected at most."
        )

    def _tell(self, done: int, total: int, note: str = "") -> None:
        if self._stop.is_set():
            raise Cancelled(f"The download of {self._file.name} was stopped.")
        self._on_progress(Progress(self._file.name, done, total, note))

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise Cancelled(f"The download of {self._file.name} was stopped.")


def _goes_on(response: Answer, version: Version, offset: int) -> bool:
    """Tell whether an answer to a question for the rest is the rest of the same file."""
    found = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
    etag = response.headers.get("ETag", version.etag)
    return (
        found is not None and int(found[1]) == offset and found[2] in {"*", str(version.total)} and etag == version.etag
    )
