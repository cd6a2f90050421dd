"""How an upload is shown: bars on a terminal, a line every few seconds elsewhere; and what Ctrl-C does to it."""

from __future__ import annotations

import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, Self

from offshelf.cli.progress import PLAIN_SECONDS, duration, say
from offshelf.errors import Cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from rich.console import Console
    from rich.progress import TaskID

    from offshelf.client import SkippedImage, UploadProgress

_MOST_SHOWN = 10


class UploadDisplay(Protocol):
    """Shows an upload as it goes on, for the time of a block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def update(self, progress: UploadProgress) -> None:
        """Show how the upload stands."""
        ...


@contextmanager
def shown_on(console: Console) -> Iterator[Callable[[UploadProgress], None]]:
    """Give what takes the progress of an upload, and say after Ctrl-C how to go on.

    Raises
    ------
    Cancelled
        Instead of `KeyboardInterrupt`, if an upload was going on.
    """
    begun = False
    display: UploadDisplay = BarUpload(console) if console.is_terminal else LineUpload(console)

    def update(progress: UploadProgress) -> None:
        nonlocal begun
        if not begun:
            begun = True
            display.__enter__()
        display.update(progress)

    try:
        yield update
    except KeyboardInterrupt:
        if not begun:
            raise
        raise Cancelled("stopped. What was uploaded is kept: the same command goes on from there.") from None
    finally:
        if begun:
            display.__exit__(None, None, None)


class LineUpload:
    """A plain line every few seconds, for logs and pipes."""

    def __init__(
        self, console: Console, *, seconds: float = PLAIN_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._seconds = seconds
        self._clock = clock
        self._next = clock()
        self._last = ""
        self._waiting_for = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._last:
            say(self._console, self._last)

    def update(self, progress: UploadProgress) -> None:
        """Print a line if it is time for one; the last one is kept for the end."""
        if progress.waiting_for and progress.waiting_for != self._waiting_for:
            say(self._console, f"Waiting: {progress.waiting_for}")
        self._waiting_for = progress.waiting_for
        self._last = upload_summary(progress)
        if self._clock() >= self._next:
            self._next = self._clock() + self._seconds
            say(self._console, self._last)
            self._last = ""


class BarUpload:
    """Bars for hashing and uploading."""

    def __init__(self, console: Console) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            refresh_per_second=5,
        )
        self._hashing = self._add("Hashing")
        self._uploading: TaskID | None = None

    def _add(self, description: str) -> TaskID:
        return self._bars.add_task(description, total=None, note="")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, progress: UploadProgress) -> None:
        """Move the bars."""
        self._bars.update(
            self._hashing, completed=progress.images_hashed, total=progress.images_total or None, note="images"
        )
        if progress.images_to_send and self._uploading is None:
            self._uploading = self._add("Uploading")
        if self._uploading is not None:
            note = progress.waiting_for or ", ".join(["images", *_flow(progress)])
            self._bars.update(self._uploading, completed=progress.images_sent, total=progress.images_to_send, note=note)


def upload_summary(progress: UploadProgress) -> str:
    """Say in one line how an upload stands."""
    if progress.images_hashed < progress.images_total:
        return f"hashing, {progress.images_hashed}/{progress.images_total} images"
    if not progress.images_to_send:
        return f"{progress.images_total} images hashed, none of them to upload"
    sent = f"{progress.images_sent}/{progress.images_to_send} images"
    return ", ".join(["uploading", sent, *_flow(progress)])


def _flow(progress: UploadProgress) -> list[str]:
    parts = [f"{mebibytes(progress.bytes_sent)} of {mebibytes(progress.bytes_to_send)}"]
    if progress.bytes_per_second:
        parts.append(f"{mebibytes(progress.bytes_per_second)}/s")
    if progress.seconds_left:
        parts.append(f"about {duration(progress.seconds_left)} left")
    return parts


def mebibytes(count: float) -> str:
    """Say how many bytes something has, as people read it."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024 or unit == "GiB":  # noqa: PLR2004  (of the smaller unit)
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


def say_skipped(skipped: Iterable[SkippedImage], console: Console) -> None:
    """Name the images that were not uploaded."""
    skipped = list(skipped)
    for image in skipped[:_MOST_SHOWN]:
        say(console, f"Skipped: {image.path} {image.reason}")
    if len(skipped) > _MOST_SHOWN:
        say(console, f"Skipped: {len(skipped) - _MOST_SHOWN} more images that could not be read")
