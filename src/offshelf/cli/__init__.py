"""The command line. `main` is its entry point; each command has a file of its own."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

import click

from offshelf.cli.catalog import catalog
from offshelf.cli.certs import certs
from offshelf.cli.datasets import datasets, gc
from offshelf.cli.extract import extract
from offshelf.cli.fit import fit
from offshelf.cli.predict import predict
from offshelf.cli.run import run
from offshelf.cli.runs import cancel, runs, watch
from offshelf.cli.tokens import tokens
from offshelf.cli.up import up
from offshelf.cli.weights import weights
from offshelf.errors import Cancelled, OffshelfError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType


@dataclass(slots=True)
class _Reporting:
    debug: bool = False


class _InOrder(click.Group):
    """A group that lists its commands in the order in which people need them."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  click's signature
        return list(self.commands)


@click.group(
    cls=_InOrder,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="""\b
Examples:
  offshelf run DogCat/                        compare everything on a folder with a folder of images per class
  offshelf run DogCat/ -e hog,lab888 -c SVM   compare some
  offshelf predict offshelf-out photo.jpg     use the best
  offshelf extract DogCat/ -e resnet50        features.parquet, and nothing else
  offshelf COMMAND --help                     tells more
""",
)
@click.version_option(package_name="offshelf", prog_name="offshelf")
@click.option("--debug", is_flag=True, help="Show where an error comes from.  [default: OFFSHELF_DEBUG]")
@click.pass_obj
def cli(reporting: _Reporting, *, debug: bool) -> None:
    """A folder of labelled images in; a compared, trained and served classifier out."""
    reporting.debug = reporting.debug or debug


for _command in (run, predict, fit, extract, catalog, runs, watch, cancel, datasets, gc, weights, up, tokens, certs):
    cli.add_command(_command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        By default those of the process.

    Returns
    -------
    int
        The exit status: 0; 1 for a failure; 2 for something that the user can change; 130 after Ctrl-C or SIGTERM.
    """
    reporting = _Reporting(debug=os.environ.get("OFFSHELF_DEBUG", "") not in {"", "0"})
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return _run(arguments, reporting)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _run(arguments: Sequence[str] | None, reporting: _Reporting) -> int:
    try:
        status = cli.main(arguments, prog_name="offshelf", standalone_mode=False, obj=reporting)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return Cancelled.exit_code
    except OffshelfError as error:
        _report(error, error.message, reporting)
        return error.exit_code
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _report(error, f"{where}{error.strerror or error}", reporting)
        return 1
    except Exception as error:  # noqa: BLE001  the last door: people get a line, --debug the rest
        _report(error, f"a defect of Offshelf ({type(error).__name__}: {error}); --debug shows where", reporting)
        return 1
    return status if isinstance(status, int) else 0


def _report(error: BaseException, message: str, reporting: _Reporting) -> None:
    if reporting.debug:
        traceback.print_exception(error)
    line = " ".join(message.split())
    click.echo(f"Error: {line}".encode(sys.stderr.encoding or "utf-8", "replace"), err=True)
