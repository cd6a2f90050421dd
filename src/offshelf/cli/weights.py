"""`offshelf weights`."""

from __future__ import annotations

import json
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from offshelf.cli.options import split_names
from offshelf.cli.progress import say
from offshelf.cli.weights_export import export
from offshelf.cli.weights_options import fetch_option, folder_option, to_option, weights_settings
from offshelf.errors import OffshelfError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from offshelf.extraction.weights.downloads import Progress
    from offshelf.extraction.weights.fetching import Source
    from offshelf.extraction.weights.stock import Stocked

_names_argument = click.argument(
    "names", nargs=-1, metavar="[NAME,…]", callback=lambda _context, _parameter, value: split_names(value)
)


@click.group(
    epilog="""\b
Examples:
  offshelf weights list
  offshelf weights pull vgg16 resnet50:classes
  offshelf weights bundle googlenet vgg16 -o weights.tar     here, where there is a network
  offshelf weights import weights.tar --to /srv/weights      there, where there is none
"""
)
def weights() -> None:
    """Look after the pretrained weights of networks: where they are, and how they get there."""


@weights.command("list")
@_names_argument
@folder_option
@fetch_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def list_(*, names: tuple[str, ...], place: str | None, fetch: str | None, as_json: bool) -> None:
    """List the files that networks take their weights from, their licences, and where they are."""
    from offshelf.extraction.weights.fetching import megabytes
    from offshelf.extraction.weights.stock import networks, take_stock

    where, policy = weights_settings(place, fetch)
    found = [(each, policy.sources((each.file,))) for each in take_stock(networks(names), where)]
    if as_json:
        rows = [
            {
                "name": each.extractor,
                "file": each.file.name,
                "size": each.file.size or None,
                "digest": each.file.digest,
                "state": _state(each, sources),
                "reason": each.reason,
                "remark": each.remark,
                "source": sources[0].url if sources else "",
                "licence": each.weights.licence,
                "restriction": each.weights.restriction,
            }
            for each, sources in found
        ]
        click.echo(json.dumps({"files": rows}, indent=2))
        return
    width = max(len(each.extractor) for each, _ in found)
    for each, sources in found:
        size = megabytes(each.file.size) if each.file.size else "size not known"
        click.echo(f"{each.extractor:<{width}}  {_state(each, sources):<12}  {each.file.name} ({size})")
        restriction = f"LICENCE: {each.weights.restriction}" if each.weights.restriction else ""
        for line in filter(None, (each.weights.licence, restriction, each.remark, each.reason)):
            click.echo(f"{'':<{width}}  {'':<12}  {line}")


def _state(each: Stocked, sources: Sequence[Source]) -> str:
    return "downloadable" if sources and each.state == "missing" else each.state.value


@weights.command()
@_names_argument
@click.option(
    "--all",
    "everything",
    is_flag=True,
    help="All that are published, but for those whose licence forbids most users something.",
)
@to_option
@fetch_option
@click.pass_context
def pull(
    context: click.Context, *, names: tuple[str, ...], everything: bool, place: str | None, fetch: str | None
) -> None:
    """Download the weights of networks, unless they are there. What was interrupted goes on where it was."""
    from rich.console import Console

    from offshelf.extraction.weights.finding import source_of
    from offshelf.extraction.weights.stock import networks
    from offshelf.extraction.weights.stock import pull as pull_one

    if everything == bool(names):
        raise click.UsageError("Name networks, or say --all.")
    where, policy = weights_settings(place, fetch, writing=True)
    chosen = networks(names)
    if everything:
        chosen = [spec for spec in chosen if ":" not in spec.name and not spec.restriction]
        chosen = [spec for spec in chosen if source_of(spec, policy) is not None] or chosen
    console, failed = Console(stderr=True), False
    for spec in chosen:
        if spec.restriction:
            say(console, f"Licence: {spec.restriction}")
        try:
            with _shown_on(console) as update:
                file, new = pull_one(spec, where, policy, on_progress=update)
        except KeyboardInterrupt:
            say(console, "Stopped. What has come is kept: the same command goes on from there.")
            raise
        except OffshelfError as error:
            failed = True
            say(console, f"Error: {spec.name}: {error.message}")
        else:
            click.echo(f"{file.name} {'is there now' if new else 'was there already'}, for {spec.name}.")
    context.exit(int(failed))


