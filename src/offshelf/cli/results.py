"""How the outcome of a run is shown: the paper's table, the verdict, and what it took."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.cli.progress import say
from offshelf.client.table import BEST, NOT_DIFFERENT

if TYPE_CHECKING:
    from rich.console import Console

    from offshelf.client import Progress, Table


def show_table(table: Table, console: Console) -> None:
    """Print the table: with rules and bold on a terminal, as plain text elsewhere."""
    if not console.is_terminal:
        say(console, str(table))
        return
    from rich.table import Table as RichTable
    from rich.text import Text

    grid = RichTable()
    grid.add_column("")
    for classifier in table.classifiers:
        grid.add_column(classifier, justify="right")
    for row in table:
        cells = [table.cell(row.scores.get(classifier)) for classifier in table.classifiers]
        grid.add_row(Text(row.extractor), *(Text(cell, style=_style(cell)) for cell in cells))
    say(console, table.title)
    console.print(grid)
    if table.legend:
        say(console, table.legend)


def _style(cell: str) -> str:
    if cell.endswith(BEST):
        return "bold green"
    return "" if cell.endswith(NOT_DIFFERENT) else "dim"


def work(progress: Progress) -> str:
    """Say in one line what was computed and what was found from before."""
    if not progress.images_extracted and not progress.scores_computed:
        return (
            f"Nothing to compute: all {progress.images_reused} feature vectors and all {progress.scores_reused} "
            "fold scores were found."
        )
    return (
        f"Extracted {progress.images_extracted} feature vectors ({progress.images_reused} found), "
        f"computed {progress.scores_computed} fold scores ({progress.scores_reused} found)."
    )


def extraction(progress: Progress) -> str:
    """Say in one line how many vectors were extracted and how many found from before."""
    if not progress.images_extracted:
        return f"Nothing to extract: all {progress.images_reused} feature vectors were found."
    return f"Extracted {progress.images_extracted} feature vectors ({progress.images_reused} found)."


def skipped(progress: Progress, listed_in: str = "skipped.csv") -> str:
    """Say in one line how many images cannot be used; empty if all can."""
    if not progress.images_skipped:
        return ""
    images = "image" if progress.images_skipped == 1 else "images"
    return f"{progress.images_skipped} {images} cannot be used: {listed_in} says which and why."
