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
    from offshelf.client.records import CatalogExtractor

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
    ready = [each for each in found.extractors if each.available]
    downloadable = [each for each in found.extractors if each.downloadable and not each.available]
    missing = [each for each in found.extractors if not each.available and not each.downloadable]
    for title, extractors in (
        ("Extractors", ready),
        ("Extractors whose weights are downloaded for a run that names them, as in -e vgg16", downloadable),
        ("Extractors that cannot be used here", missing),
    ):
        if extractors:
            click.echo(title)
            for extractor in extractors:
                _entry(extractor.name, _said(extractor, with_reason=extractors is missing))
            click.echo()
    for title, entries in (("Classifiers", found.classifiers), ("Measures", found.measures)):
        click.echo(title)
        for entry in entries:
            _entry(entry.name, entry.description)
        click.echo()
    click.echo(
        "After a network's name may stand what is taken from it, and its precision: resnet50:max, vgg16:flatten:bf16."
    )
    click.echo("Colours in steps of your own: lab:8,4,4. A network of your own: onnx:FILE or tflite:FILE.")


def _said(extractor: CatalogExtractor, *, with_reason: bool) -> str:
    said = [extractor.description]
    if extractor.dimension:
        said.append(f"{extractor.dimension} features.")
    if extractor.restriction:
        said.append(f"LICENCE: {extractor.restriction}")
    if with_reason:
        said.append(f"NOT AVAILABLE: {extractor.reason}")
    return " ".join(said)


def _entry(name: str, description: str) -> None:
    width = min(shutil.get_terminal_size().columns, _WIDEST)
    lines = textwrap.wrap(description, width, initial_indent=f"  {name:<{_NAME}} ", subsequent_indent=" " * (_NAME + 3))
    click.echo("\n".join(lines))
