"""Weights as bare numbers: float32, little-endian, layer after layer, without a header. OverFeat's are written so.

Nothing in such a file says what it is, but its length has to be that of the network's arrays.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final

from offshelf.errors import DataLoss

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    Shape = tuple[int, int, int, int]

_NUMBER_BYTES: Final = 4


def flat_bytes(shapes: Sequence[Shape]) -> int:
    """Length of the file of a network whose weights have these shapes, (out, in, height, width)."""
    return _NUMBER_BYTES * sum(prod(shape) + shape[0] for shape in shapes)


def parse_flat(
    data: bytes, shapes: Sequence[Shape], name: str
) -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """Read the arrays of a network.

    Parameters
    ----------
    data
        The file.
    shapes
        Of the layers' weights in the order of the file: (out, in, height, width).
    name
        What the file is called, for messages.

    Returns
    -------
    list of tuples of ndarray of float32
        A layer's weights, and its biases of shape (out,). They are views of `data`, which may be large.

    Raises
    ------
    DataLoss
        If the file is longer or shorter than these arrays.
    """
    import numpy as np

    expected = flat_bytes(shapes)
    if len(data) != expected:
        raise DataLoss(f"{name} has {len(data)} bytes, and {expected} are expected: get the file again.")
    numbers = np.frombuffer(data, dtype="<f4")
    layers, position = [], 0
    for shape in shapes:
        biases = position + prod(shape)
        end = biases + shape[0]
        layers.append((numbers[position:biases].reshape(shape), numbers[biases:end]))
        position = end
    return layers
