"""A dataset as a zip file with one folder a class, perhaps below one folder that holds them all.

Nothing is ever unpacked to disk: entries are read one at a time into memory. Still, an archive from a stranger may be
made to use up memory or time, so it is refused by what it declares and, while reading, by what it really holds.
"""

from __future__ import annotations

import copy
import io
import os
import posixpath
import stat
import struct
import threading
import weakref
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf.datasets.model import MAX_IMAGE_BYTES, Entry, ImageUnread
from offshelf.datasets.names import check_class_folders, check_label, check_path, has_image_suffix, is_hidden
from offshelf.datasets.tree import CHUNK_BYTES, open_real, reason_of, too_long
from offshelf.errors import InvalidDataset

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ENTRIES = 250_000
"""Most files in an archive: more than twice the 100,000 images that we are built for."""
MAX_DIRECTORY_BYTES = 32 * 1024 * 1024
"""Largest list of contents, which zipfile parses before we can count: room for `MAX_ENTRIES` of usual names, and some
hundred megabytes of memory at worst."""
MAX_TOTAL_BYTES = 64 * 1024**3
"""Most bytes in all images together, unpacked: some hours of reading. Larger datasets are better as folders."""
MAX_RATIO = 100
"""Most unpacked bytes for a byte of the archive. Photographs do not shrink; drawings stored as BMP shrink fifty-fold;
bombs begin at a thousand."""
FREE_BYTES = 1024**3
"""Unpacked size up to which the ratio does not matter, since so little harms nobody."""

# bzip2 and LZMA can blow a megabyte up to gigabytes in one step, and Python's zipfile does not bound that step.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1 | 0x40

_BEYOND_ANY_LIMIT = 1 << 62

# All that zipfile and zlib raise for archives that are damaged or made to confuse.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    NotImplementedError,
    OverflowError,
    RuntimeError,
    ValueError,
)


