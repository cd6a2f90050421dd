"""`offshelf up`."""

from __future__ import annotations

import shlex

import click

from offshelf.cli.options import store_option


@click.command(
    epilog="""\b
Example:
  offshelf up &                 offshelf run, predict, ... on the same store then attach to it by themselves
"""
)
@store_option
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Where to listen.  [default: a free port]")
def up(*, store: str | None, port: int) -> None:
    """Start the services on this machine and keep them until Ctrl-C or SIGTERM."""
    from offshelf import embedded
    from offshelf.errors import Unavailable
    from offshelf.settings import default_store
    from offshelf.store.ownership import read_server

    root = embedded.store_root(store or default_store())
    process, address = embedded.start_in_front(root, port=port)
    try:
        server = read_server(root)
        click.echo(f"Offshelf is up at {address}; its store is {root}. Ctrl-C stops it.")
        click.echo(f"On this machine:  offshelf run DATASET{f' --store {shlex.quote(str(root))}' if store else ''}")
        if server is not None:
            token = f"$(cat {shlex.quote(str(server.token))})"
            click.echo(f"By address:       OFFSHELF_SERVER={address} OFFSHELF_TOKEN={token} offshelf run DATASET")
        click.echo(f"Log:              {embedded.log_file(root)}")
        status = process.wait()
    except KeyboardInterrupt:
        click.echo("Stopping ...", err=True)
    else:
        raise Unavailable(
            f"The services ended by themselves (status {status}): their log is {embedded.log_file(root)}."
        )
    finally:
        embedded.end(process)
