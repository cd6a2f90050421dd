"""Feature tables: which segments hold the features of one dataset for one extractor.

The manifest is canonical JSON, and the digest of the table is the SHA-256 of exactly those bytes. It is written last:
whoever finds a table finds its segments.

Deleting a dataset may write a segment anew, without that dataset's images. The tables of other datasets then also say
where the segment went. That is no part of what a table is named by, so scores and models made from it keep their names.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from offshelf.digests import canonical_json, digest_of, is_digest
from offshelf.errors import DataLoss, InvalidInput, NotFound
from offshelf.features.segments import read_segment
from offshelf.images import ImageStatus
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.datasets import Dataset
    from offshelf.digests import JSONValue
    from offshelf.features.segments import SegmentRow
    from offshelf.store.objects import ObjectStore

_TABLE_VERSION = 1
_NOT_READ = (
    ImageStatus.UNREADABLE,
    "the image was missing or had changed when its features were to be extracted",
)


@dataclass(frozen=True)
class FeatureTable:
    """Which segments hold the features of a dataset."""

    dataset: str
    """Digest of the dataset."""
    fingerprint: str
    """Of the extractor."""
    dimension: int
    segments: tuple[str, ...]
    """Keys, in the order in which they are looked through: the first that has an image's vector counts."""
    moved: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Present keys of those that were written anew, by the key in `segments`; "" where no row was left to keep."""

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest, without where segments went."""
        return digest_of(self._identity())

    @cached_property
    def stored_segments(self) -> tuple[str, ...]:
        """Keys of the segments as they lie in the store now, in the order of `segments`."""
        return tuple(key for segment in self.segments if (key := self.moved.get(segment, segment)))

    def moved_to(self, moves: Mapping[str, str]) -> FeatureTable:
        """Return the same table after segments went elsewhere.

        Parameters
        ----------
        moves
            New key of each, by its present one; "" if nothing of it is left. May name segments of other tables.
        """
        present = {segment: self.moved.get(segment, segment) for segment in self.segments}
        moved = {segment: moves.get(key, key) for segment, key in present.items()}
        return replace(self, moved={segment: key for segment, key in moved.items() if key != segment})

    def to_json(self) -> bytes:
        """The manifest: canonical JSON."""
        return canonical_json({**self._identity(), "moved": dict(self.moved)} if self.moved else self._identity())

    def _identity(self) -> dict[str, JSONValue]:
        return {
            "dataset": self.dataset,
            "dimension": self.dimension,
            "fingerprint": self.fingerprint,
            "segments": self.segments,
            "version": _TABLE_VERSION,
        }


def write_table(store: ObjectStore, table: FeatureTable) -> str:
    """Write a table's manifest, after the segments it leads to; return its digest."""
    store.put(keys.table(table.fingerprint, table.digest), table.to_json())
    return table.digest


def read_table(store: ObjectStore, fingerprint: str, digest: str) -> FeatureTable:
    """Read a table's manifest.

    Raises
    ------
    NotFound
        If the store has no such table.
    DataLoss
        If the manifest is not what its name says.
    """
    if not is_digest(digest):
        raise NotFound(f"{digest!r} is not the digest of a feature table.")
    data = store.get(keys.table(fingerprint, digest))
    try:
        document = json.loads(data)
        moved = dict(document.pop("moved", {}))
        whole = digest_of(document) == digest
        version, segments = document["version"], tuple(document["segments"])
        table = FeatureTable(document["dataset"], document["fingerprint"], document["dimension"], segments, moved)
        whole = whole and moved.keys() <= set(segments) and all(isinstance(key, str) for key in moved.values())
    except (ValueError, KeyError, TypeError) as error:
        raise DataLoss(f"The manifest of feature table {digest} cannot be parsed: run again.") from error
    if not whole:
        raise DataLoss(f"The manifest of feature table {digest} is not what was written: run again.")
    if version != _TABLE_VERSION or table.fingerprint != fingerprint:
        raise DataLoss(f"The manifest of feature table {digest} is of another version or extractor: run again.")
    return table


class SkippedItem(NamedTuple):
    """An item of a dataset that has no vector."""

    item: int
    """Index into the dataset's items."""
    status: ImageStatus
    reason: str


@dataclass(frozen=True, slots=True, eq=False)
class Features:
    """The features of a dataset, ready for a classifier."""

    X: NDArray[np.float32]
    """Shape (usable items, dimension), C-contiguous, in the order of the dataset's items."""
    items: tuple[int, ...]
    """For each row of `X` the index into the dataset's items."""
    skipped: tuple[SkippedItem, ...]
    """The other items, in order."""


def load_features(store: ObjectStore, table: FeatureTable, dataset: Dataset) -> Features:
    """Read the vectors of a dataset's items.

    An item whose image is in no segment could not be read when its turn came; it is among the skipped ones.

    Raises
    ------
    InvalidInput
        If the table is of another dataset.
    DataLoss
        If a segment is missing, altered, cannot be parsed, or is of another extractor or dimension.
    """
    import numpy as np

    if table.dataset != dataset.digest:
        raise InvalidInput(f"The feature table {table.digest} is not of the dataset {dataset.digest}.")
    wanted: dict[str, list[int]] = {}
    for index, item in enumerate(dataset.items):
        wanted.setdefault(item.digest, []).append(index)
    matrix = np.empty((len(dataset.items), table.dimension), dtype=np.float32)
    usable = np.zeros(len(dataset.items), dtype=np.bool_)
    # A vector counts before a failure: an image that was too large once may have been extracted under another limit.
    lost: dict[str, SegmentRow] = {}
    for key in table.stored_segments:
        segment = read_segment(store, key)
        if (segment.fingerprint, segment.dimension) != (table.fingerprint, table.dimension):
            raise DataLoss(f"The feature segment {key} is of another extractor than the table: run again.")
        for row in segment.rows:
            if row.vector is None:
                lost.setdefault(row.image, row)
            elif indexes := wanted.pop(row.image, []):
                matrix[indexes] = row.vector
                usable[indexes] = True
    skipped = [
        SkippedItem(index, why.status, why.reason) if (why := lost.get(image)) else SkippedItem(index, *_NOT_READ)
        for image, indexes in wanted.items()
        for index in indexes
    ]
    return Features(
        X=matrix if usable.all() else matrix[usable],
        items=tuple(np.flatnonzero(usable).tolist()),
        skipped=tuple(sorted(skipped)),
    )
