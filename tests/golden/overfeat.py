"""OverFeat as TensorFlow's own operations compute it, from generated weights in the layout of `net_weight_0`.

Layers are those of the "fast" network of the authors' release (src/overfeat.cpp). The weights need NumPy alone; what
needs TensorFlow runs in the environment of `tests.golden.make`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tests.golden.generated import uniform
from tests.golden.reference import Reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME: Final = "overfeat"

_MEAN: Final = 118.380948
_DEVIATION: Final = 61.896913
_SHAPES: Final = (
    (96, 3, 11, 11),
    (256, 96, 5, 5),
    (512, 256, 3, 3),
    (1024, 512, 3, 3),
    (1024, 1024, 3, 3),
    (3072, 1024, 6, 6),
    (4096, 3072, 1, 1),
    (1000, 4096, 1, 1),
)
_LAST_GAIN: Final = 0.1
"""Times He's scale: probabilities are then many, and not one that is nearly 1."""


def data() -> bytes:
    """Draw the weights: (out, in, height, width), and then (out,), of each layer."""
    return b"".join(array.tobytes() for layer in _layers() for array in layer)


def vectors(pixels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Compute the outputs of images by TensorFlow.

    Parameters
    ----------
    pixels
        0 to 255, RGB; shape (images, height, width, 3).
    """
    import tensorflow as tf

    def convolution(x: Any, number: int, *, stride: int = 1, padding: int = 0) -> Any:
        kernel, bias = layers[number]
        x = tf.pad(x, [[0, 0], [padding] * 2, [padding] * 2, [0, 0]])
        return tf.nn.conv2d(x, kernel.transpose(2, 3, 1, 0), stride, "VALID") + bias

    def halved(x: Any) -> Any:
        return tf.nn.max_pool2d(x, 2, 2, "VALID")

    layers = _layers()
    x = tf.constant((pixels - np.float32(_MEAN)) / np.float32(_DEVIATION))
    x = halved(tf.nn.relu(convolution(x, 0, stride=4)))
    x = halved(tf.nn.relu(convolution(x, 1)))
    x = tf.nn.relu(convolution(x, 2, padding=1))
    x = tf.nn.relu(convolution(x, 3, padding=1))
    x = halved(tf.nn.relu(convolution(x, 4, padding=1)))
    third = tf.nn.relu(convolution(x, 5))
    second = tf.nn.relu(convolution(third, 6))
    scores = convolution(second, 7)
    taken = {"-3": third, "-2": second, "classes": tf.nn.softmax(scores)}
    return {name: tf.reshape(value, [len(pixels), -1]).numpy() for name, value in taken.items()}


def _layers() -> list[tuple[NDArray[np.float32], NDArray[np.float32]]]:
    layers = []
    for number, shape in enumerate(_SHAPES):
        gain = _LAST_GAIN if number == len(_SHAPES) - 1 else 1.0
        reach = gain * math.sqrt(6 / math.prod(shape[1:]))  # He et al., 2015
        weight = uniform(f"{NAME}/{number}.weight", shape, -reach, reach)
        layers.append((weight, uniform(f"{NAME}/{number}.bias", shape[:1], -0.5, 0.5)))
    return layers


REFERENCE: Final = Reference(NAME, 231, ("-3", "-2", "classes"), "net_weight_0", data, vectors)
