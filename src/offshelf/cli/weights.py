"""`offshelf weights`."""

from __future__ import annotations

import click

from offshelf.cli.weights_export import export


@click.group()
def weights() -> None:
    """Pretrained weights of networks."""


weights.add_command(export)
