"""Weights as arrays, whatever file they came from."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

from offshelf.digests import digest_of, digest_of_bytes
from offshelf.errors import DataLoss

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.extraction.spec import Weights


def parse_arrays(data: bytes, weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Read the arrays out of a verified npz file, and see that they are the registered ones.

    Raises
    ------
    DataLoss
        If the file cannot be parsed, an array is not float32, or the arrays are not those of the registry.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: np.ascontiguousarray(archive[name]) for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataLoss(f"The weights of {weights.name} cannot be parsed: get the file again.") from error
    return checked(arrays, weights)


def checked(arrays: dict[str, NDArray[Any]], weights: Weights) -> dict[str, NDArray[np.float32]]:
    """See that arrays, whatever file they came from, are the registered ones, and return them.

    Raises
    ------
    DataLoss
        If an array is not float32, or the arrays are not those of the registry.
    """
    import numpy as np

    for name, array in arrays.items():
        if array.dtype != np.dtype("<f4"):
            raise DataLoss(f"The weights of {weights.name} hold {array.dtype} in {name!r}; float32 is expected.")
    if arrays_digest(arrays) != weights.arrays:
        raise DataLoss(f"The weights of {weights.name} are not those that are registered: get the file again.")
    return arrays


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Digest of arrays, whatever file they came from: of their names, types, shapes and little-endian bytes."""
    rows = tuple(
        (name, arrays[name].dtype.str, arrays[name].shape, digest_of_bytes(arrays[name].tobytes()))
        for name in sorted(arrays)
    )
    return digest_of(rows)
