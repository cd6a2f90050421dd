"""`offshelf runs`, `offshelf watch` and `offshelf cancel`."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

import click

from offshelf.cli.options import connection_options

if TYPE_CHECKING:
    from offshelf.cli.options import Connection
    from offshelf.client import RunStatus


@click.command()
@click.option("-n", "--number", type=click.IntRange(1), default=20, show_default=True, help="At most so many.")
@connection_options
def runs(connection: Connection, *, number: int) -> None:
    """List the runs, newest first."""
    with connection.open() as client:
        lines = [_columns(run.status) for run in islice(client.runs(), number)]
    if not lines:
        click.echo("There are no runs yet: offshelf run DATASET makes one.", err=True)
        return
    lines.insert(0, ("RUN", "STATE", "CREATED", "DATASET", "BEST"))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def _columns(status: RunStatus) -> tuple[str, str, str, str, str]:
    best = status.result.scores[0] if status.result else status.progress.best
    return (
        status.id,
        str(status.state),
        f"{status.created_at.astimezone():%Y-%m-%d %H:%M}",
        status.spec.dataset,
        f"{best.combination} {100 * best.mean:.1f} % {status.spec.measure}" if best else "",
    )


@click.command()
@click.argument("run")
@connection_options
def watch(connection: Connection, *, run: str) -> None:
    """Show a run until it ends, then its table. Ctrl-C ends the watch, not the run."""
    from rich.console import Console

    from offshelf.cli import results
    from offshelf.cli.progress import display_on, say

    output = Console()
    with connection.open() as client:
        watched = client.get(run)
        with display_on(Console(stderr=True)) as display:
            watched.watch(display.update)
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
