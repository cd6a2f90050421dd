"""`offshelf fit`."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import click

from offshelf.cli.options import connection_options

if TYPE_CHECKING:
    from offshelf.cli.options import Connection

_UNSAFE = re.compile(r"[^A-Za-z0-9_.]+")


@click.command(
    epilog="""\b
Example:
  offshelf fit offshelf-out -e hog -c LR     writes offshelf-out/model-hog-LR
"""
)
@click.argument("out", type=click.Path(path_type=Path))
@click.option("-e", "--extractor", required=True, metavar="NAME", help="Extractor of the combination.")
@click.option("-c", "--classifier", required=True, metavar="NAME", help="Classifier of the combination.")
@click.option("-o", "--model", type=click.Path(path_type=Path), help="New folder.  [default: OUT/model-NAME-NAME]")
@click.option("--overwrite", is_flag=True, help="Replace the folder if it is a model's.")
@connection_options
def fit(
    connection: Connection, *, out: Path, extractor: str, classifier: str, model: Path | None, overwrite: bool
) -> None:
    """Fit another combination than the best one of the run whose output is OUT."""
    from rich.console import Console

    from offshelf.cli.following import follow
    from offshelf.cli.progress import say
    from offshelf.client import outputs

    progress, output = Console(stderr=True), Console()
    spec = outputs.recorded_spec(out).choosing(extractor, classifier)
    folder = model or out / f"model-{_UNSAFE.sub('-', extractor)}-{_UNSAFE.sub('-', classifier)}"
    outputs.check_folder(folder, overwrite=overwrite)
    with connection.open(store=_recorded_store(out, connection)) as client:
        run = client.run(
            spec.dataset,
            extractors=spec.extractors,
            classifiers=spec.classifiers,
            measure=spec.measure,
            folds=spec.folds,
            seed=spec.seed,
            choice=spec.choice,
            fetch=spec.fetch,
        )
        follow(run, progress)
        fitted = run.best
        fitted.save(folder, overwrite=overwrite)
    table = run.table()
    points = table.behind(fitted.extractor, fitted.classifier)
    best = table.best.combination
    behind = f"{points:.1f} points behind the best, {best}" if points else "as good as the best"
    say(output, f"{fitted.extractor} + {fitted.classifier} is {behind} ({table.title}).")
    say(output, f"The model is in {folder}.")


def _recorded_store(out: Path, connection: Connection) -> str | None:
    """Return the store in which the output's run was made, if nothing else is named and it is this user's own."""
    from offshelf.client import outputs
    from offshelf.errors import InvalidInput

    if connection.server or connection.store or os.environ.get("OFFSHELF_SERVER"):
        return None
    note = outputs.read_run_file(out)[outputs.CLIENT_KEY]
    if "server" in note:
        # Not by itself: whoever gave away the folder could have the user's token sent anywhere.
        raise InvalidInput(f"{out} was made on the server {note['server']}: name it with --server.")
    store = Path(str(note.get("store", "")))
    try:
        return str(store) if store.is_absolute() and store.stat().st_uid == os.getuid() else None
    except OSError:
        return None
