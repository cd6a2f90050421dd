"""`offshelf tokens`."""

from __future__ import annotations

import datetime as dt
import shlex
from pathlib import Path

import click

_ROLES = ("viewer", "runner", "admin")

_file_option = click.option(
    "--file",
    "path",
    type=click.Path(path_type=Path, dir_okay=False),
    default="users.json",
    show_default=True,
    help="The users file.",
)


@click.group(
    epilog="""\b
Examples:
  offshelf tokens add ada --role runner --days 365 > ada.token
  offshelf tokens list
  offshelf tokens remove ada
"""
)
def tokens() -> None:
    """Say who may use a server: users, their roles, and the digests of their tokens, in a file."""


@tokens.command()
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(_ROLES),
    required=True,
    help="viewer: sees and predicts; runner: also uploads and runs; admin: also deletes.",
)
@click.option("--days", type=click.IntRange(1, 36500), help="The token is good for so long.  [default: for ever]")
@_file_option
def add(*, name: str, role: str, days: int | None, path: Path) -> None:
    """Give NAME a token. It is printed once, and kept nowhere: the file holds its digest."""
    from offshelf import tokens as users_file

    users = users_file.read_users(path) if path.exists() else ()
    users, token = users_file.add_user(users, name, users_file.USER_ROLES[role], days=days)
    users_file.write_users(path, users)
    click.echo(f"The token of {name}, shown this once:", err=True)
    click.echo(token)
    _say_how_to_use(path)


@tokens.command("list")
@_file_option
def list_(*, path: Path) -> None:
    """List the users."""
    from offshelf import tokens as users_file

    users = users_file.read_users(path)
    now = dt.datetime.now(dt.UTC)
    lines = [("NAME", "ROLE", "TOKEN EXPIRES")]
    for user in users:
        ends = f"{user.expires:%Y-%m-%d}" if user.expires else "never"
        expired = user.expires is not None and user.expires <= now
        lines.append((user.name, user.role.name.lower(), f"{ends} (has expired)" if expired else ends))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for line in lines:
        click.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


@tokens.command()
@click.argument("name")
@_file_option
def remove(*, name: str, path: Path) -> None:
    """Take the token of NAME away."""
    from offshelf import tokens as users_file

    users_file.write_users(path, users_file.remove_user(users_file.read_users(path), name))
    click.echo(f"{name} is removed from {path}.", err=True)
    _say_how_to_use(path)


def _say_how_to_use(path: Path) -> None:
    # On standard error: what is printed on standard output is the token, and goes into a file.
    click.echo(
        f"""\
A server with OFFSHELF_USERS={path} reads the file again by itself. In a cluster (it takes a minute or two):
  kubectl create secret generic offshelf-users --namespace offshelf --from-file users.json={shlex.quote(str(path))} \\
    --dry-run=client -o yaml | kubectl apply -f -""",
        err=True,
    )
