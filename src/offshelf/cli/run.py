"""`offshelf run`."""

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
  offshelf run DogCat/                         everything that is available, 10 folds
  offshelf run DogCat/ -e googlenet,hog -c SVM,LR -m f1 -o dogs
  offshelf run DogCat/ -e onnx:net.onnx,hog    a network of your own; net.onnx.json says how images go into it
  offshelf run DogCat/ --server host:7000      on a server; what it does not have of the images is uploaded first
  offshelf run dataset:pets --server host:7000 what was uploaded before: a name, or a digest or the beginning of one
\b
DATASET is a folder with a folder of images for each class, a zip of such a folder, or a CSV of path,label[,group].
What a server can read itself is named s3://bucket/prefix, or server:/path for a path on the server.
Everything that was uploaded or computed before is found again: the same command goes on where it was stopped.
"""
)
@click.argument("dataset")
@names_option(
    "-e",
    "--extractors",
    help="Extractors, separated by commas; weights that they lack are downloaded.  [default: all that are available]",
)
@names_option("-c", "--classifiers", help="Classifiers, separated by commas.  [default: all]")
@click.option("-m", "--measure", default="accuracy", show_default=True, help="What is best.")
@click.option(
    "-o", "--out", type=click.Path(path_type=Path), default="offshelf-out", show_default=True, help="New folder."
)
@click.option("--folds", type=click.IntRange(2, 100), default=10, show_default=True, help="Folds of the validation.")
@click.option(
    "--seed", type=click.IntRange(0, 2**32 - 1), default=0, show_default=True, help="Equal seeds give equal scores."
)
@click.option("--overwrite", is_flag=True, help="Replace OUT if it is an earlier output.")
@fetch_option
@connection_options
def run(
    connection: Connection,
    *,
    dataset: str,
    extractors: tuple[str, ...],
    classifiers: tuple[str, ...],
    measure: str,
    out: Path,
    folds: int,
    seed: int,
    overwrite: bool,
    fetch: str,
) -> None:
    """Compare extractors and classifiers on a dataset, fit the best, and write a report and the model to OUT."""
    from rich.console import Console

    from offshelf.cli import results
    from offshelf.cli.following import follow
    from offshelf.cli.progress import say
    from offshelf.cli.uploading import say_skipped, shown_on
    from offshelf.client import outputs

    progress, output = Console(stderr=True), Console()
    outputs.check_folder(out, overwrite=overwrite)
    if dataset:  # an empty name is refused later, with its reason; Path("") would be the folder we are in
        _check_outside(out, Path(dataset))
    with connection.open() as client:
        with shown_on(progress) as update:
            started = client.run(
                dataset,
                extractors=extractors,
                classifiers=classifiers,
                measure=measure,
                folds=folds,
                seed=seed,
                fetch=fetch,
                on_upload=update,
            )
        say_skipped(started.skipped, progress)
        say(progress, f"Run {started.id} {'goes on' if started.resumed else 'has started'} on {client.address}.")
        follow(started, progress)
        started.download(out, overwrite=overwrite)
    done = started.status.progress
    results.show_table(started.table(), output)
    say(output, f"\n{started.verdict}")
    for line in (results.skipped(done), results.work(done), f"The report is {out / 'report.html'}."):
        if line:
            say(output, line)


def _check_outside(out: Path, dataset: Path) -> None:
    """Refuse an output folder inside the dataset, where the next run would take it for a class."""
    from offshelf.errors import InvalidInput

    if dataset.is_dir() and out.resolve().is_relative_to(dataset.resolve()):
        raise InvalidInput(f"{out} lies in the dataset, where it would become a class: name another folder with -o.")
