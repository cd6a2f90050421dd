"""What an object store is, whatever is behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from offshelf.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

# A part stays under the 255 bytes that file systems allow for a name, with room for a suffix of theirs.
_PART = r"[A-Za-z0-9_][A-Za-z0-9_.=-]{0,199}"
_SAFE_KEY = re.compile(rf"{_PART}(/{_PART})*")
_LONGEST_KEY = 512


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows of an object without reading it."""

    key: str
    size: int
    """Bytes."""
    modified: float
    """Seconds since the epoch, by the store's clock."""


def is_key(text: str) -> bool:
    """Tell whether a text can be the key of an object; a store leaves out of its lists what cannot."""
    return len(text) <= _LONGEST_KEY and _SAFE_KEY.fullmatch(text) is not None


def check_key(key: str) -> str:
    """Return the key if it is safe in every store.

    Raises
    ------
    InvalidInput
        If a part is empty, begins with a dot, is longer than 200 characters, or holds another character than letters,
        digits, ``_ . = -``; or if the key is longer than 512 characters.
    """
    if not is_key(key):
        raise InvalidInput(f"{key!r} cannot be the name of an object in the store.")
    return key


def check_prefix(prefix: str) -> str:
    """Return the prefix if keys can begin with it: empty, or the beginning of a safe key.

    Raises
    ------
    InvalidInput
        If no key can begin with it.
    """
    if prefix and not is_key(prefix.removesuffix("/")):
        raise InvalidInput(f"No object in the store can have a name that begins with {prefix!r}.")
    return prefix


def check_folder(prefix: str) -> str:
    """Return the prefix if it can be what `ObjectStore.children` looks below: empty, or a safe key and "/".

    Raises
    ------
    InvalidInput
        If no key can lie below it.
    """
    if prefix and not (prefix.endswith("/") and is_key(prefix[:-1])):
        raise InvalidInput(f"No object in the store can lie below {prefix!r}: it must be a name that ends in '/'.")
    return prefix


def check_range(offset: int, length: int | None) -> None:
    """Refuse a range of bytes that begins before the object or has a negative length.

    Raises
    ------
    InvalidInput
        If either is negative.
    """
    if offset < 0 or (length is not None and length < 0):
        raise InvalidInput(f"A range of bytes cannot begin at {offset} with length {length}.")


class ObjectStore(Protocol):
    """Named, immutable objects. Methods block; every one may raise `StoreUnavailable` or `StoreDenied`."""

    @property
    def url(self) -> str:
        """Where the store is, without secrets."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole. Raises `StoreFull`."""
        ...

    def put_file(self, key: str, path: Path) -> None:
        """Write an object whole from a file, without holding it in memory. Raises `StoreFull`."""
        ...

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object, or `length` bytes of it from `offset` (fewer at its end). Raises `NotFound`."""
        ...

    def get_file(self, key: str, path: Path) -> None:
        """Read an object into a file, without holding it in memory. Raises `NotFound`."""
        ...

    def stat(self, key: str) -> ObjectInfo | None:
        """Look an object up without reading it; None if there is none."""
        ...

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with the prefix, sorted by key. A prefix may end anywhere."""
        ...

    def children(self, prefix: str) -> Iterator[str]:
        """Yield the distinct next parts of the keys below a prefix that ends in "/" (or is empty), sorted.

        With "runs/1/spec.json", "runs/1/events/1.json" and "runs/2/spec.json", the children of "runs/" are "1" and "2",
        those of "runs/1/" are "events" and "spec.json". Costs as much as there are children, not as there are objects.
        """
        ...

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        ...

    def close(self) -> None:
        """Wait for a store that is away no longer: calls that do end with `StoreUnavailable`.

        To be called when a process stops. A store stays usable, without patience.
        """
        ...