@weights.command()
@_names_argument
@folder_option
@click.pass_context
def verify(context: click.Context, *, names: tuple[str, ...], place: str | None) -> None:
    """Read all files of weights, in each place where they are, and see that each is the one that it should be."""
    from offshelf.extraction.weights.stock import networks, verify_all
    from offshelf.store.addresses import is_s3

    where, _ = weights_settings(place, "never")
    found, bad = False, False
    for each in verify_all(networks(names), where):
        found, bad = True, bad or bool(each.reason)
        # A bucket and the cache may both have the file.
        place_shown = f" ({each.place})" if is_s3(where) else ""
        click.echo(f"BAD  {each.reason}{place_shown}" if each.reason else f"ok   {each.file.name}{place_shown}")
    if not found:
        click.echo("There are no files of weights.")
    context.exit(int(bad))


@weights.command()
@_names_argument
@click.option("-o", "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The new bundle.")
@folder_option
@fetch_option
def bundle(*, names: tuple[str, ...], out: Path, place: str | None, fetch: str | None) -> None:
    """Put the weights of networks into one tar, for a site that downloads nothing; missing ones are pulled first."""
    from rich.console import Console

    from offshelf.errors import InvalidInput
    from offshelf.extraction.weights.bundles import write_bundle
    from offshelf.extraction.weights.fetching import megabytes
    from offshelf.extraction.weights.finding import folder_of
    from offshelf.extraction.weights.stock import networks, weights_of
    from offshelf.extraction.weights.stock import pull as pull_one
    from offshelf.store.addresses import is_s3

    if not names:
        raise click.UsageError("Name the networks whose weights are to be in it.")
    where, policy = weights_settings(place, fetch)
    if is_s3(where):
        raise InvalidInput("Bundles are made of a folder's files: name one with --in.")
    console, files = Console(stderr=True), []
    for spec in networks(names):
        if spec.restriction:
            say(console, f"Licence: {spec.restriction}")
        with _shown_on(console) as update:
            file, _ = pull_one(spec, where, policy, on_progress=update)
        files.append((spec, file))
    members = write_bundle([(weights_of(spec), file) for spec, file in files], folder_of(where), out)
    size = megabytes(sum(member.size for member in members))
    click.echo(f"{out} holds {', '.join(member.name for member in members)} ({size}).")


@weights.command("import")
@click.argument("path", metavar="BUNDLE", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@to_option
def import_(*, path: Path, place: str | None) -> None:
    """Take the weights out of a bundle, all or none; each is checked before it gets its name."""
    from offshelf.errors import InvalidInput
    from offshelf.extraction.weights.bundles import read_bundle
    from offshelf.extraction.weights.finding import folder_of
    from offshelf.extraction.weights.stock import known_files
    from offshelf.store.addresses import is_s3

    where, _ = weights_settings(place, "never", writing=True)
    if is_s3(where):
        raise InvalidInput("A bundle is taken out into a folder: name one with --to.")
    folder = folder_of(where)
    for member in read_bundle(path, folder, known_files()):
        click.echo(f"{member.name} is there now. Licence: {member.licence}.")
        if member.restriction:
            click.echo(f"Licence: {member.restriction}")


@contextmanager
def _shown_on(console: Console) -> Iterator[Callable[[Progress], None]]:
    """Give what takes the progress of a download: a bar on a terminal, a line now and then elsewhere."""
    from offshelf.extraction.weights.downloads import in_steps

    if not console.is_terminal:
        yield in_steps(lambda progress: say(console, f"{progress.name}: {progress}"))
        return
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TransferSpeedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TextColumn("{task.fields[note]}"), console=console) as bars:
        tasks = {}

        def update(progress: Progress) -> None:
            if progress.name not in tasks:
                tasks[progress.name] = bars.add_task(progress.name, total=None, note="")
            bars.update(tasks[progress.name], completed=progress.done, total=progress.total or None, note=progress.note)

        yield update


weights.add_command(export)
