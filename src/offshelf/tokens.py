"""The users of a server: their names, roles and the digests of their tokens, in one JSON file.

    {"users": [{"name": "ada", "role": "runner", "sha256": "5e88...", "expires": "2027-01-31T00:00:00+00:00"}]}

Tokens are 256 random bits, so one round of SHA-256 is as good as a slow hash: there is no dictionary to try. The file
holds no token, only what recognizes one. A name may stand there several times, with a token each.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import os
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from offshelf.access import Role
from offshelf.errors import Conflict, InvalidInput, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

USER_ROLES: Final = {role.name.lower(): role for role in (Role.VIEWER, Role.RUNNER, Role.ADMIN)}
"""The roles that a user may have, by their names."""

TOKEN_PREFIX: Final = "offshelf_"  # noqa: S105  the part that is no secret
"""What every token begins with, so that a scanner for secrets finds one in the wrong place."""

_TOKEN_BYTES: Final = 32
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,63}")
_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_MAX_FILE_BYTES: Final = 2**20  # a Secret of Kubernetes holds no more


@dataclass(frozen=True, slots=True)
class User:
    """Somebody with a token."""

    name: str
    role: Role
    digest: str
    """SHA-256 of the token, in hexadecimal."""
    expires: dt.datetime | None = None
    """From when on the token is good no more."""


def new_token() -> str:
    """Make a token of 256 random bits."""
    return TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)


def digest_of(token: str) -> str:
    """Give what the file holds of a token."""
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()


def find(users: Iterable[User], token: str) -> User | None:
    """Find who has a token, expired or not. All users are looked at, each in constant time."""
    digest, found = digest_of(token), None
    for user in users:
        if hmac.compare_digest(user.digest, digest):
            found = user
    return found


def read_users(path: Path) -> tuple[User, ...]:
    """Read a users file.

    Raises
    ------
    InvalidInput
        The file cannot be read, or something in it cannot be used; the message says where.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidInput(f"The users file {path} cannot be read: {error.strerror}.") from None
    if len(content) > _MAX_FILE_BYTES:
        raise InvalidInput(f"The users file {path} is larger than 1 MiB.")
    try:
        entries = json.loads(content)["users"]
    except (ValueError, TypeError, KeyError):
        entries = None
    if not isinstance(entries, list):
        raise InvalidInput(f'The users file {path} is not JSON of the form {{"users": [...]}}.')
    users = tuple(_user(entry, f"The users file {path}, entry {number},") for number, entry in enumerate(entries, 1))
    if len({user.digest for user in users}) < len(users):
        raise InvalidInput(f"The users file {path} has the same token twice.")
    return users


def write_users(path: Path, users: Iterable[User]) -> None:
    """Write a users file, readable by its owner alone. Readers see the old one or the new one, never half of it."""
    entries = [
        {"name": user.name, "role": user.role.name.lower(), "sha256": user.digest}
        | ({"expires": user.expires.isoformat(timespec="seconds")} if user.expires else {})
        for user in users
    ]
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(json.dumps({"users": entries}, indent=2) + "\n")
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise


def add_user(
    users: Sequence[User], name: str, role: Role, *, days: float | None = None
) -> tuple[tuple[User, ...], str]:
    """Give somebody a token.

    Parameters
    ----------
    days
        After so many days it is good no more.

    Returns
    -------
    tuple
        All users, and the token. It is nowhere kept.

    Raises
    ------
    InvalidInput
        The name cannot be used.
    Conflict
        There is somebody of that name.
    """
    if not _NAME.fullmatch(name):
        raise InvalidInput(f"{name!r} cannot be a user's name: letters, digits and . _ @ + - (at most 64).")
    if any(user.name == name for user in users):
        raise Conflict(f"{name} has a token already. Remove it first: offshelf tokens remove {name}")
    expires = None if days is None else dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(days=days)
    token = new_token()
    return (*users, User(name, role, digest_of(token), expires)), token


def remove_user(users: Sequence[User], name: str) -> tuple[User, ...]:
    """Take somebody's tokens away.

    Raises
    ------
    NotFound
        There is nobody of that name.
    """
    left = tuple(user for user in users if user.name != name)
    if len(left) == len(users):
        raise NotFound(f"There is no user {name!r}. Known: {', '.join(user.name for user in users) or 'nobody'}.")
    return left


def _user(entry: Any, where: str) -> User:
    if not isinstance(entry, dict) or not all(isinstance(value, str) for value in entry.values()):
        raise InvalidInput(f"{where} is no object of texts.")
    if not _NAME.fullmatch(entry.get("name", "")):
        raise InvalidInput(f"{where} has no usable name.")
    if entry.get("role") not in USER_ROLES:
        raise InvalidInput(f"{where} has no role of: {', '.join(USER_ROLES)}.")
    if not _DIGEST.fullmatch(entry.get("sha256", "")):
        raise InvalidInput(f"{where} has no SHA-256 of 64 hexadecimal digits.")
    if unknown := set(entry) - {"name", "role", "sha256", "expires"}:
        raise InvalidInput(f"{where} has something unknown: {', '.join(sorted(unknown))}.")
    try:
        expires = dt.datetime.fromisoformat(entry["expires"]) if "expires" in entry else None
    except ValueError:
        raise InvalidInput(f'{where} expires at no date: write it as "2027-01-31T00:00:00+00:00".') from None
    if expires is not None and expires.tzinfo is None:
        expires = expires.replace(tzinfo=dt.UTC)
    return User(entry["name"], USER_ROLES[entry["role"]], entry["sha256"], expires)
