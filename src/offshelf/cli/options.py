"""What several commands have in common: the connection, and lists of names."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from offshelf.client import Client

F = TypeVar("F", bound="Callable[..., Any]")

# A comma before a number belongs to a name: lab:4,4,4.
_BETWEEN_NAMES = re.compile(r",(?!\d+(?:,|$))")


class LeaveAtOnce(KeyboardInterrupt):
    """The second Ctrl-C: nothing is waited for any more."""


@dataclass(frozen=True, slots=True)
class Connection:
    """Where a command goes; what is None comes from the environment, as `Client` says."""

    server: str | None
    token: str | None
    ca: str | None
    store: str | None

    @contextmanager
    def open(self, *, store: str | None = None) -> Iterator[Client]:
        """Connect for the time of a block. Services that were started for it have ended when it ends.

        Parameters
        ----------
        store
            Used if neither a server nor a store is named.
        """
        from offshelf.client import Client

        client = Client(self.server, self.token, self.ca, self.store or store)
        try:
            yield client
        except LeaveAtOnce:
            client.close(wait=False)
            raise
        finally:
            client.close()


def connection_options(command: F) -> F:
    """Give a command --server, --token, --ca and --store, as one argument `connection`."""

    def with_connection(
        *args: Any,
        server: str | None,
        token: str | None,
        ca: str | None,
        store: str | None,
        **kwargs: Any,
    ) -> Any:
        return command(*args, connection=Connection(server, token, ca, store), **kwargs)

    options = (
        click.option(
            "--server", metavar="HOST:PORT", help="Use this server.  [default: OFFSHELF_SERVER, or this machine]"
        ),
        click.option(
            "--token",
            metavar="TOKEN",
            help="The server's token. Other users of this machine can see it on the command line: "
            "better set OFFSHELF_TOKEN.",
        ),
        click.option("--ca", metavar="FILE", help="Certificate of the server's authority.  [default: OFFSHELF_CA]"),
        store_option,
    )
    wrapped: Any = with_connection
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = getattr(command, "__click_params__", [])
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[no-any-return]


store_option = click.option(
    "--store",
    metavar="FOLDER",
    help="Where services on this machine keep everything.  [default: OFFSHELF_STORE, or your data folder]",
)


fetch_option = click.option(
    "--fetch",
    type=click.Choice(("auto", "never")),
    default="auto",
    show_default=True,
    help="Whether weights that the named extractors lack are downloaded, if the services may; with never, such "
    "extractors are left out.",
)


def split_names(values: tuple[str, ...]) -> tuple[str, ...]:
    """Take names that are separated by commas, repeated, or both."""
    names = (name.strip() for value in values for name in _BETWEEN_NAMES.split(value))
    return tuple(dict.fromkeys(name for name in names if name))


def names_option(*flags: str, help: str) -> Callable[[F], F]:  # noqa: A002  click's own word
    """Make an option that takes names."""
    return click.option(
        *flags,
        multiple=True,
        metavar="NAME,…",
        callback=lambda _context, _parameter, value: split_names(value),
        help=help,
    )
