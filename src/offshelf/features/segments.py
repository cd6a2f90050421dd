"""Segments: what one unit of extraction has made, in a Parquet file that is never overwritten.

A row an image: its digest, a status, a reason, and the vector (null unless the status is "ok"). A segment is stored
under the digest of what was asked for and the SHA-256 of the file, since another CPU may give other last bits.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offshelf.digests import canonical_json, digest_of, digest_of_bytes, is_digest
from offshelf.errors import DataLoss, NotFound
from offshelf.images import ImageStatus
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.store.objects import ObjectStore

SEGMENT_VERSION = 1
"""Version of the Parquet layout of a segment."""

_DIGEST_BYTES = 32
_SEGMENT_KEY = re.compile(r"features/([^/]+)/segments/([0-9a-f]{64})-([0-9a-f]{64})\.parquet")


@dataclass(frozen=True, slots=True, eq=False)
class SegmentRow:
    """What became of one image."""

    image: str
    """SHA-256 of the image."""
    status: ImageStatus
    reason: str
    """Why there is no vector, in one line; "" if there is one."""
    vector: NDArray[np.float32] | None
    """Shape (dimension,); None unless the status is `OK`."""


@dataclass(frozen=True, slots=True)
class ImageOutcome:
    """What became of an image, without its vector."""

    status: ImageStatus
    reason: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment as it was written."""

    fingerprint: str
    dimension: int
    max_pixels: int
    """The limit under which images were found too large."""
    rows: tuple[SegmentRow, ...]
    """Sorted by image."""


def segment_inputs(fingerprint: str, images: Iterable[str]) -> str:
    """Digest of what a segment is asked for: an extractor and a set of images."""
    return digest_of({"fingerprint": fingerprint, "images": tuple(sorted(set(images)))})


def write_segment(
    store: ObjectStore,
    fingerprint: str,
    images: Iterable[str],
    rows: Sequence[SegmentRow],
    *,
    max_pixels: int,
    dimension: int,
) -> str:
    """Write a segment.

    Parameters
    ----------
    fingerprint
        Of the extractor.
    images
        Digests of the images that were asked for: they name the segment.
    rows
        What became of them, in any order. An image that could not be read at all has none.
    max_pixels
        The limit under which images were found too large.
    dimension
        Length of a vector.

    Returns
    -------
    str
        The segment's key. Equal content gives equal bytes and so the same key.

    Raises
    ------
    ValueError
        If there is no row, a row is for an image that was not asked for or is there twice, an "ok" row has no vector of
        this length or another one has a vector, or a vector holds NaN or infinity: all are defects of the caller.
    """
    key, data = encode_segment(fingerprint, images, rows, max_pixels=max_pixels, dimension=dimension)
    store.put(key, data)
    return key


def encode_segment(
    fingerprint: str, images: Iterable[str], rows: Sequence[SegmentRow], *, max_pixels: int, dimension: int
) -> tuple[str, bytes]:
    """Return the key and the bytes of what `write_segment` would write."""
    wanted = frozenset(images)
    ordered = sorted(rows, key=lambda row: row.image)
    _check_rows(ordered, wanted, dimension)
    data = _to_parquet(ordered, fingerprint, dimension, max_pixels)
    return keys.segment(fingerprint, segment_inputs(fingerprint, wanted), digest_of_bytes(data)), data


def read_segment(store: ObjectStore, key: str) -> Segment:
    """Read a segment, verified by the SHA-256 in its key before it is parsed.

    Raises
    ------
    DataLoss
        If it is missing, altered, or cannot be parsed.
    """
    table, metadata = _read_parquet(store, key)
    images = [digest.hex() for digest in table["image"].to_pylist()]
    statuses = [ImageStatus(status) for status in table["status"].to_pylist()]
    reasons = table["reason"].to_pylist()
    vectors = iter(_vectors(table, metadata["dimension"]))
    rows = tuple(
        SegmentRow(image, status, reason, next(vectors) if status is ImageStatus.OK else None)
        for image, status, reason in zip(images, statuses, reasons, strict=True)
    )
    return Segment(metadata["fingerprint"], metadata["dimension"], metadata["max_pixels"], rows)


