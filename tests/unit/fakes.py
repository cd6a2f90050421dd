"""Small stand-ins for what is slow or outside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.errors import NotFound
from offshelf.store.objects import ObjectInfo, check_folder, check_key

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class MemoryStore:
    """An `ObjectStore` in a dictionary, which tests may look into and tamper with."""

    url = "memory:"

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        self.objects[check_key(key)] = bytes(data)

    def put_file(self, key: str, path: Path) -> None:
        """Write an object from a file."""
        self.put(key, path.read_bytes())

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object or a part of it."""
        if check_key(key) not in self.objects:
            raise NotFound(f"There is no {key} in the store.")
        end = None if length is None else offset + length
        return self.objects[key][offset:end]

    def get_file(self, key: str, path: Path) -> None:
        """Read an object into a file."""
        path.write_bytes(self.get(key))

    def stat(self, key: str) -> ObjectInfo | None:
        """Look an object up."""
        data = self.objects.get(check_key(key))
        return None if data is None else ObjectInfo(key, len(data), 0.0)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with the prefix, sorted."""
        for key in sorted(self.objects):
            if key.startswith(prefix):
                yield ObjectInfo(key, len(self.objects[key]), 0.0)

    def children(self, prefix: str) -> Iterator[str]:
        """Yield the distinct next parts of the keys below a prefix, sorted."""
        below = [key.removeprefix(check_folder(prefix)) for key in self.objects if key.startswith(prefix)]
        yield from sorted({key.partition("/")[0] for key in below})

    def delete(self, key: str) -> None:
        """Remove an object."""
        self.objects.pop(check_key(key), None)

    def close(self) -> None:
        """Do nothing."""
