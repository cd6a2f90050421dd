"""`offshelf runs`, `offshelf watch` and `offshelf cancel`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click

from offshelf.cli.options import connection_options
from offshelf.errors import DeadlineExceeded, StoreDenied, Unavailable
from offshelf.runs import RunGoal

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offshelf.cli.options import Connection
    from offshelf.client import RunStatus

_HEADER = ("RUN", "STATE", "CREATED", "USER", "DATASET", "BEST, OR WHAT IS IN THE WAY")
_UPLOADED = "dataset:"
_SHOWN_DIGITS = 12


@click.command()
@click.option("-n", "--number", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@connection_options
def runs(connection: Connection, *, number: int) -> None:
    """List the runs, newest first."""
    troubles: list[str] = []
    names: dict[str, str] = {}
    with connection.open() as client:
        found = [run.status for run in islice(client.runs(on_trouble=troubles.append), number)]
        if not troubles and any(status.spec.dataset.startswith(_UPLOADED) for status in found):
            try:
                names = {dataset.digest: dataset.name for dataset in client.datasets()}
            except (DeadlineExceeded, StoreDenied, Unavailable) as error:
                troubles.append(f"The names of datasets cannot be read. {error.message}")
    if found:
        _show(found, names)
    if troubles:
        raise Unavailable(troubles[0])
    if not found:
        click.echo("There are no runs yet: offshelf run DATASET makes one.", err=True)


def _show(found: Sequence[RunStatus], names: Mapping[str, str]) -> None:
    lines = [_HEADER, *(_columns(status, names) for status in found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEADER))]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _columns(status: RunStatus, names: Mapping[str, str]) -> tuple[str, ...]:
    best = status.result.scores[0] if status.result and status.result.scores else status.progress.best
    said = status.error or next(iter(status.notices), "")
    if not said and status.spec.goal is RunGoal.FEATURES:
        said = f"features of {', '.join(status.spec.extractors)}"
    elif not said and best:
        said = f"{best.combination} {100 * best.mean:.1f} % {status.spec.measure}"
    return (
        status.id,
        str(status.state),
        f"{status.created_at.astimezone():%Y-%m-%d %H:%M}",
        status.user,
        _dataset(status.spec.dataset, names),
        " ".join(said.split()),
    )


def _dataset(dataset: str, names: Mapping[str, str]) -> str:
    """Show an uploaded dataset by its name and as much of its digest as is needed to name it."""
    digest = dataset.removeprefix(_UPLOADED)
    if digest == dataset:
        return dataset
    shown = f"{_UPLOADED}{digest[:_SHOWN_DIGITS]}"
    return f"{names[digest]} ({shown})" if digest in names else shown


@click.command()
@click.argument("run")
@connection_options
def watch(connection: Connection, *, run: str) -> None:
    """Show a run until it ends, then what it found. Ctrl-C ends the watch, not the run."""
    from rich.console import Console

    from offshelf.cli import results
    from offshelf.cli.progress import display_on, say

    output = Console()
    with connection.open() as client:
        watched = client.get(run)
        with display_on(Console(stderr=True)) as display:
            watched.watch(display.update)
        if watched.status.spec.goal is RunGoal.FEATURES:
            progress = watched.status.progress
            if progress.images_total:  # not kept of a run that ended long ago
                say(output, results.extraction(progress))
            say(
                output,
                f"The features of {', '.join(watched.status.spec.extractors)} are there: the same command writes "
                "them to a file.",
            )
            return
        results.show_table(watched.table(), output)
        say(output, f"\n{watched.verdict}")


@click.command()
@click.argument("run")
@connection_options
def cancel(connection: Connection, *, run: str) -> None:
    """Ask a run to stop. What is finished is found again by the next run."""
    with connection.open() as client:
        client.get(run).cancel()
    click.echo(f"Run {run} was asked to stop.")
