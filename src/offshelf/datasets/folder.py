"""A dataset as a folder with one sub-folder a class.

Files below a class folder, at any depth, are images of that class if their suffix says so. All others, files beside the
class folders and whatever is hidden are passed over and counted. A link to a file is followed inside the dataset;
a link to a folder never is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from offshelf.datasets.model import MAX_IMAGE_BYTES, Entry
from offshelf.datasets.names import check_class_folders, check_label, check_path, has_image_suffix, is_hidden
from offshelf.datasets.tree import Tree, reason_of
from offshelf.errors import InvalidDataset

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator


class FolderSource:
    """Images in class folders.

    Parameters
    ----------
    path
        The folder as the user named it, absolute; used in messages and in the URI.
    real
        The same folder without links, already checked against the data roots.
    labelled
        Whether images must have labels; otherwise a folder of images without class folders will do.
    """

    def __init__(self, path: str, real: str, *, labelled: bool = True) -> None:
        self._path = path
        self._labelled = labelled
        self._tree = Tree(real)
        self.uri = f"folder:{path}"
        self.ignored = 0

    def entries(self) -> list[Entry]:
        """List the images, sorted by path; see `ImageSource`."""
        self.ignored = 0
        classes: list[str] = []
        found: list[Entry] = []
        loose: list[_Child] = []
        for child in self._list(""):
            if is_hidden(child.name):
                continue
            if not self._is_folder(child, child.name):
                loose.append(child)
                continue
            classes.append(check_label(child.name, where="The class folder"))
            found.extend(self._images_below(child.name))
        if not classes and not self._labelled and (unlabelled := list(self._images_among(loose, label=""))):
            return sorted(unlabelled, key=lambda entry: entry.path)
        self.ignored += len(loose)
        if not classes:
            what = "holds files but no class folders" if self.ignored else "is empty"
            raise InvalidDataset(
                f"{self._path!r} {what}: one sub-folder a class is expected, such as cats/1.jpg and dogs/1.jpg."
            )
        check_class_folders(classes, {entry.label for entry in found}, shown=self._path)
        found.sort(key=lambda entry: entry.path)
        return found

    def chunks(self, path: str, limit: int = MAX_IMAGE_BYTES) -> Iterator[bytes]:
        """Yield an image's bytes; see `ImageSource`."""
        return self._tree.chunks(path, limit)

    def read(self, path: str, limit: int = MAX_IMAGE_BYTES) -> bytes:
        """Read an image whole; see `ImageSource`."""
        return b"".join(self.chunks(path, limit))

    def close(self) -> None:
        """Release nothing: nothing is held open."""

    def _images_below(self, label: str) -> Iterator[Entry]:
        waiting = [label]
        while waiting:
            folder = waiting.pop()
            files = []
            for child in self._list(folder):
                path = f"{folder}/{child.name}"
                if is_hidden(child.name):
                    continue
                if self._is_folder(child, path):
                    waiting.append(path)
                else:
                    files.append(child)
            yield from self._images_among(files, label=label, below=f"{folder}/")

    def _images_among(self, files: list[_Child], *, label: str, below: str = "") -> Iterator[Entry]:
        for child in files:
            path = below + child.name
            if has_image_suffix(child.name) and self._is_file(child, path):
                yield Entry(path=check_path(path), label=label, group="", size=child.size)
            else:
                self.ignored += 1

    def _list(self, folder: str) -> list[_Child]:
        try:
            with self._tree.listed(folder) as children:
                return [_look_at(child) for child in children]
        except OSError as error:
            raise InvalidDataset(f"The folder {folder or self._path!r} {reason_of(error)}.") from error

    def _is_folder(self, child: _Child, path: str) -> bool:
        if child.is_link and child.is_folder:
            self._tree.resolve(path)
            raise InvalidDataset(f"{path!r} is a link to a folder, which is not followed: put the folder itself there.")
        return child.is_folder

    def _is_file(self, child: _Child, path: str) -> bool:
        if child.is_link:
            # Also one that leads nowhere: it is then reported as an image that cannot be read, not passed over.
            self._tree.resolve(path)
        return child.is_link or child.is_file


class _Child(NamedTuple):
    """What one look at a folder tells of something in it."""

    name: str
    is_link: bool
    is_folder: bool
    is_file: bool
    size: int


def _look_at(child: os.DirEntry[str]) -> _Child:
    is_link = child.is_symlink()
    try:
        is_folder, is_file = child.is_dir(), child.is_file()
    except OSError:
        if not is_link:
            raise
        is_folder = is_file = False  # a link in a circle leads nowhere
    try:
        size = child.stat().st_size if is_file else 0
    except OSError:
        size = 0  # gone since; reading it will say so
    return _Child(child.name, is_link, is_folder, is_file, size)
