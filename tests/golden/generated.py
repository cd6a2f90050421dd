"""Weights and images from nothing but a name: the same bits on every machine and with every version of NumPy.

Random bits are Philox's own (`numpy.random.Philox.random_raw`), whose algorithm is fixed; what NumPy's distributions
make of them is not promised to stay.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

IMAGES = 2
"""How many each network has golden vectors of."""

_GRID = 16
_IMAGE_KERNEL = 4  # height, width, channels in, channels out


def fill(model: Any, name: str, gain: float) -> None:
    """Give a Keras model weights that let signals through: neither fading nor growing without end.

    Parameters
    ----------
    model
        The model; its layers and their arrays are told apart by their order.
    name
        What the weights are drawn for.
    gain
        Times He's scale, the kernels are drawn at.
    """
    for number, layer in enumerate(model.layers):
        for index, variable in enumerate(layer.weights):
            low, high = _range(variable.path.rpartition("/")[2], tuple(variable.shape), gain)
            variable.assign(uniform(f"{name}/{number}/{index}", tuple(variable.shape), low, high))


def image(name: str, number: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Draw an image: patches of colour under fine noise, so that features differ from image to image.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
    """
    height, width = size
    patches = _bits(f"{name}/patches/{number}", _GRID * _GRID * 3).reshape(_GRID, _GRID, 3) % 192
    rows, columns = np.arange(height) * _GRID // height, np.arange(width) * _GRID // width
    noise = _bits(f"{name}/noise/{number}", height * width * 3).reshape(height, width, 3) % 64
    return (patches[rows][:, columns] + noise).astype(np.uint8)


def _range(kind: str, shape: tuple[int, ...], gain: float) -> tuple[float, float]:
    """Between what an array's values are drawn, by its name and shape."""
    if kind.endswith("kernel"):
        # He et al., "Delving Deep into Rectifiers", 2015. A filter of each channel's own has one filter a channel.
        one_each = len(shape) == _IMAGE_KERNEL and shape[-1] == 1
        reach = gain * math.sqrt(6 / math.prod(shape[:2] if one_each else shape[:-1]))
        return -reach, reach
    if kind in {"gamma", "moving_variance"} or kind.startswith("variable"):
        return 0.5, 1.5  # "variable" is ConvNeXt's scale of a layer
    return -0.5, 0.5


def uniform(name: str, shape: tuple[int, ...], low: float, high: float) -> NDArray[np.float32]:
    """Draw an array's values from between two bounds."""
    fractions = (_bits(name, math.prod(shape)) >> 11) * 2.0**-53
    return (low + (high - low) * fractions).astype(np.float32).reshape(shape)


def _bits(name: str, count: int) -> NDArray[np.uint64]:
    key = int.from_bytes(hashlib.sha256(name.encode()).digest()[:16], "big")
    return np.random.Philox(key=key).random_raw(count)
