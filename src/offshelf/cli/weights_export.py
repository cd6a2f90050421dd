"""`offshelf weights export`."""

from __future__ import annotations

from pathlib import Path

import click

from offshelf.cli.weights_options import fetch_option, folder_option, weights_settings


@click.command(
    epilog="""\b
Example:
  offshelf weights export resnet50 --saved-model models/
  docker run -p 8500:8500 -v "$PWD/models/resnet50:/models/resnet50" -e MODEL_NAME=resnet50 tensorflow/serving
  OFFSHELF_REMOTE_ENGINES=resnet50=127.0.0.1:8500 offshelf run photos/ -e resnet50
"""
)
@click.argument("extractor")
@click.option(
    "--saved-model",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of models, which gets EXTRACTOR/VERSION.",
)
@click.option(
    "--version", type=click.IntRange(1), default=1, show_default=True, help="Servers take the largest there is."
)
@folder_option
@fetch_option
def export(*, extractor: str, folder: Path, version: int, place: str | None, fetch: str | None) -> None:
    """Write the network of an EXTRACTOR for TensorFlow Serving or OpenVINO Model Server.

    What is written is a SavedModel that takes pixels and gives features, and that can say of which extractor. Networks
    of your own, in ONNX or TensorFlow Lite, cannot be exported.
    """
    from offshelf.errors import NotFound

    try:
        from offshelf.extraction.saved_model import export_saved_model
    except ModuleNotFoundError as error:
        raise NotFound(f"Exporting needs the package {error.name}: pip install 'offshelf[tfserving]'.") from None

    weights, policy = weights_settings(place, fetch)
    written = export_saved_model(extractor, folder, version=version, weights=weights, fetch=policy)
    click.echo(f"{extractor} is in {written}. Once a server has it, at HOST, set for all services:")
    click.echo(f"  OFFSHELF_REMOTE_ENGINES={extractor}=HOST:8500")
