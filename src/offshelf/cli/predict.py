"""`offshelf predict`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from offshelf.cli.options import connection_options

if TYPE_CHECKING:
    from offshelf.cli.options import Connection
    from offshelf.client import Prediction


@click.command(
    epilog="""\b
Examples:
  offshelf predict offshelf-out photo.jpg
  offshelf predict offshelf-out new/*.jpg --json > predictions.jsonl
  offshelf predict offshelf-out/model-hog-LR photo.jpg
\b
MODEL is the output folder of a run, a model folder (also from another machine), or a model's digest.
Exit status: 0 if every image was classified, 1 if one could not be.
"""
)
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object a line: path, label, probabilities; or path, error."
)
@connection_options
@click.pass_context
def predict(
    context: click.Context, connection: Connection, *, model: str, images: tuple[str, ...], as_json: bool
) -> None:
    """Classify images with a fitted model."""
    from offshelf.client import outputs
    from offshelf.digests import is_digest

    if not is_digest(model):
        outputs.model_folder(Path(model))  # before any services are started
    failed = False
    with connection.open() as client:
        for prediction in client.model(model).predict_each(images):
            failed = failed or bool(prediction.error)
            _print(json.dumps(as_document(prediction)) if as_json else as_line(prediction))
    context.exit(1 if failed else 0)


def as_document(prediction: Prediction) -> dict[str, Any]:
    """Return a prediction as the JSON object that is printed."""
    if prediction.error:
        return {"path": prediction.path, "error": prediction.error}
    return {
        "path": prediction.path,
        "label": prediction.label,
        "probabilities": dict(sorted(prediction.probabilities.items())),
    }


def as_line(prediction: Prediction) -> str:
    """Return a prediction as the line that people read."""
    if prediction.error:
        return f"{prediction.path}: error: {prediction.error}"
    return f"{prediction.path}: {prediction.label} ({100 * prediction.probabilities[prediction.label]:.1f} %)"


def _print(line: str) -> None:
    # A file name may hold bytes that are no text; a question mark beats a crash.
    click.echo(line.encode(sys.stdout.encoding or "utf-8", "replace"))
