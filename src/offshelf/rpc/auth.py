"""Bearer tokens: reading the one a server knows, and asking every call for it."""

from __future__ import annotations

import contextlib
import hmac
import os
import stat
from typing import TYPE_CHECKING, Final

from offshelf.errors import InvalidInput, Unauthenticated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from offshelf.rpc.interceptors import Call, Layer

AUTHORIZATION_METADATA: Final = "authorization"
"""Key of the metadata that carries the token, as "Bearer TOKEN"."""

_SCHEME: Final = "bearer "
_MAX_TOKEN_BYTES: Final = 4096


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
    try:
        with path.open("rb") as file:
            # Asked of the open file: a path could be exchanged in between.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            content = file.read(_MAX_TOKEN_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"The token file {path} cannot be read: {error.strerror}.") from None
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InvalidInput(f"The token file {path} can be read by others (mode {mode:04o}). Run: chmod 600 {path}")
    try:
        return checked_token(content.decode())
    except (InvalidInput, UnicodeDecodeError):
        raise InvalidInput(f"The token file {path} must hold one token of printable ASCII characters.") from None


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
    return (AUTHORIZATION_METADATA, f"Bearer {token}")


def bearer_layer(token: str) -> Layer:
    """Make the layer that refuses every call without this token; no method is exempt."""
    expected = token.encode()

    @contextlib.asynccontextmanager
    async def authenticate(call: Call) -> AsyncIterator[None]:
        sent = call.metadata(AUTHORIZATION_METADATA)
        if not sent:
            raise Unauthenticated("no token: give the server's token with --token or OFFSHELF_TOKEN.")
        given = sent[0][len(_SCHEME) :].strip().encode(errors="surrogateescape")
        well_formed = len(sent) == 1 and sent[0].lower().startswith(_SCHEME)
        # In constant time, so that a wrong token says nothing about the right one.
        if not (hmac.compare_digest(given, expected) and well_formed):
            raise Unauthenticated("wrong token: check --token or OFFSHELF_TOKEN against the token of this server.")
        yield

    return authenticate
