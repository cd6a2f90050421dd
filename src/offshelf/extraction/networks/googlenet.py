"""GoogLeNet (Inception v1) as BVLC trained it in Caffe.

C. Szegedy et al., "Going Deeper with Convolutions", CVPR 2015; bvlc_googlenet of the Caffe model zoo. Differences to
Keras' habits, all of them Caffe's: zero padding on both sides of a strided convolution, pooling whose output size is
rounded up, and local response normalization across channels. Its two auxiliary classifiers and its dropout exist in
training alone.

Images are channels first: on OpenVINO's CPU plugin that took a fifth less time than channels last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from offshelf.errors import DataLoss
from offshelf.extraction.networks.blueprint import exported
from offshelf.extraction.weights.arrays import checked, parse_arrays
from offshelf.extraction.weights.caffemodel import parse_caffemodel

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.extraction.networks.blueprint import Blueprint, DataFormat

_LRN_SIZE = 5
_LRN_ALPHA = 1e-4

_TRAINING_ONLY = ("loss1/", "loss2/")
"""Layers of the auxiliary classifiers, which the authors' file holds."""


def build(blueprint: Blueprint, data: bytes) -> Any:
    """Make the network from its weights; see `offshelf.extraction.networks.blueprint`.

    The file is that of its authors (``.caffemodel``), or an npz of its arrays: ``<layer>.weight``, shape (out, in,
    height, width), and ``<layer>.bias``, shape (out,), under Caffe's names of layers. They tell the numbers of filters.
    "classes" gives the probabilities behind ``loss3/classifier``, which alone needs that layer's arrays.

    Raises
    ------
    DataLoss
        If the arrays are not those of a GoogLeNet.
    """
    arrays = _arrays(blueprint, data)
    network = _Layers(arrays, blueprint.data_format())
    try:
        model = _assemble(network, blueprint)
    except (KeyError, ValueError) as error:
        raise DataLoss(f"The weights are not those of a GoogLeNet: {error}.") from error
    unused = {name.rpartition(".")[0] for name in arrays} - network.used - {"loss3/classifier"}
    if unused:
        raise DataLoss(f"The weights are not those of a GoogLeNet: {', '.join(sorted(unused))} has no place in one.")
    return exported(model, blueprint)


def _arrays(blueprint: Blueprint, data: bytes) -> dict[str, NDArray[np.float32]]:
    if not blueprint.file.endswith(".caffemodel"):
        return parse_arrays(data, blueprint.weights)
    arrays = parse_caffemodel(data, blueprint.file)
    kept = {name: array for name, array in arrays.items() if not name.startswith(_TRAINING_ONLY)}
    return checked(kept, blueprint.weights)


def _assemble(network: _Layers, blueprint: Blueprint) -> Any:
    import keras

    image = blueprint.image(network.data_format)
    x = network.convolution(image, "conv1/7x7_s2", stride=2, padding=3)
    x = network.normalized(network.pooled(x, stride=2))
    x = network.convolution(x, "conv2/3x3_reduce")
    x = network.convolution(x, "conv2/3x3", padding=1)
    x = network.pooled(network.normalized(x), stride=2)
    for block in ("3a", "3b"):
        x = _inception(network, x, f"inception_{block}")
    x = network.pooled(x, stride=2)
    for block in ("4a", "4b", "4c", "4d", "4e"):
        x = _inception(network, x, f"inception_{block}")
    x = network.pooled(x, stride=2)
    for block in ("5a", "5b"):
        x = _inception(network, x, f"inception_{block}")
    return keras.Model(image, _head(network, x, blueprint.output))


def _head(network: _Layers, x: Any, output: str) -> Any:
    import keras

    if output == "flatten":
        return keras.layers.Flatten(data_format=network.data_format)(x)
    if output == "max":
        return keras.layers.GlobalMaxPooling2D(data_format=network.data_format)(x)
    # The publication's 7 x 7 average pooling, at the network's own input size.
    x = keras.layers.GlobalAveragePooling2D(data_format=network.data_format)(x)
    return network.classifier(x, "loss3/classifier") if output == "classes" else x


def _inception(network: _Layers, x: Any, name: str) -> Any:
    import keras

    return keras.layers.Concatenate(axis=network.channels)(
        [
            network.convolution(x, f"{name}/1x1"),
            network.convolution(network.convolution(x, f"{name}/3x3_reduce"), f"{name}/3x3", padding=1),
            network.convolution(network.convolution(x, f"{name}/5x5_reduce"), f"{name}/5x5", padding=2),
            network.convolution(network.pooled(x, stride=1), f"{name}/pool_proj"),
        ]
    )


class _Layers:
    """Makes layers that have their weights already, and remembers whose it took."""

    def __init__(self, arrays: Mapping[str, NDArray[np.float32]], data_format: DataFormat) -> None:
        self._arrays = arrays
        self.data_format = data_format
        self.channels = 1 if data_format == "channels_first" else 3
        """The dimension of the channels."""
        self.used: set[str] = set()

    def pooled(self, x: Any, *, stride: int) -> Any:
        """Pool by 3, the output size rounded up: with an even input, as here, that is Keras' "same"."""
        import keras

        return keras.layers.MaxPooling2D(3, stride, padding="same", data_format=self.data_format)(x)

    def normalized(self, x: Any) -> Any:
        """Local response normalization across channels, ``x / (1 + alpha / n * sum of squares over n) ** 0.75``.

        As sums of shifted slices: Keras has no such layer, and these run at nearly the speed of OpenVINO's own.
        """
        from keras import ops

        reach = _LRN_SIZE // 2
        count = x.shape[self.channels]
        beside = [[reach, reach] if dimension == self.channels else [0, 0] for dimension in range(4)]
        squares = ops.pad(ops.square(x), beside)

        def shifted(by: int) -> Any:
            return squares[(slice(None),) * self.channels + (slice(by, by + count),)]

        total = shifted(0)
        for shift in range(1, _LRN_SIZE):
            total = ops.add(total, shifted(shift))
        scale = ops.add(ops.multiply(total, _LRN_ALPHA / _LRN_SIZE), 1.0)
        root = ops.sqrt(scale)
        return ops.divide(x, ops.multiply(root, ops.sqrt(root)))

    def convolution(self, x: Any, name: str, *, stride: int = 1, padding: int = 0) -> Any:
        """Convolve and rectify, padded by zeros on all sides."""
        import keras

        weight, bias = self._take(name)
        if padding:
            x = keras.layers.ZeroPadding2D(padding, data_format=self.data_format)(x)
        layer = keras.layers.Conv2D(
            weight.shape[0], weight.shape[2:], strides=stride, activation="relu", data_format=self.data_format
        )
        y = layer(x)
        layer.set_weights([weight.transpose(2, 3, 1, 0), bias])
        return y

    def classifier(self, x: Any, name: str) -> Any:
        """Apply a fully connected layer and softmax."""
        import keras

        weight, bias = self._take(name)
        layer = keras.layers.Dense(weight.shape[0], activation="softmax")
        y = layer(x)
        layer.set_weights([weight[:, :, 0, 0].T, bias])
        return y

    def _take(self, name: str) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        self.used.add(name)
        return self._arrays[f"{name}.weight"], self._arrays[f"{name}.bias"]
