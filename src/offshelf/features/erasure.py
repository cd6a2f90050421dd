"""Taking images out of segments: which ones a segment holds, and the segment without some of them."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING

from offshelf.errors import DataLoss
from offshelf.features.segments import SEGMENT_VERSION, encode_segment, read_segment

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from offshelf.store.objects import ObjectInfo, ObjectStore


def segment_images(store: ObjectStore, info: ObjectInfo) -> frozenset[str]:
    """List the images that a segment has a row of.

    Only that column is read, some kilobytes of a file of megabytes. The file's SHA-256 is not checked.

    Raises
    ------
    DataLoss
        If it cannot be parsed, or is of another version.
    NotFound
        If it is not in the store.
    """
    import pyarrow as pa
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(pa.PythonFile(_StoredFile(store, info), mode="r")) as file:
            metadata = json.loads(file.schema_arrow.metadata[b"offshelf.segment"])
            if metadata["version"] != SEGMENT_VERSION:
                raise DataLoss(f"The feature segment {info.key} is of another version: run again.")
            column = file.read(columns=["image"], use_threads=False)["image"]
            return frozenset(digest.hex() for digest in column.to_pylist())
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataLoss(f"The feature segment {info.key} cannot be parsed: run again.") from error


def segment_without(store: ObjectStore, key: str, images: AbstractSet[str]) -> tuple[str, bytes]:
    """Make a segment anew without some images; nothing is written.

    Returns
    -------
    tuple of str and bytes
        The new segment's key and content. All other rows are as they were.

    Raises
    ------
    DataLoss
        If the segment is missing, altered, or cannot be parsed.
    ValueError
        If no row would be left.
    """
    segment = read_segment(store, key)
    rows = [row for row in segment.rows if row.image not in images]
    # Named by what is left: not even the name may depend on the others.
    return encode_segment(
        segment.fingerprint,
        [row.image for row in rows],
        rows,
        max_pixels=segment.max_pixels,
        dimension=segment.dimension,
    )


class _StoredFile(io.RawIOBase):
    """An object of the store as a file that is read where it is looked at."""

    def __init__(self, store: ObjectStore, info: ObjectInfo) -> None:
        self._store = store
        self._info = info
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._info.size}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        data = self._store.get(self._info.key, offset=self._at, length=None if size < 0 else size)
        self._at += len(data)
        return data
