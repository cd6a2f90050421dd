"""Watching a run from the command line, and stopping it with Ctrl-C."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final

from offshelf.cli.options import LeaveAtOnce
from offshelf.cli.progress import display_on, say
from offshelf.errors import Cancelled, Conflict, Unavailable

if TYPE_CHECKING:
    from rich.console import Console

    from offshelf.client import Run


_POLL_SECONDS: Final = 0.25


def follow(run: Run, console: Console) -> None:
    """Show a run until it has ended; Ctrl-C or SIGTERM asks it to stop and waits until it has.

    Raises
    ------
    Cancelled
        If it was stopped.
    LeaveAtOnce
        If it was interrupted again while it was stopping.
    RunFailed, Unavailable
        As `Run.watch`.
    """
    try:
        with display_on(console) as display:
            run.watch(display.update)
    except KeyboardInterrupt:
        _stop(run, console)
        raise Cancelled("stopped. What is finished is kept: the same command goes on from there.") from None


def _stop(run: Run, console: Console) -> None:
    try:
        say(console, "Asking the run to stop (Ctrl-C again leaves at once) ...")
        run.cancel()
        # Asked again and again, not watched: an interruption can come at a moment after which gRPC hears no streams on
        # this connection any more.
        while not run.refresh().state.at_rest:
            time.sleep(_POLL_SECONDS)
    except (Conflict, Unavailable):
        pass  # it has just ended, or its server has: there is nothing left to stop
    except KeyboardInterrupt:
        raise LeaveAtOnce from None
