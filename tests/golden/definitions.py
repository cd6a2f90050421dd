"""The networks as others define them: Keras Applications, and SqueezeNet as rcmalli/keras-squeezenet has it.

Needs Keras alone, on any backend; what is made here on TensorFlow is what the product has to agree with.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tests.golden.generated import fill
from tests.golden.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray


@dataclass(frozen=True)
class Definition:
    """A network, and the function that prepares its input."""

    module: str
    """Of `keras.applications`, with the function ``preprocess_input``."""
    model: str
    """The function of `keras.applications`; empty for SqueezeNet, which is not there."""
    size: int = 224
    gain: float = 1.0
    """Of generated weights (`tests.golden.generated.fill`): what is added up block after block would grow without end,
    and sigmoids of large sums make the last bits of those decide."""
    outputs: tuple[str, ...] = ("avg",)
    """What there are golden vectors of."""
    normalizes: bool = False
    """Whether it normalizes what it has pooled, which is then no mean of its feature maps."""
    quick: bool = False
    """As of `tests.golden.reference.Reference`."""

    def build(self, output: str) -> Any:
        """Make the Keras model, with Keras' random weights, that gives "avg", "max", feature maps or "classes"."""
        top, pooling = output == "classes", output if output in {"avg", "max"} else None
        if not self.model:
            return squeezenet(self.size, include_top=top, pooling=pooling)
        make = getattr(importlib.import_module("keras.applications"), self.model)
        return make(weights=None, input_shape=(self.size, self.size, 3), include_top=top, pooling=pooling)

    def preprocess(self, image: Any) -> Any:
        """Prepare an image, float32 of 0 to 255, RGB, as the network's authors do."""
        return importlib.import_module(f"keras.applications.{self.module}").preprocess_input(image)


DEFINITIONS: Final[Mapping[str, Definition]] = {
    "squeezenet": Definition("imagenet_utils", "", 227, quick=True),
    "mobilenetv3": Definition("mobilenet_v3", "MobileNetV3Large", gain=0.8, outputs=("avg", "classes"), quick=True),
    "resnet50": Definition("resnet", "ResNet50", gain=0.5, outputs=("avg", "classes")),
    "densenet": Definition("densenet", "DenseNet121", outputs=("avg", "classes")),
    "mobilenetv2": Definition("mobilenet_v2", "MobileNetV2", gain=0.85),
    "efficientnetv2b0": Definition("efficientnet_v2", "EfficientNetV2B0", gain=0.85, outputs=("avg", "classes")),
    "convnexttiny": Definition("convnext", "ConvNeXtTiny", outputs=("avg", "classes"), normalizes=True),
    "inception": Definition("inception_v3", "InceptionV3", 299, gain=0.9, outputs=("avg", "classes")),
    "xception": Definition("xception", "Xception", 299, gain=0.7, outputs=("avg", "classes")),
    "vgg16": Definition("vgg16", "VGG16"),
    "vgg19": Definition("vgg19", "VGG19"),
}
"""By the names that extractors have."""


def _vectors(name: str, pixels: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
    import keras

    definition = DEFINITIONS[name]
    vectors = {}
    for output in definition.outputs:
        keras.utils.clear_session()
        model = definition.build(output)
        fill(model, name, definition.gain)
        vectors[output] = np.stack(
            [model(definition.preprocess(each[np.newaxis].copy())).numpy()[0] for each in pixels]
        )
    return vectors


def _saved(name: str, output: str) -> bytes:
    from tests.golden.keras_process import saved_weights  # by Offshelf's workers, of which `make` knows nothing

    return saved_weights(name, output)


REFERENCES: Final = tuple(
    Reference(
        name,
        definition.size,
        definition.outputs,
        f"{name}.h5",
        partial(_saved, name, "avg"),
        partial(_vectors, name),
        classes_data=partial(_saved, name, "classes"),
        quick=definition.quick,
    )
    for name, definition in DEFINITIONS.items()
)


def squeezenet(size: int, *, include_top: bool, pooling: str | None) -> Any:
    """Define SqueezeNet 1.1, layer by layer as in keras_squeezenet/squeezenet.py."""
    from keras import Input, Model, layers

    def fire(x: Any, squeeze: int, expand: int) -> Any:
        x = layers.Activation("relu")(layers.Conv2D(squeeze, (1, 1), padding="valid")(x))
        left = layers.Activation("relu")(layers.Conv2D(expand, (1, 1), padding="valid")(x))
        right = layers.Activation("relu")(layers.Conv2D(expand, (3, 3), padding="same")(x))
        return layers.concatenate([left, right], axis=3)

    if include_top:
        raise NotImplementedError("the file with its last layers has no published digest")
    image = Input((size, size, 3))
    x = layers.Activation("relu")(layers.Conv2D(64, (3, 3), strides=(2, 2), padding="valid")(image))
    x = layers.MaxPooling2D(pool_size=(3, 3), strides=(2, 2))(x)
    x = fire(fire(x, 16, 64), 16, 64)
    x = layers.MaxPooling2D(pool_size=(3, 3), strides=(2, 2))(x)
    x = fire(fire(x, 32, 128), 32, 128)
    x = layers.MaxPooling2D(pool_size=(3, 3), strides=(2, 2))(x)
    x = fire(fire(fire(fire(x, 48, 192), 48, 192), 64, 256), 64, 256)
    if pooling is not None:
        x = {"avg": layers.GlobalAveragePooling2D, "max": layers.GlobalMaxPooling2D}[pooling]()(x)
    return Model(image, x)
