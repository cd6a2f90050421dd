"""The scores of one classifier on one fold, as an object in the store.

It holds no times and no machine, so that making it again gives the same bytes.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from offshelf.digests import canonical_json, digest_of_bytes
from offshelf.errors import DataLoss, NotFound
from offshelf.scores.identity import checked
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.digests import JSONValue
    from offshelf.estimators.registry import Setting
    from offshelf.store.objects import ObjectStore

_FORMAT: Final = 2
_METADATA_KEY: Final = b"offshelf"
_COMPRESSION_LEVEL: Final = 3


@dataclass(frozen=True, eq=False)
class FoldScores:
    """What one classifier said about the images of one held-out fold; n images, k classes."""

    dataset: str
    """Digest of the dataset."""
    table: str
    """Digest of the feature table."""
    classifier: str
    fold: int
    classes: tuple[str, ...]
    """All classes of the dataset, sorted; k of them."""
    items: tuple[int, ...]
    """Index of each held-out image into the dataset's items; n of them, rising."""
    images: tuple[str, ...]
    """Digest of each image."""
    labels: tuple[int, ...]
    """True class of each image as an index into `classes`."""
    probabilities: NDArray[np.float64]
    """Shape (n, k). A class that the training part had no image of has probability 0."""
    measures: Mapping[str, float]
    """Every measure on this fold."""
    settings: Setting
    """The setting that the search inside the training part chose."""


def encode_fold(digest: str, fold: FoldScores) -> bytes:
    """Serialize a fold's scores so that equal scores give equal bytes (with the same version of pyarrow).

    Parameters
    ----------
    digest
        What the scores are named by.
    fold
        The scores.
    """
    import numpy as np
    import pyarrow as pa
    import pyarrow.parquet as pq

    probabilities = np.ascontiguousarray(fold.probabilities, dtype="<f8")
    if probabilities.shape != (len(fold.items), len(fold.classes)):
        raise ValueError(f"{probabilities.shape} is not the shape of {len(fold.items)} x {len(fold.classes)} scores")
    metadata: JSONValue = {
        "format": _FORMAT,
        "scores": digest,
        "dataset": fold.dataset,
        "table": fold.table,
        "classifier": fold.classifier,
        "fold": fold.fold,
        "classes": list(fold.classes),
        "measures": dict(fold.measures),
        "settings": dict(fold.settings),
        "content": _content_digest(fold, probabilities.tobytes()),
    }
    columns = [
        pa.array(fold.items, pa.int32()),
        pa.array(fold.images, pa.string()),
        pa.array(fold.labels, pa.int32()),
        pa.FixedSizeListArray.from_arrays(pa.array(probabilities.ravel()), len(fold.classes)),
    ]
    table = pa.Table.from_arrays(columns, names=["item", "image", "label", "probabilities"])
    table = table.replace_schema_metadata({_METADATA_KEY: canonical_json(metadata)})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd", compression_level=_COMPRESSION_LEVEL, use_dictionary=False)
    return sink.getvalue()


def decode_fold(data: bytes, digest: str, fold: int) -> FoldScores:
    """Read what `encode_fold` wrote.

    Raises
    ------
    DataLoss
        If the bytes are truncated or altered, or are the scores of something else.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
        metadata = json.loads(table.schema.metadata[_METADATA_KEY])
        classes = tuple(metadata["classes"])
        probabilities = table["probabilities"].combine_chunks().flatten().to_numpy().reshape(-1, len(classes))
        scores = FoldScores(
            dataset=metadata["dataset"],
            table=metadata["table"],
            classifier=metadata["classifier"],
            fold=metadata["fold"],
            classes=classes,
            items=tuple(table["item"].to_pylist()),
            images=tuple(table["image"].to_pylist()),
            labels=tuple(table["label"].to_pylist()),
            probabilities=probabilities,
            measures=metadata["measures"],
            settings=metadata["settings"],
        )
        whole = metadata["content"] == _content_digest(scores, probabilities.tobytes())
        named = (metadata["format"], metadata["scores"], scores.fold) == (_FORMAT, digest, fold)
    except (pa.ArrowException, OSError, ValueError, TypeError, KeyError) as error:
        raise _lost(digest, fold) from error
    if not (whole and named):
        raise _lost(digest, fold)
    return scores


def write_fold(store: ObjectStore, digest: str, fold: FoldScores) -> str:
    """Write a fold's scores; return the SHA-256 of the object.

    Raises
    ------
    StoreFull
        If the store takes no more.
    """
    data = encode_fold(digest, fold)
    store.put(keys.fold_scores(digest, fold.fold), data)
    return digest_of_bytes(data)


def read_fold(store: ObjectStore, digest: str, fold: int, *, sha256: str | None = None) -> FoldScores:
    """Read a fold's scores and check that they are what was written.

    Parameters
    ----------
    store
        The feature store.
    digest
        What the scores are named by.
    fold
        From 0.
    sha256
        SHA-256 of the object, where a manifest gives it. Without it the digest inside the object is checked.

    Raises
    ------
    NotFound
        If the fold is not in the store.
    DataLoss
        If the object is truncated or altered.
    """
    data = store.get(keys.fold_scores(checked(digest), fold))
    if sha256 is not None and digest_of_bytes(data) != sha256:
        raise _lost(digest, fold)
    return decode_fold(data, digest, fold)


def finished_folds(store: ObjectStore, digest: str, folds: int) -> dict[int, FoldScores]:
    """Find the folds that are done, by reading them.

    A fold that is truncated or altered counts as missing: making it again gives what was lost, whereas an error
    here would stop every later run on the same data.

    Parameters
    ----------
    store
        The feature store.
    digest
        What the scores are named by.
    folds
        How many folds there are in all.

    Returns
    -------
    dict of int to FoldScores
        Scores by fold, in order.
    """
    found = {}
    for fold in range(folds):
        with contextlib.suppress(NotFound, DataLoss):
            found[fold] = read_fold(store, digest, fold)
    return found


def _content_digest(fold: FoldScores, probabilities: bytes) -> str:
    """Digest of everything a fold object says, so that it can be checked without a manifest."""
    described: Any = [
        fold.dataset,
        fold.table,
        fold.classifier,
        fold.fold,
        fold.classes,
        fold.items,
        fold.images,
        fold.labels,
        dict(fold.measures),
        dict(fold.settings),
    ]
    return hashlib.sha256(canonical_json(described) + b"\n" + probabilities).hexdigest()


def _lost(digest: str, fold: int) -> DataLoss:
    return DataLoss(f"Fold {fold} of scores {digest[:12]} is not what was written: run again, and it is made again.")
