"""The features of a dataset in one Parquet file, for whoever wants nothing else.

A row an item of the dataset, in its order: path, label and group (where there are any), the image's digest, and for
each extractor a column of its name with the vector, null where the image could not be used. The schema's metadata says
under ``offshelf.features`` which dataset that is, and the fingerprint of each extractor.

Segments hold images in another order than the dataset. So vectors go through files that are as large as all of them,
and memory holds some segments and one row group, whatever the size of the dataset.
"""

from __future__ import annotations

import os
import tempfile
from collections import defaultdict
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from offshelf.digests import canonical_json, digest_of
from offshelf.errors import Cancelled, DataLoss
from offshelf.features.segments import read_segment
from offshelf.store.reading import read_ahead

if TYPE_CHECKING:
    import threading
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.datasets import Dataset
    from offshelf.features.tables import FeatureTable
    from offshelf.store.objects import ObjectStore

EXPORT_VERSION = 1
"""Version of the layout of such a file."""

_FLOAT_BYTES = 4
_GROUP_BYTES = 32 * 1024 * 1024
"""Of the vectors of a row group: as much is held in memory, some times over while it is encoded."""
_MOST_ROWS = 100_000
"""Of a row group, whose paths are held as well."""
_SEGMENTS_AHEAD = 2


def export_digest(tables: Mapping[str, FeatureTable], dataset: Dataset) -> str:
    """Digest of what an export is made from: a dataset, and a table of it for each extractor, by name and in order."""
    named = tuple((name, table.digest) for name, table in tables.items())
    return digest_of({"dataset": dataset.digest, "tables": named, "version": EXPORT_VERSION})


def vector_bytes(tables: Mapping[str, FeatureTable], dataset: Dataset) -> int:
    """Bytes of all vectors together. An export is about as large, and needs as much again on disk for a while."""
    return sum(table.dimension for table in tables.values()) * _FLOAT_BYTES * len(dataset.items)


def export_features(
    store: ObjectStore,
    dataset: Dataset,
    tables: Mapping[str, FeatureTable],
    path: Path,
    *,
    stop: threading.Event,
) -> None:
    """Write the features of a dataset into a Parquet file. Equal tables give equal bytes.

    Parameters
    ----------
    store
        Holds the segments.
    dataset
        Its items become the rows.
    tables
        Of this dataset, by the name of the extractor, which becomes that of the column. Dimensions are 1 at least.
    path
        The file, which does not exist yet. What is needed on disk meanwhile lies in the same folder, without a name.
    stop
        Ends the work within a segment or a row group when it is set.

    Raises
    ------
    DataLoss
        If a segment is missing, altered, cannot be parsed, or is of another extractor or dimension.
    Cancelled
        If `stop` was set.
    OSError
        If the file system refuses.
    OffshelfError
        What the store raises.
    """
    with ExitStack() as files:
        places = _places(dataset)
        vectors: dict[str, _Vectors] = {}
        for name, table in tables.items():
            file = files.enter_context(tempfile.TemporaryFile(dir=path.parent))
            vectors[name] = _Vectors(file, len(dataset.items), table.dimension)
            _gather(store, table, places, vectors[name], stop)
        _write(dataset, tables, vectors, path, stop)


class _Vectors:
    """The vectors of one extractor in the order of the dataset, in a file."""

    def __init__(self, file: Any, items: int, dimension: int) -> None:
        import numpy as np

        self.present: NDArray[np.bool_] = np.zeros(items, dtype=np.bool_)
        self.dimension = dimension
        self._file = file
        self._row = dimension * _FLOAT_BYTES
        os.truncate(file.fileno(), items * self._row)

    def put(self, index: int, vector: NDArray[np.float32]) -> None:
        os.pwrite(self._file.fileno(), vector.tobytes(), index * self._row)
        self.present[index] = True

    def read(self, begin: int, end: int) -> NDArray[np.float32]:
        """Vectors of some items, shape (end - begin, dimension); zeros where there is none."""
        import numpy as np

        matrix = np.empty((end - begin, self.dimension), dtype=np.float32)
        self._file.seek(begin * self._row)
        self._file.readinto(matrix.data.cast("B"))
        return matrix


def _places(dataset: Dataset) -> dict[str, list[int]]:
    """Where in the dataset each image is: mostly in one place."""
    places: defaultdict[str, list[int]] = defaultdict(list)
    for index, item in enumerate(dataset.items):
        places[item.digest].append(index)
    return places


def _gather(
    store: ObjectStore,
    table: FeatureTable,
    places: Mapping[str, list[int]],
    vectors: _Vectors,
    stop: threading.Event,
) -> None:
    segments = read_ahead(partial(read_segment, store), table.stored_segments, ahead=_SEGMENTS_AHEAD)
    for key, segment in zip(table.stored_segments, segments, strict=True):
        _check(stop)
        if (segment.fingerprint, segment.dimension) != (table.fingerprint, table.dimension):
            raise DataLoss(f"The feature segment {key} is of another extractor than the table: run again.")
        for row in segment.rows:
            if row.vector is None:
                continue
            for index in places.get(row.image, ()):
                if not vectors.present[index]:  # as everywhere, the first segment that holds an image counts
                    vectors.put(index, row.vector)


def _write(
    dataset: Dataset,
    tables: Mapping[str, FeatureTable],
    vectors: Mapping[str, _Vectors],
    path: Path,
    stop: threading.Event,
) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    texts = _texts(dataset)
    schema = pa.schema(
        [
            *((name, pa.string()) for name in texts),
            *((name, pa.list_(pa.float32(), each.dimension)) for name, each in vectors.items()),
        ],
        metadata={
            "offshelf.features": canonical_json(
                {
                    "dataset": dataset.digest,
                    "extractors": {
                        name: {"dimension": table.dimension, "fingerprint": table.fingerprint}
                        for name, table in tables.items()
                    },
                    "offshelf": version("offshelf"),
                    "version": EXPORT_VERSION,
                }
            )
        },
    )
    row_bytes = sum(each.dimension for each in vectors.values()) * _FLOAT_BYTES
    step = max(1, min(_GROUP_BYTES // row_bytes, _MOST_ROWS))
    with parquet.ParquetWriter(
        path,
        schema,
        compression="zstd",
        # Vectors are noise to a dictionary, and their statistics tell nobody anything.
        use_dictionary=[name for name in ("label", "group") if name in texts],
        write_statistics=False,
    ) as writer:
        for begin in range(0, len(dataset.items), step):
            _check(stop)
            items = dataset.items[begin : begin + step]
            end = begin + len(items)
            columns: list[Any] = [pa.array([getattr(item, source) for item in items]) for source in texts.values()]
            for each in vectors.values():
                missing = pa.array(~each.present[begin:end])
                numbers = pa.array(each.read(begin, end).ravel())
                columns.append(pa.FixedSizeListArray.from_arrays(numbers, each.dimension, mask=missing))
            writer.write_table(pa.Table.from_arrays(columns, schema=schema), row_group_size=len(items))


def _texts(dataset: Dataset) -> dict[str, str]:
    """The columns that are no vectors, each with the attribute of `Item` that it shows."""
    columns = {"path": "path"}
    if any(dataset.labels):
        columns["label"] = "label"
    if dataset.groups:
        columns["group"] = "group"
    return columns | {"image": "digest"}


def _check(stop: threading.Event) -> None:
    if stop.is_set():
        raise Cancelled("The export was stopped.")
