"""Where weights are, and whether they may be asked for: what the commands below `offshelf weights` have in common."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from offshelf.extraction.weights.fetching import FetchPolicy

folder_option = click.option(
    "--in",
    "place",
    metavar="FOLDER",
    help="Folder or s3://bucket/prefix of weights.  [default: OFFSHELF_WEIGHTS, or your cache]",
)
to_option = click.option(
    "--to",
    "place",
    metavar="FOLDER",
    help="Where to put them; for pull also s3://bucket/prefix.  [default: OFFSHELF_WEIGHTS or your cache]",
)
fetch_option = click.option(
    "--fetch",
    type=click.Choice(("auto", "never")),
    help="Whether authors of weights are asked for what is missing.  [default: OFFSHELF_FETCH, or auto]",
)


def weights_settings(place: str | None, fetch: str | None, *, writing: bool = False) -> tuple[str, FetchPolicy]:
    """Say where weights are, or where new ones go; and who may be asked for them."""
    from dataclasses import replace

    from offshelf.extraction.weights.fetching import FetchPolicy
    from offshelf.settings import Settings
    from offshelf.store.addresses import is_s3

    settings = Settings.from_environment(os.environ)
    if fetch is not None:
        settings = replace(settings, fetch=fetch)
    # The installation's bucket is written to by whoever names it, and not by the way.
    default = "" if writing and is_s3(settings.weights) else settings.weights
    return place or default, FetchPolicy.of(settings)
