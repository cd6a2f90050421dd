"""`offshelf datasets` and `offshelf gc`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from offshelf.cli.options import connection_options
from offshelf.errors import Cancelled

if TYPE_CHECKING:
    from offshelf.cli.options import Connection
    from offshelf.client import Dataset, Removal

_SHOWN_DIGITS = 12
_MOST_CLASSES = 60


@click.group(
    epilog="""\b
Examples:
  offshelf datasets list
  offshelf datasets add DogCat/ --name pets        uploads; offshelf run dataset:pets then uses it
  offshelf datasets delete pets                    shows what goes, asks, and deletes it
\b
A dataset is named by its digest, by the first eight or more digits of it, or by its name.
"""
)
def datasets() -> None:
    """Upload, list and delete datasets."""


@datasets.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print a JSON object a line.")
@connection_options
def list_datasets(connection: Connection, *, as_json: bool) -> None:
    """List the datasets, newest first."""
    with connection.open() as client:
        found = list(client.datasets())
    if as_json:
        for dataset in found:
            click.echo(json.dumps(as_document(dataset), ensure_ascii=False))
        return
    if not found:
        click.echo("There are no datasets yet: offshelf run DATASET, or offshelf datasets add, makes one.", err=True)
        return
    lines = [("DATASET", "NAME", "IMAGES", "SIZE", "CREATED", "USER", "CLASSES"), *map(_columns, found)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def as_document(dataset: Dataset) -> dict[str, Any]:
    """Return a dataset as the JSON object that is printed."""
    document = asdict(dataset)
    del document["skipped"]
    return {**document, "created_at": dataset.created_at.isoformat()}


def _columns(dataset: Dataset) -> tuple[str, ...]:
    from offshelf.cli.uploading import mebibytes

    classes = ", ".join(dataset.classes)
    return (
        dataset.digest[:_SHOWN_DIGITS],
        dataset.name,
        str(dataset.images),
        mebibytes(dataset.bytes) if dataset.bytes else "-",
        f"{dataset.created_at.astimezone():%Y-%m-%d %H:%M}",
        dataset.user,
        classes if len(classes) <= _MOST_CLASSES else f"{len(dataset.classes)} classes",
    )


@datasets.command()
@click.argument("dataset")
@click.option("--name", default="", help="What people shall call it.  [default: after its folder or file]")
@connection_options
def add(connection: Connection, *, dataset: str, name: str) -> None:
    """Upload a dataset of this machine: a folder, zip or CSV, as for `offshelf run`."""
    from rich.console import Console

    from offshelf.cli.uploading import say_skipped, shown_on

    progress = Console(stderr=True)
    with connection.open() as client:
        with shown_on(progress) as update:
            made = client.upload(dataset, name=name, on_progress=update)
        say_skipped(made.skipped, progress)
    click.echo(f"dataset:{made.digest}")


@datasets.command()
@click.argument("dataset")
@click.option("--yes", is_flag=True, help="Do not ask.")
@connection_options
def delete(connection: Connection, *, dataset: str, yes: bool) -> None:
    """Delete a dataset with everything that no other dataset needs: images, features, scores, models, reports."""
    from offshelf.digests import is_digest

    with connection.open() as client:
        # A digest is not looked up: what was deleted in part is in no list any more.
        digest = dataset if is_digest(dataset) else client.dataset(dataset).digest
        going = client.delete_dataset(digest, dry_run=True)
        if not yes:
            click.echo(f"With dataset {digest[:_SHOWN_DIGITS]} goes what no other one needs: {summary(going)}.")
            if not click.confirm("Delete all this?"):
                raise Cancelled("nothing was deleted.")
        gone = client.delete_dataset(digest)
    click.echo(f"Deleted: {summary(gone)}.")


@click.command()
@click.option(
    "--days", type=click.IntRange(7), default=7, show_default=True, help="Nothing younger goes; 7 is the least."
)
@click.option("--delete", "really", is_flag=True, help="Delete it. Otherwise only say what would go.")
@connection_options
def gc(connection: Connection, *, days: int, really: bool) -> None:
    """Find what no dataset, run or model needs any more, and delete it with --delete."""
    with connection.open() as client:
        removal = client.collect_garbage(days, dry_run=not really)
    said = summary(removal)
    if really:
        click.echo(f"Deleted: {said}.")
    else:
        click.echo(f"Would be deleted: {said}.{' --delete does it.' if removal.bytes else ''}")


def summary(removal: Removal) -> str:
    """Say in one line what goes."""
    from offshelf.cli.uploading import mebibytes

    counted = (
        (removal.datasets, "dataset"),
        (removal.images, "image"),
        (removal.segments, "file of features", "files of features"),
        (removal.tables, "feature table"),
        (removal.scores, "score", "scores"),
        (removal.models, "model"),
        (removal.reports, "report"),
        (removal.others, "other file"),
    )
    parts = [_count(*each) for each in counted if each[0]]
    if removal.segments_rewritten:
        parts.append(f"a part of {_count(removal.segments_rewritten, 'file of features', 'files of features')}")
    return f"{', '.join(parts)} ({mebibytes(removal.bytes)})" if parts else "nothing"


def _count(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or f'{one}s'}"
