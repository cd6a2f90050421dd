"""A store in a directory: one file an object, for one machine.

Names that begin with a dot are not objects: incomplete files, and what belongs to the running server (`.embedded`).
Links are not objects either: whatever a link inside the store points to is neither read nor written.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf.errors import Conflict, InvalidInput, NotFound, StoreDenied
from offshelf.store.durable import TEMPORARY, make_directory, new_file, store_errors, write_file
from offshelf.store.objects import ObjectInfo, check_folder, check_key, check_prefix, check_range, is_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offshelf.errors import OffshelfError

_CHUNK = 1 << 20
# Windows has none of these flags. No store is opened there, but the SDK imports this module where it uploads.
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_DIRECTORY = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | _NO_LINK
# O_NONBLOCK: opening a pipe that somebody put there must not hang.
_FILE = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _NO_LINK
# What opening reports when there is no such plain file or directory: nothing, a file on the way, a link.
_ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EMLINK, errno.ENXIO})
_SWEPT = ".swept"
_STALE_SECONDS = 24 * 3600.0


class DirectoryStore:
    """Objects as files under one directory.

    Parameters
    ----------
    root
        The directory. It may itself be a link; inside it, links are not followed. `create` makes it.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100  resolve() would follow links and hide what the user wrote

    def __repr__(self) -> str:
        return f"DirectoryStore({self.url!r})"

    @property
    def root(self) -> Path:
        """The directory."""
        return self._root

    @property
    def url(self) -> str:
        """The directory's absolute path."""
        return str(self._root)

    def create(self) -> None:
        """Make the directory, and those above it, unless they are there.

        Raises
        ------
        InvalidInput
            If a file is there or on the way.
        StoreDenied, StoreFull, StoreUnavailable
            If the file system refuses.
        """
        with store_errors(self.url):
            try:
                for path in reversed([path for path in (self._root, *self._root.parents) if not path.exists()]):
                    make_directory(str(path))
                os.close(self._open_root())
            except NotADirectoryError as error:
                raise InvalidInput(f"{self.url} is or lies under a file: a store needs a directory.") from error

    def put(self, key: str, data: bytes) -> None:
        """Write an object whole. Raises `StoreFull`."""
        with self._writing(key) as (parent, name):
            write_file(parent, name, (data,))

    def put_file(self, key: str, path: Path) -> None:
        """Write an object whole from a file, without holding it in memory. Raises `StoreFull`."""
        with path.open("rb") as source, self._writing(key) as (parent, name):
            write_file(parent, name, iter(lambda: source.read(_CHUNK), b""))

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object, or `length` bytes of it from `offset` (fewer at its end). Raises `NotFound`."""
        check_range(offset, length)
        with store_errors(self.url), self._reading(key) as (descriptor, _):
            os.lseek(descriptor, offset, os.SEEK_SET)
            with open(descriptor, "rb", closefd=False) as file:
                return file.read(-1 if length is None else length)

    def get_file(self, key: str, path: Path) -> None:
        """Read an object into a file, without holding it in memory. Raises `NotFound`."""
        with self._reading(key) as (descriptor, _), new_file(path) as target:
            while chunk := self._read_chunk(descriptor):
                target.write(chunk)

    def stat(self, key: str) -> ObjectInfo | None:
        """Look an object up without reading it; None if there is none."""
        try:
            with self._parent(check_key(key)) as (parent, name), store_errors(self.url):
                found = _status(parent, name)
        except NotFound:
            return None
        if found is None or not stat.S_ISREG(found.st_mode):
            return None
        return ObjectInfo(key, found.st_size, found.st_mtime)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with the prefix, sorted by key. A prefix may end anywhere."""
        folder, _, beginning = check_prefix(prefix).rpartition("/")
        with store_errors(self.url):
            os.close(self._open_root())
        yield from self._walk(folder, beginning)

    def children(self, prefix: str) -> Iterator[str]:
        """Yield the distinct next parts of the keys below a prefix that ends in "/" (or is empty), sorted."""
        folder = check_folder(prefix).removesuffix("/")
        with store_errors(self.url):
            os.close(self._open_root())
            found = dict(self._parts_in(folder))
            # A folder stays when what lay in it is deleted; it is no part of a key then.
            names = [name for name, is_folder in found.items() if not is_folder or self._is_used(prefix + name)]
        return iter(sorted(names))

    def delete(self, key: str) -> None:
        """Remove an object; no error if there is none."""
        with suppress(NotFound), self._parent(check_key(key)) as (parent, name), store_errors(self.url):
            found = _status(parent, name)
            if found is not None and not stat.S_ISDIR(found.st_mode):
                with suppress(FileNotFoundError):  # another process removes it as well
                    os.unlink(name, dir_fd=parent)
                os.fsync(parent)

    def close(self) -> None:
        """Do nothing: this store waits for nothing."""

    def holds_anything(self) -> bool:
        """Tell whether there is any file or folder that does not begin with a dot, ours or not."""
        with store_errors(self.url), os.scandir(self._root) as entries:
            return any(not entry.name.startswith(".") for entry in entries)

    def sweep(self) -> None:
        """Remove incomplete files that a process left behind when it was killed; at most once a day.

        A file counts as left behind a day after it was last written: no write takes that long. What cannot be removed
        stays, since it does no harm.
        """
        before = time.time() - _STALE_SECONDS
        with suppress(OSError):
            mark = self._root / _SWEPT
            if mark.exists() and mark.lstat().st_mtime > before:
                return
            mark.touch(mode=0o600)
            for folder, _, names in os.walk(self._root):
                for path in (Path(folder, name) for name in names if name.startswith(TEMPORARY)):
                    with suppress(FileNotFoundError):  # its writer has just finished
                        if path.lstat().st_mtime < before:
                            path.unlink()

    def _walk(self, folder: str, beginning: str) -> Iterator[ObjectInfo]:
        """Yield what lies in a folder (a key, or empty) under names that begin so, sorted as whole keys are."""
        with store_errors(self.url):
            try:
                descriptor = self._open_folder(folder, wanted=folder)
            except NotFound:
                return
            try:
                with os.scandir(descriptor) as entries:
                    found = dict(self._children(folder, beginning, entries))
            finally:
                os.close(descriptor)
        # "a-b/x" comes before "a/x" as a key, though "a" comes before "a-b" as a name: hence the "/" of folders.
        for key in sorted(found):
            info = found[key]
            if info is None:
                yield from self._walk(key.removesuffix("/"), "")
            else:
                yield info

    def _children(
        self, folder: str, beginning: str, entries: Iterator[os.DirEntry[str]]
    ) -> Iterator[tuple[str, ObjectInfo | None]]:
        """Yield key and description of the objects in a folder; for folders, the key with "/" and None."""
        for entry in entries:
            key = f"{folder}/{entry.name}" if folder else entry.name
            if not entry.name.startswith(beginning) or not is_key(key):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield f"{key}/", None
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # removed since
                    found = entry.stat(follow_symlinks=False)
                    yield key, ObjectInfo(key, found.st_size, found.st_mtime)

    def _is_used(self, folder: str) -> bool:
        """Tell whether any object lies in a folder, at any depth."""
        found = dict(self._parts_in(folder))
        return not all(found.values()) or any(self._is_used(f"{folder}/{name}") for name in found)

    def _parts_in(self, folder: str) -> Iterator[tuple[str, bool]]:
        """Yield the names in a folder (a key, or empty) that can be parts of keys, and whether each is a folder."""
        try:
            descriptor = self._open_folder(folder, wanted=folder)
        except NotFound:
            return
        try:
            with os.scandir(descriptor) as entries:
                for entry in entries:
                    is_folder = entry.is_dir(follow_symlinks=False)
                    usable = is_folder or entry.is_file(follow_symlinks=False)
                    if usable and is_key(f"{folder}/{entry.name}" if folder else entry.name):
                        yield entry.name, is_folder
        finally:
            os.close(descriptor)

    def _open_root(self) -> int:
        return os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def _open_folder(self, folder: str, *, wanted: str, create: bool = False) -> int:
        """Open a folder inside the store by going down part by part, so that no link leads out.

        Parameters
        ----------
        folder
            Its key, or empty for the root.
        wanted
            The key to name if it is not there.
        create
            Whether to make it.

        Raises
        ------
        NotFound
            If it is not there, or a link or file is in the way, unless it is to be made.
        Conflict, StoreDenied
            If it is to be made and a file or a link is in the way.
        """
        descriptor = self._open_root()
        for part in folder.split("/") if folder else ():
            try:
                if create:
                    make_directory(part, parent=descriptor)
                below = os.open(part, _DIRECTORY, dir_fd=descriptor)
            except OSError as error:
                if error.errno in _ABSENT and not create:
                    raise self._missing(wanted) from error
                if error.errno in _ABSENT:
                    raise self._in_the_way(descriptor, part, folder) from error
                raise
            finally:
                os.close(descriptor)
            descriptor = below
        return descriptor

    def _missing(self, key: str) -> NotFound:
        return NotFound(f"There is no {key!r} in the store at {self.url}.")

    def _in_the_way(self, parent: int, part: str, folder: str) -> OffshelfError:
        if stat.S_ISLNK(os.stat(part, dir_fd=parent, follow_symlinks=False).st_mode):
            return StoreDenied(
                f"{part!r} of {folder!r} in the store at {self.url} is a link, and a store follows none: "
                "put the folder itself there.",
            )
        return Conflict(f"{folder!r} in the store at {self.url} is an object, so nothing can lie under it.")

    @contextmanager
    def _parent(self, key: str, *, create: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder of an object: its descriptor and the object's name in it."""
        folder, _, name = key.rpartition("/")
        with store_errors(self.url):
            descriptor = self._open_folder(folder, wanted=key, create=create)
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)

    @contextmanager
    def _writing(self, key: str) -> Iterator[tuple[int, str]]:
        with self._parent(check_key(key), create=True) as (parent, name), store_errors(self.url):
            try:
                yield parent, name
            except IsADirectoryError as error:
                raise Conflict(
                    f"Objects lie under {key!r} in the store at {self.url}: it cannot be one itself."
                ) from error

    @contextmanager
    def _reading(self, key: str) -> Iterator[tuple[int, os.stat_result]]:
        """Open an object for reading: its descriptor and what is known of it."""
        with self._parent(check_key(key)) as (parent, name), store_errors(self.url):
            try:
                descriptor = os.open(name, _FILE, dir_fd=parent)
            except OSError as error:
                if error.errno in _ABSENT:
                    raise self._missing(key) from error
                raise
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise self._missing(key)
            yield descriptor, found
        finally:
            os.close(descriptor)

    def _read_chunk(self, descriptor: int) -> bytes:
        with store_errors(self.url):
            return os.read(descriptor, _CHUNK)


def _status(parent: int, name: str) -> os.stat_result | None:
    """Look at a name in an open folder, not through a link; None if there is nothing."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
