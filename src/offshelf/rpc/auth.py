"""Bearer tokens: reading the one of a file, sending it; and whose call is being served."""

from __future__ import annotations

import os
import stat
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from offshelf.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.access import Caller

AUTHORIZATION_METADATA: Final = "authorization"
"""Key of the metadata that carries the token, as "Bearer TOKEN"."""

BEARER: Final = "Bearer "
"""What stands before the token there."""

_MAX_TOKEN_BYTES: Final = 4096
_MAX_SECRET_BYTES: Final = 65536

caller_of_call: Final[ContextVar[Caller | None]] = ContextVar("caller", default=None)
"""Set by the layer that lets callers in; everything else asks `current_caller`."""


def current_caller() -> Caller:
    """Whose call is being served.

    Raises
    ------
    LookupError
        No call is being served, or nobody has been let in yet.
    """
    caller = caller_of_call.get()
    if caller is None:
        raise LookupError("no call is being served")
    return caller


def read_token(path: Path | None) -> str:
    """Read the token of a server from its file.

    Raises
    ------
    InvalidInput
        There is no file, others than its owner can read it, or it holds no token.
    """
    if path is None:
        raise InvalidInput(
            "A server needs a token: write one to a file of mode 0600 and set OFFSHELF_TOKEN_FILE to it."
        )
    content = read_secret(path, "token")
    try:
        return checked_token(content.decode())
    except (InvalidInput, UnicodeDecodeError):
        raise InvalidInput(f"The token file {path} must hold one token of printable ASCII characters.") from None


def read_secret(path: Path, what: str) -> bytes:
    """Read a small file with a secret, unless it lies open.

    A group may read it if the file is root's. That is what Kubernetes makes of a Secret in a pod that runs as another
    user with an `fsGroup`: root owns the file, so no user could have opened it by mistake, and the group is the pod's
    own.

    Parameters
    ----------
    what
        What it holds: "token", "key".

    Raises
    ------
    InvalidInput
        There is no such file, or others can read it.
    """
    try:
        with path.open("rb") as file:
            # Asked of the open file: a path could be exchanged in between.
            found = os.fstat(file.fileno())
            content = file.read(_MAX_SECRET_BYTES)
    except OSError as error:
        raise InvalidInput(f"The {what} file {path} cannot be read: {error.strerror}.") from None
    mode = stat.S_IMODE(found.st_mode)
    harmless = stat.S_IRGRP if found.st_uid == 0 else 0
    if mode & (stat.S_IRWXG | stat.S_IRWXO) & ~harmless:
        raise InvalidInput(f"The {what} file {path} can be read by others (mode {mode:04o}). Run: chmod 600 {path}")
    return content


def checked_token(text: str) -> str:
    """Strip a token and refuse one that could not travel in metadata.

    Raises
    ------
    InvalidInput
        It is empty, too long, or has characters other than printable ASCII without spaces.
    """
    token = text.strip()
    if not token or len(token) > _MAX_TOKEN_BYTES or not all("!" <= character <= "~" for character in token):
        raise InvalidInput("A token is one word of printable ASCII characters. Check --token or OFFSHELF_TOKEN.")
    return token


def bearer(token: str) -> tuple[str, str]:
    """Make the metadata that carries a token."""
    return (AUTHORIZATION_METADATA, f"{BEARER}{token}")
