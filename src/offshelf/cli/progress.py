"""How a run is shown while it goes on: bars on a terminal, a line every few seconds elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, Self

from offshelf.runs import RunGoal

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.console import Console
    from rich.progress import TaskID

    from offshelf.client import Progress, RunStatus

PLAIN_SECONDS = 5.0
"""Between two lines where there are no bars."""


class Display(Protocol):
    """Shows a run as it changes, for the time of a block."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def update(self, status: RunStatus) -> None:
        """Show how the run stands."""
        ...


def display_on(console: Console) -> Display:
    """Choose the display that suits a console."""
    return BarDisplay(console) if console.is_terminal else LineDisplay(console)


class _Notes:
    """Prints once what its licences forbid and what was left out, and what is in its way each time that it is new."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed: set[str] = set()
        self._in_the_way: set[str] = set()

    def update(self, status: RunStatus) -> None:
        for note in (*(f"Licence: {each}" for each in status.conditions), *map("Left out: {}".format, status.left_out)):
            if note not in self._printed:
                self._printed.add(note)
                say(self._console, note)
        for notice in status.notices:
            if notice not in self._in_the_way:
                say(self._console, f"Waiting: {notice}")
        if self._in_the_way and not status.notices and not status.state.at_rest:
            say(self._console, "Nothing is in the way any more.")
        self._in_the_way = set(status.notices)


class LineDisplay:
    """A plain line every few seconds, for logs and pipes."""

    def __init__(
        self, console: Console, *, seconds: float = PLAIN_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = console
        self._seconds = seconds
        self._clock = clock
        self._notes = _Notes(console)
        self._next = clock()
        self._last = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, status: RunStatus) -> None:
        """Print a line if it is time for one and it says something new."""
        self._notes.update(status)
        line = summary(status)
        if line != self._last and (self._clock() >= self._next or status.state.at_rest):
            self._next = self._clock() + self._seconds
            self._last = line
            say(self._console, line)


class BarDisplay:
    """Bars for reading, extraction and scoring, with the best combination so far below."""

    def __init__(self, console: Console) -> None:
        from rich.console import Group
        from rich.live import Live
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.text import Text

        self._notes = _Notes(console)
        self._bars = Progress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            console=console,
        )
        self._reading = self._add("Reading")
        self._extraction = self._add("Extracting")
        self._scoring = self._add("Scoring")
        self._below = Text(overflow="ellipsis", no_wrap=True)
        self._live = Live(Group(self._bars, self._below), console=console, refresh_per_second=5)

    def _add(self, description: str) -> TaskID:
        return self._bars.add_task(description, total=None, note="")

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def update(self, status: RunStatus) -> None:
        """Move the bars."""
        self._notes.update(status)
        progress = status.progress
        images = progress.images_extracted + progress.images_reused
        scores = progress.scores_computed + progress.scores_reused
        self._move(self._reading, progress.images_scanned, progress.images_total, "images")
        self._move(self._extraction, images, images + progress.images_remaining, _speed(progress))
        self._bars.update(self._scoring, visible=status.spec.goal is not RunGoal.FEATURES)
        self._move(
            self._scoring,
            scores,
            scores + progress.scores_remaining,
            f"folds, {progress.combinations_done} of {progress.combinations_total} combinations",
        )
        self._below.plain = "   ".join(part for part in (status.activity, *_outlook(status)) if part)

    def _move(self, bar: TaskID, done: int, total: int, note: str) -> None:
        self._bars.update(bar, completed=done, total=total or None, note=note)


def say(console: Console, line: str) -> None:
    """Print a line as it is: a path is no markup, and a log is not wrapped."""
    console.print(line, markup=False, emoji=False, highlight=False, soft_wrap=True)


def summary(status: RunStatus) -> str:
    """Say in one line how a run stands."""
    progress = status.progress
    images = progress.images_extracted + progress.images_reused
    scores = progress.scores_computed + progress.scores_reused
    parts = [status.activity or str(status.state)]
    if progress.images_scanned < progress.images_total:
        parts.append(f"{progress.images_scanned}/{progress.images_total} images read")
    if total := images + progress.images_remaining:
        parts.append(f"{images}/{total} extracted" + (f" ({speed})" if (speed := _speed(progress)) else ""))
    if total := scores + progress.scores_remaining:
        parts.append(f"{scores}/{total} folds scored")
    if progress.combinations_total:
        parts.append(f"{progress.combinations_done}/{progress.combinations_total} combinations")
    return ", ".join([*parts, *_outlook(status)])


def _speed(progress: Progress) -> str:
    return f"{progress.images_per_second:.1f} images/s" if progress.images_per_second else ""


def _outlook(status: RunStatus) -> list[str]:
    progress = status.progress
    parts = []
    if progress.seconds_left and not status.state.at_rest:
        parts.append(f"about {duration(progress.seconds_left)} left")
    if progress.best is not None:
        parts.append(f"best so far {progress.best.combination} {100 * progress.best.mean:.1f} %")
    return parts


def duration(seconds: float) -> str:
    """Say a time in words, no finer than it is known."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