class ZipSource:
    """Images in the class folders of a zip file. Opens the file; close it after use.

    Parameters
    ----------
    path
        The archive as the user named it, absolute; used in messages and in the URI.
    real
        The same file without links, already checked against the data roots.
    labelled
        As for `FolderSource`.

    Raises
    ------
    InvalidDataset
        If it cannot be read, or declares something that is refused.
    """

    def __init__(self, path: str, real: str, *, labelled: bool = True) -> None:
        self._name = Path(path).name
        self._labelled = labelled
        self.uri = f"zip:{path}"
        self.ignored = 0
        # zipfile counts its open entries without a lock: two threads that open at once could lose count.
        self._lock = threading.Lock()
        try:
            self._file = _GuardedFile(open_real(real), self._name)
        except OSError as error:
            raise InvalidDataset(f"{path!r} {reason_of(error)}.") from error
        # Closes the file also where a caller drops the source without closing it.
        self._release = weakref.finalize(self, self._file.close)
        try:
            self._archive = zipfile.ZipFile(self._file)
            self._files, self._folders = self._checked()
        except (OSError, *_DAMAGED) as error:
            self._release()
            raise InvalidDataset(f"{self._name} is not a zip file, or is damaged: make it again.") from error
        except BaseException:
            self._release()
            raise

    def entries(self) -> list[Entry]:
        """List the images, sorted by path; see `ImageSource`."""
        seen = [path for path in sorted(self._files) if not any(map(is_hidden, path.split("/")))]
        found = [
            Entry(path=path, label=path.partition("/")[0], group="", size=self._files[path].file_size)
            for path in seen
            if "/" in path and has_image_suffix(path.rpartition("/")[2])
        ]
        classes = {path.partition("/")[0] for path in self._files if "/" in path}
        classes |= {path.partition("/")[0] for path in self._folders}
        classes = {check_label(name, where="The class folder") for name in classes if not is_hidden(name)}
        if not classes and not self._labelled:
            loose = [Entry(path, "", "", self._files[path].file_size) for path in seen if has_image_suffix(path)]
            if loose:
                self.ignored = len(seen) - len(loose)
                return loose
        if not classes:
            what = "holds files but no class folders" if self._files else "is empty"
            raise InvalidDataset(
                f"{self._name} {what}: one folder a class is expected, such as cats/1.jpg and dogs/1.jpg."
            )
        check_class_folders(classes, {entry.label for entry in found}, shown=self._name)
        self.ignored = len(seen) - len(found)
        return found

    def chunks(self, path: str, limit: int = MAX_IMAGE_BYTES) -> Iterator[bytes]:
        """Yield an image's bytes; see `ImageSource`.

        The declared size is not believed: the entry is read until its compressed data ends or the limit is passed.
        """
        declared = self._files.get(path)
        if declared is None:
            raise ImageUnread("does not exist")
        unbounded = copy.copy(declared)
        unbounded.file_size = _BEYOND_ANY_LIMIT
        total = 0
        try:
            with self._lock:
                member = self._archive.open(unbounded)
            with member:
                while chunk := member.read(CHUNK_BYTES):
                    total += len(chunk)
                    if total > declared.file_size:
                        raise InvalidDataset(
                            f"{path!r} in {self._name} holds more than it declares: make the archive again."
                        )
                    if total > limit:
                        raise too_long(limit)
                    yield chunk
            if total < declared.file_size:
                raise ImageUnread("is damaged in the archive")
        except OSError as error:
            raise ImageUnread(reason_of(error)) from error
        except _DAMAGED as error:
            raise ImageUnread("is damaged in the archive") from error

    def read(self, path: str, limit: int = MAX_IMAGE_BYTES) -> bytes:
        """Read an image whole; see `ImageSource`."""
        return b"".join(self.chunks(path, limit))

    def close(self) -> None:
        """Close the archive."""
        self._archive.close()
        self._release()

    def _checked(self) -> tuple[dict[str, zipfile.ZipInfo], set[str]]:
        """Check everything the archive declares; return its files by path, and its folders."""
        infos = self._archive.infolist()
        if len(infos) > MAX_ENTRIES:
            raise InvalidDataset(
                f"{self._name} has {len(infos)} entries, more than {MAX_ENTRIES}: unpack it and give the folder."
            )
        files: dict[str, zipfile.ZipInfo] = {}
        folders: set[str] = set()
        for info in infos:
            # Some programs on Windows write "\", which would otherwise hide a "..\" from the check.
            declared = check_path(info.filename.replace("\\", "/"))
            path = posixpath.normpath(declared)
            if declared.endswith("/"):
                folders.add(path)
                continue
            if path in files:
                raise InvalidDataset(f"{path!r} is in {self._name} twice: make the archive again.")
            self._check_file(path, info)
            files[path] = info
        self._check_total(infos)
        folders.discard(".")
        return _below_single_folder(files, folders)

    def _check_file(self, path: str, info: zipfile.ZipInfo) -> None:
        if info.flag_bits & _ENCRYPTED:
            raise InvalidDataset(f"{self._name} is encrypted: make it again without a password.")
        if stat.S_ISLNK(info.external_attr >> 16):
            raise InvalidDataset(f"{path!r} in {self._name} is a link: put the file itself there.")
        if info.compress_type not in _METHODS:
            raise InvalidDataset(f"{path!r} in {self._name} is not compressed with deflate: make the archive so.")
        if info.file_size > MAX_IMAGE_BYTES:
            raise InvalidDataset(
                f"{path!r} in {self._name} declares {info.file_size} bytes, more than the {MAX_IMAGE_BYTES} allowed: "
                "make the archive without it."
            )

    def _check_total(self, infos: list[zipfile.ZipInfo]) -> None:
        total = sum(info.file_size for info in infos)
        packed = os.fstat(self._file.fileno()).st_size
        if total > MAX_TOTAL_BYTES:
            raise InvalidDataset(
                f"{self._name} declares {total} bytes unpacked, more than the {MAX_TOTAL_BYTES} allowed: "
                "unpack it and give the folder."
            )
        if total > max(FREE_BYTES, packed * MAX_RATIO):
            raise InvalidDataset(
                f"{self._name} declares {total} bytes unpacked from {packed}, more than {MAX_RATIO} to 1: "
                "if you trust it, unpack it and give the folder."
            )


def _below_single_folder(
    files: dict[str, zipfile.ZipInfo], folders: set[str]
) -> tuple[dict[str, zipfile.ZipInfo], set[str]]:
    """Look through the one folder that many archives put all class folders in."""
    tops = {path.partition("/")[0] for path in files if "/" in path} | {path.partition("/")[0] for path in folders}
    tops = {top for top in tops if not is_hidden(top)}
    if len(tops) != 1:
        return files, folders
    prefix = tops.pop() + "/"
    files_inside = {path.removeprefix(prefix): info for path, info in files.items() if path.startswith(prefix)}
    folders_inside = {path.removeprefix(prefix) for path in folders if path.startswith(prefix)}
    holds_images = any("/" not in path and has_image_suffix(path) for path in files_inside)
    holds_folders = bool(folders_inside) or any("/" in path for path in files_inside)
    return (files, folders) if holds_images or not holds_folders else (files_inside, folders_inside)


class _GuardedFile(io.BufferedReader):
    """The archive's file, which refuses to read a list of contents that is too long.

    zipfile reads that list in one piece, as long as the archive says it is, before anything can be counted.
    """

    def __init__(self, descriptor: int, name: str) -> None:
        super().__init__(io.FileIO(descriptor))
        self._shown = name

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_DIRECTORY_BYTES:
            raise InvalidDataset(
                f"{self._shown} has a list of contents of {size} bytes, more than the {MAX_DIRECTORY_BYTES} allowed: "
                "unpack it and give the folder."
            )
        return super().read(size)
