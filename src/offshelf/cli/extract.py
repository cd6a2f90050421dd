"""`offshelf extract`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from offshelf.cli.options import connection_options, fetch_option, names_option

if TYPE_CHECKING:
    from offshelf.cli.options import Connection


@click.command(
    epilog="""\b
Examples:
  offshelf extract DogCat/ -e resnet50,hog                features.parquet: a row an image, a column an extractor
  offshelf extract DogCat/ -e lab:8,4,4 -o lab.parquet
  offshelf extract DogCat/ -e resnet50 --server host:7000 on a server; what it does not have is uploaded first
\b
DATASET is named as for `offshelf run`, but needs no labels: a folder of images will do, or a CSV with the column path.
pandas, polars and DuckDB read the file.
Images that cannot be used have no vector in it, and NAME.skipped.csv beside it says why.
What is extracted is found again by `offshelf run`, and the other way round.
"""
)
@click.argument("dataset")
@names_option("-e", "--extractors", help="Extractors, separated by commas.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default="features.parquet", show_default=True, help="New file."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is a Parquet file.")
@fetch_option
@connection_options
def extract(
    connection: Connection, *, dataset: str, extractors: tuple[str, ...], out: Path, overwrite: bool, fetch: str
) -> None:
    """Write the features of a dataset to a Parquet file, and compare nothing."""
    from rich.console import Console

    from offshelf.cli import results
    from offshelf.cli.following import follow
    from offshelf.cli.progress import say
    from offshelf.cli.uploading import say_skipped, shown_on
    from offshelf.client import feature_file

    if not extractors:
        raise click.UsageError("Name extractors with -e: `offshelf catalog` lists them.")
    progress, output = Console(stderr=True), Console()
    feature_file.check_file(out, overwrite=overwrite)
    with connection.open() as client:
        with shown_on(progress) as update:
            started = client.extract(dataset, extractors, fetch=fetch, on_upload=update)
        say_skipped(started.skipped, progress)
        say(progress, f"Run {started.id} {'goes on' if started.resumed else 'has started'} on {client.address}.")
        follow(started, progress)
        started.save(out, overwrite=overwrite)
    done = started.status.progress
    skipped = results.skipped(done, str(feature_file.skipped_beside(out)))
    for line in (skipped, results.extraction(done), f"The features are in {out}."):
        if line:
            say(output, line)
