"""Fitted estimators as bytes and back, without pickle.

skops' format is data: loading it makes objects of types that are known to be harmless. Types beyond those that skops
itself trusts are listed here; a file with any other is refused before anything in it is built.
"""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any, Final

from offshelf.errors import DataLoss
from offshelf.estimators import trees

TRUSTED_TYPES: Final = (
    "offshelf.estimators.margins.CalibratedSVC",
    "offshelf.estimators.neighbours.BoundedNeighbours",
    # Plain arrays, but scikit-learn follows the indexes in them without looking: `load` does.
    "sklearn.tree._tree.Tree",
)
"""What a model may hold besides the types that skops trusts by itself."""

_SCHEMA: Final = "schema.json"
_EPOCH: Final = (1980, 1, 1, 0, 0, 0)
_UNIX: Final = 3
_COMPRESSION_LEVEL: Final = 6


def save(estimator: Any, *, comment: bytes = b"") -> bytes:
    """Serialize a fitted estimator; equal estimators give equal bytes with the same versions of the libraries.

    Parameters
    ----------
    estimator
        What was fitted.
    comment
        Put into the file beside it; see `read_comment`.

    Raises
    ------
    ValueError
        If the estimator holds a type that `load` would refuse: a defect of ours, better found now.
    """
    import skops.io

    data = _canonical(skops.io.dumps(estimator), comment)
    if strangers := _untrusted(data):
        raise ValueError(f"types that no reader would trust: {', '.join(strangers)}")
    return data


def load(data: bytes) -> Any:
    """Read what `save` wrote.

    Raises
    ------
    DataLoss
        If it is no model file, or holds a type that no model of ours has; the type is named, and nothing was built.
    """
    import skops.io

    try:
        strangers = _untrusted(data)
    except Exception as error:  # skops raises many kinds for what is not its own
        raise DataLoss(
            "The model file cannot be read: it is damaged, or not a model of Offshelf. Fit it again."
        ) from error
    if strangers:
        raise DataLoss(
            f"The model file holds {', '.join(strangers)}, which no model of Offshelf has: it was made or altered by "
            "somebody else and is not opened. Fit it again."
        )
    try:
        estimator = skops.io.loads(data, trusted=list(TRUSTED_TYPES))
        sound = trees.are_sound(estimator)
    except Exception as error:
        raise DataLoss("The model file cannot be read: it is damaged. Fit it again.") from error
    if not sound:
        raise DataLoss("The model file holds decision trees that lead nowhere: it is damaged or altered. Fit it again.")
    return estimator


def read_comment(data: bytes) -> bytes:
    """Read what `save` was given to put beside an estimator, without loading the estimator.

    Raises
    ------
    DataLoss
        If it is no model file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return archive.comment
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise DataLoss("The model file cannot be read: it is damaged. Fit it again.") from error


def _untrusted(data: bytes) -> list[str]:
    import skops.io

    return sorted(set(skops.io.get_untrusted_types(data=data)) - set(TRUSTED_TYPES))


def _canonical(data: bytes, comment: bytes) -> bytes:
    """Write a skops file anew without what differs from one process to the next.

    That is the time in the archive and the addresses of objects, which skops takes as their ids and as the names of
    the arrays' files; both are numbered in the order of their appearance instead. Compressing pays as well: trees are
    mostly zeros.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as source:
        ids: dict[int, int] = {}
        names: dict[str, str] = {}

        def renumber(node: Any) -> Any:
            if isinstance(node, list):
                return [renumber(part) for part in node]
            if not isinstance(node, dict):
                return node
            node = {key: renumber(part) for key, part in node.items()}
            if isinstance(node.get("__id__"), int):
                node["__id__"] = ids.setdefault(node["__id__"], len(ids) + 1)
            if isinstance(node.get("file"), str):
                suffix = node["file"].rpartition(".")[2]
                node["file"] = names.setdefault(node["file"], f"{len(names) + 1}.{suffix}")
            return node

        schema = renumber(json.loads(source.read(_SCHEMA)))
        sink = io.BytesIO()
        with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED, compresslevel=_COMPRESSION_LEVEL) as target:
            for old, new in names.items():
                _add(target, new, source.read(old))
            _add(target, _SCHEMA, json.dumps(schema, separators=(",", ":")).encode())
            target.comment = comment
    return sink.getvalue()


def _add(archive: zipfile.ZipFile, name: str, data: bytes) -> None:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = _UNIX
    entry.compress_type = zipfile.ZIP_DEFLATED
    archive.writestr(entry, data, compresslevel=_COMPRESSION_LEVEL)
