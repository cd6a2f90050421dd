"""SqueezeNet 1.1 with the weights of rcmalli/keras-squeezenet, which were DeepScale's in Caffe.

F. N. Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and <0.5MB model size", 2016;
version 1.1 of the authors' repository. Strided convolution and pooling are not padded: with 227 pixels, nothing of an
image is left over.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from offshelf.extraction.networks.h5 import filled

if TYPE_CHECKING:
    from offshelf.extraction.networks.blueprint import Blueprint

_STAGES: Final = (((16, 64), (16, 64)), ((32, 128), (32, 128)), ((48, 192), (48, 192), (64, 256), (64, 256)))
"""Filters that squeeze and filters that expand, of each fire module; each stage begins with a pooling."""


def build(blueprint: Blueprint, data: bytes) -> Any:
    """Make the network from its weights; see `offshelf.extraction.networks.blueprint`.

    Raises
    ------
    DataLoss
        If the file does not hold the weights of a SqueezeNet 1.1.
    """
    import keras

    # Channels first, which takes OpenVINO less time; see `offshelf.extraction.networks.applications`.
    data_format = blueprint.data_format()
    keras.config.set_image_data_format(data_format)
    image = blueprint.image(data_format)
    x = keras.layers.Conv2D(64, 3, strides=2, activation="relu")(image)
    for stage in _STAGES:
        x = keras.layers.MaxPooling2D(3, 2)(x)
        for squeeze, expand in stage:
            x = _fire(x, squeeze, expand)
    if blueprint.output == "avg":
        x = keras.layers.GlobalAveragePooling2D()(x)
    elif blueprint.output == "max":
        x = keras.layers.GlobalMaxPooling2D()(x)
    return filled(keras.Model(image, x), blueprint, data)


def _fire(x: Any, squeeze: int, expand: int) -> Any:
    import keras

    x = keras.layers.Conv2D(squeeze, 1, activation="relu")(x)
    left = keras.layers.Conv2D(expand, 1, activation="relu")(x)
    right = keras.layers.Conv2D(expand, 3, padding="same", activation="relu")(x)
    channels = 1 if keras.config.image_data_format() == "channels_first" else -1
    return keras.layers.Concatenate(axis=channels)([left, right])