def images_in(store: ObjectStore, key: str, *, max_pixels: int) -> dict[str, ImageOutcome]:
    """List the images that a segment spares from being extracted again, with what became of each.

    An image that was too large under another limit than `max_pixels` is not among them.

    Raises
    ------
    DataLoss
        If the segment is missing, altered, or cannot be parsed: it then counts as never written.
    """
    table, metadata = _read_parquet(store, key, ["image", "status", "reason"])
    same_limit = metadata["max_pixels"] == max_pixels
    rows = zip(table["image"].to_pylist(), table["status"].to_pylist(), table["reason"].to_pylist(), strict=True)
    usable = ImageOutcome(ImageStatus.OK, "")  # one for nearly all of them
    return {
        image.hex(): usable if status == ImageStatus.OK else ImageOutcome(ImageStatus(status), reason)
        for image, status, reason in rows
        if same_limit or status != ImageStatus.TOO_LARGE
    }


def dimension_of(store: ObjectStore, key: str) -> int:
    """Return the length of the vectors in a segment, also of one that holds none. Raises `DataLoss` as `images_in`."""
    _, metadata = _read_parquet(store, key, ["image"])
    return int(metadata["dimension"])


def _check_rows(ordered: Sequence[SegmentRow], wanted: frozenset[str], dimension: int) -> None:
    import numpy as np

    if not ordered or dimension < 1:
        raise ValueError("a segment needs a row, and a dimension of 1 at least")
    if len({row.image for row in ordered}) != len(ordered):
        raise ValueError("an image is in the segment twice")
    for row in ordered:
        if row.image not in wanted or not is_digest(row.image):
            raise ValueError(f"the image {row.image!r} was not asked for")
        if (row.vector is None) == (row.status is ImageStatus.OK):
            raise ValueError(
                f"the image {row.image} is {row.status} and has {'no' if row.vector is None else 'a'} vector"
            )
        if row.vector is not None and (np.shape(row.vector) != (dimension,) or not np.isfinite(row.vector).all()):
            raise ValueError(f"the vector of {row.image} is not {dimension} finite numbers")


def _to_parquet(ordered: Sequence[SegmentRow], fingerprint: str, dimension: int, max_pixels: int) -> bytes:
    import numpy as np
    import pyarrow as pa
    from pyarrow import parquet

    matrix = np.zeros((len(ordered), dimension), dtype=np.float32)
    missing = np.ones(len(ordered), dtype=np.bool_)
    for index, row in enumerate(ordered):
        if row.vector is not None:
            matrix[index] = row.vector
            missing[index] = False
    columns = {
        "image": pa.array([bytes.fromhex(row.image) for row in ordered], pa.binary(_DIGEST_BYTES)),
        "status": pa.array([row.status.value for row in ordered], pa.string()),
        "reason": pa.array([row.reason for row in ordered], pa.string()),
        "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), dimension, mask=pa.array(missing)),
    }
    metadata = {
        "offshelf.segment": canonical_json(
            {
                "dimension": dimension,
                "fingerprint": fingerprint,
                "max_pixels": max_pixels,
                "version": SEGMENT_VERSION,
            }
        )
    }
    sink = pa.BufferOutputStream()
    # Vectors are noise to a dictionary, and their statistics tell nobody anything.
    parquet.write_table(
        pa.table(columns).replace_schema_metadata(metadata),
        sink,
        compression="zstd",
        use_dictionary=["status", "reason"],
        write_statistics=False,
    )
    return bytes(sink.getvalue())


def _read_parquet(store: ObjectStore, key: str, columns: list[str] | None = None) -> tuple[Any, dict[str, Any]]:
    import pyarrow as pa
    from pyarrow import parquet

    named = _SEGMENT_KEY.fullmatch(key)
    try:
        data = store.get(key) if named else b""
    except NotFound as error:
        raise DataLoss(
            f"The feature segment {key} is missing: run again, and its images are extracted anew."
        ) from error
    if named is None or digest_of_bytes(data) != named[3]:
        raise DataLoss(f"The feature segment {key} is not what was written: run again.")
    try:
        # Not `read_table`, which takes thrice as long over a small file; a plan reads thousands.
        table = parquet.ParquetFile(pa.BufferReader(data)).read(columns, use_threads=False)
        metadata = json.loads(table.schema.metadata[b"offshelf.segment"])
        known = metadata["version"] == SEGMENT_VERSION and metadata["fingerprint"] == named[1]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise DataLoss(f"The feature segment {key} cannot be parsed: run again.") from error
    if not known:
        raise DataLoss(f"The feature segment {key} is of another version or extractor: run again.")
    return table, metadata


def _vectors(table: Any, dimension: int) -> NDArray[np.float32]:
    """The vectors that are not null, shape (n, dimension)."""
    import numpy as np

    present = table["vector"].drop_null().combine_chunks()
    return np.asarray(present.flatten(), dtype=np.float32).reshape(-1, dimension)
