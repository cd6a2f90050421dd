"""GoogLeNet as TensorFlow's own operations compute it, from generated weights under Caffe's names of layers.

Layers, filters and paddings are those of bvlc_googlenet's train_val.prototxt. The weights need NumPy alone; what needs
TensorFlow runs in the environment of `tests.golden.make`.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tests.golden.generated import uniform
from tests.golden.reference import Reference

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAME: Final = "googlenet"
MEAN: Final = (104.0, 117.0, 123.0)
"""Of blue, green and red."""

_CLASSIFIER: Final = "loss3/classifier"
_GAINS: Final = {_CLASSIFIER: 0.03}
"""Times He's scale, 1 elsewhere: probabilities are then many, and not one that is nearly 1."""

_STEM: Final = (("conv1/7x7_s2", 64, 3, 7), ("conv2/3x3_reduce", 64, 64, 1), ("conv2/3x3", 192, 64, 3))
_BRANCHES: Final = ("1x1", "3x3_reduce", "3x3", "5x5_reduce", "5x5", "pool_proj")
_BLOCKS: Final = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}


def data() -> bytes:
    """Write the weights as NumPy does."""
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays())
    return buffer.getvalue()


def arrays() -> dict[str, NDArray[np.float32]]:
    """Draw the weights: (out, in, height, width) and (out,) of each layer."""
    drawn: dict[str, NDArray[np.float32]] = {}
    for layer, filters, channels, side in _layers():
        reach = _GAINS.get(layer, 1.0) * math.sqrt(6 / (channels * side**2))  # He et al., 2015
        shape = (filters, channels, side, side)
        drawn[f"{layer}.weight"] = uniform(f"{NAME}/{layer}.weight", shape, -reach, reach)
        drawn[f"{layer}.bias"] = uniform(f"{NAME}/{layer}.bias", (filters,), -0.5, 0.5)
    return drawn


def vectors(pixels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    """Compute both outputs of images by TensorFlow.

    Parameters
    ----------
    pixels
        0 to 255, RGB; shape (images, height, width, 3).
    """
    import tensorflow as tf

    weights = arrays()

    def convolution(x: Any, layer: str, *, stride: int = 1, padding: int = 0) -> Any:
        x = tf.pad(x, [[0, 0], [padding] * 2, [padding] * 2, [0, 0]])
        kernel = weights[f"{layer}.weight"].transpose(2, 3, 1, 0)
        return tf.nn.relu(tf.nn.conv2d(x, kernel, stride, "VALID") + weights[f"{layer}.bias"])

    def halved(x: Any) -> Any:
        # Caffe rounds the size up: the last window goes over the edge. Behind a rectifier, zeros there change nothing.
        return tf.nn.max_pool2d(tf.pad(x, [[0, 0], [0, 1], [0, 1], [0, 0]]), 3, 2, "VALID")

    def normalized(x: Any) -> Any:
        return tf.nn.local_response_normalization(x, depth_radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75)

    def inception(x: Any, block: str) -> Any:
        name = f"inception_{block}"
        pooled = tf.nn.max_pool2d(tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]]), 3, 1, "VALID")
        return tf.concat(
            [
                convolution(x, f"{name}/1x1"),
                convolution(convolution(x, f"{name}/3x3_reduce"), f"{name}/3x3", padding=1),
                convolution(convolution(x, f"{name}/5x5_reduce"), f"{name}/5x5", padding=2),
                convolution(pooled, f"{name}/pool_proj"),
            ],
            axis=-1,
        )

    x = tf.constant(pixels[..., ::-1] - np.array(MEAN, np.float32))
    x = normalized(halved(convolution(x, "conv1/7x7_s2", stride=2, padding=3)))
    x = convolution(convolution(x, "conv2/3x3_reduce"), "conv2/3x3", padding=1)
    x = halved(normalized(x))
    for block in _BLOCKS:
        x = inception(x, block)
        if block in {"3b", "4e"}:
            x = halved(x)
    average = tf.reduce_mean(x, axis=[1, 2])
    scores = average @ weights[f"{_CLASSIFIER}.weight"][:, :, 0, 0].T + weights[f"{_CLASSIFIER}.bias"]
    return {"avg": average.numpy(), "classes": tf.nn.softmax(scores).numpy()}


def _layers() -> list[tuple[str, int, int, int]]:
    """List name, filters, channels and side of all layers."""
    layers, channels = list(_STEM), 192
    for block, filters in _BLOCKS.items():
        one, three_reduced, three, five_reduced, five, pooled = filters
        shapes = ((channels, 1), (channels, 1), (three_reduced, 3), (channels, 1), (five_reduced, 5), (channels, 1))
        layers += [
            (f"inception_{block}/{branch}", count, *shape)
            for branch, count, shape in zip(_BRANCHES, filters, shapes, strict=True)
        ]
        channels = one + three + five + pooled
    return [*layers, (_CLASSIFIER, 1000, channels, 1)]


REFERENCE: Final = Reference(NAME, 224, ("avg", "classes"), f"{NAME}.npz", data, vectors, quick=True)
