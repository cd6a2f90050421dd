"""`offshelf catalog`."""

from __future__ import annotations

import json
import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from offshelf.cli.options import connection_options

if TYPE_CHECKING:
    from offshelf.cli.options import Connection

_NAME = 17
_WIDEST = 110


@click.command(
    epilog="""\b
Examples:
  offshelf catalog
  offshelf catalog --json | jq '.extractors[] | select(.available) | .name'
"""
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@connection_options
def catalog(connection: Connection, *, as_json: bool) -> None:
    """List the extractors, classifiers and measures that a run can be asked for."""
    with connection.open() as client:
        found = client.catalog()
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    click.echo("Extractors")
    for extractor in found.extractors:
        features = f" {extractor.dimension} features." if extractor.dimension else ""
        said = [f"{extractor.description}{features}"]
        if extractor.restriction:
            said.append(f"LICENCE: {extractor.restriction}")
        if not extractor.available:
            said.append(f"{'NOT HERE YET' if extractor.downloadable else 'NOT AVAILABLE'}: {extractor.reason}")
        _entry(extractor.name, " ".join(said))
    for title, entries in (("Classifiers", found.classifiers), ("Measures", found.measures)):
        click.echo(f"\n{title}")
        for entry in entries:
            _entry(entry.name, entry.description)


def _entry(name: str, description: str) -> None:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    lines = textwrap.wrap(description, width, initial_indent=f"  {name:<{_NAME}} ", subsequent_indent=" " * (_NAME + 3))
    click.echo("\n".join(lines))
