"""A dataset as a CSV file with the columns path, label and, if images belong together, group.

The file is UTF-8 (a byte order mark is skipped), separated by commas, with a header. Paths are relative to the folder
of the CSV, with "/" between their parts. White space around a cell is dropped.
"""

from __future__ import annotations

import csv
import io
import posixpath
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf.datasets.model import MAX_IMAGE_BYTES, Entry
from offshelf.datasets.names import check_label, check_path
from offshelf.datasets.tree import Tree, open_real, reason_of
from offshelf.errors import InvalidDataset

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_TABLE_BYTES = 256 * 1024 * 1024
"""Largest CSV that is read: some millions of rows. It is held in memory."""

_REQUIRED = ("path", "label")
_ALLOWED = (*_REQUIRED, "group")


class TableSource:
    """Images named by a CSV.

    Parameters
    ----------
    path
        The CSV as the user named it, absolute; used in messages and in the URI.
    real
        The same file without links, already checked against the data roots.
    labelled
        Whether there must be a column of labels.
    """

    def __init__(self, path: str, real: str, *, labelled: bool = True) -> None:
        self._labelled = labelled
        self._name = Path(path).name
        self._real = real
        self._tree = Tree(str(Path(real).parent))
        self.uri = f"csv:{path}"
        self.ignored = 0

    def entries(self) -> list[Entry]:
        """List the images, sorted by path; see `ImageSource`."""
        found: dict[str, Entry] = {}
        resolved: dict[str, str] = {}
        for line, row in self._rows():
            where = f"Line {line} of {self._name}"
            path = self._path(row["path"], where)
            if path in found:
                raise InvalidDataset(f"{where}: {path!r} is there twice; keep one of the two lines.")
            found[path] = Entry(
                path=path,
                label=check_label(row["label"], where=f"{where}: the label") if "label" in row else "",
                group=check_label(row["group"], where=f"{where}: the group") if "group" in row else "",
                size=self._size(path, where, resolved),
            )
        if not found:
            raise InvalidDataset(f"{self._name} names no images: add lines of path,label below its header.")
        return [found[path] for path in sorted(found)]

    def chunks(self, path: str, limit: int = MAX_IMAGE_BYTES) -> Iterator[bytes]:
        """Yield an image's bytes; see `ImageSource`."""
        return self._tree.chunks(path, limit)

    def read(self, path: str, limit: int = MAX_IMAGE_BYTES) -> bytes:
        """Read an image whole; see `ImageSource`."""
        return b"".join(self.chunks(path, limit))

    def close(self) -> None:
        """Release nothing: nothing is held open."""

    def _rows(self) -> Iterator[tuple[int, dict[str, str]]]:
        reader = csv.reader(io.StringIO(self._text(), newline=""), strict=True)
        try:
            header = _checked_header(next(reader, []), self._name, _REQUIRED if self._labelled else ("path",))
            for cells in reader:
                if not any(cell.strip() for cell in cells):
                    continue
                if len(cells) != len(header):
                    raise InvalidDataset(
                        f"Line {reader.line_num} of {self._name} has {len(cells)} cells, its header {len(header)}: "
                        "put cells that hold a comma in double quotes."
                    )
                yield reader.line_num, {name: cell.strip() for name, cell in zip(header, cells, strict=True)}
        except csv.Error as error:
            raise InvalidDataset(f"Line {reader.line_num} of {self._name} is not valid CSV: {error}.") from error

    def _text(self) -> str:
        try:
            with open(open_real(self._real), "rb") as file:  # noqa: PTH123 - a descriptor, not a path
                data = file.read(MAX_TABLE_BYTES + 1)
        except OSError as error:
            raise InvalidDataset(f"{self._name} {reason_of(error)}.") from error
        if len(data) > MAX_TABLE_BYTES:
            raise InvalidDataset(f"{self._name} is longer than {MAX_TABLE_BYTES} bytes: divide it.")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InvalidDataset(f"{self._name} is not UTF-8: save it as 'CSV UTF-8'.") from error

    def _path(self, text: str, where: str) -> str:
        try:
            return check_path(posixpath.normpath(check_path(text)))
        except InvalidDataset as error:
            raise InvalidDataset(f"{where}: {error.message}") from error

    def _size(self, path: str, where: str, resolved: dict[str, str]) -> int:
        try:
            return self._tree.size(path, resolved)
        except FileNotFoundError as error:
            hint = " (write / between folders, not \\)" if "\\" in path else " (paths are relative to the CSV's folder)"
            raise InvalidDataset(f"{where}: there is no file {path!r}{hint}.") from error
        except OSError as error:
            raise InvalidDataset(f"{where}: {path!r} {reason_of(error)}.") from error
        except InvalidDataset as error:
            raise InvalidDataset(f"{where}: {error.message}") from error


def _checked_header(cells: Sequence[str], name: str, required: Sequence[str]) -> list[str]:
    header = [cell.strip().lower() for cell in cells]
    expected = f"{name} must begin with the line 'path,label' or 'path,label,group'"
    if any(column not in header for column in required):
        separated = " (separated by commas)" if len(header) == 1 else ""
        raise InvalidDataset(f"{expected}{separated}; it begins with {','.join(cells)!r}.")
    surplus = [column for column in header if column not in _ALLOWED]
    # A column that was meant as a group and is passed over would let images of one patient into training and test.
    if surplus or len(set(header)) != len(header):
        wrong = repr(surplus[0]) if surplus else "a column twice"
        raise InvalidDataset(f"{expected}; it has {wrong}: rename or remove that column.")
    return header
