"""The networks of Keras Applications, as that package defines them.

Pooling is that package's own, too: ConvNeXt normalizes what was pooled, and does not pool what was normalized.

Images are channels first where that can be. OpenVINO wants them so inside; from a graph that is channels last it does
not remove all of the reordering, which took from a sixth of the time (VGG16) to more than half (MobileNets). ConvNeXt
stays channels last: it spends its time on matrices.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final

from offshelf.extraction.networks.h5 import filled

if TYPE_CHECKING:
    from offshelf.extraction.networks.blueprint import Blueprint, DataFormat


def _build(name: str, blueprint: Blueprint, data: bytes, *, data_format: DataFormat = "channels_first") -> Any:
    """Make the network of that name from its weights; see `offshelf.extraction.networks.blueprint`.

    Raises
    ------
    DataLoss
        If the file does not hold the weights of that network.
    """
    return filled(_defined(name, blueprint, blueprint.data_format(data_format)), blueprint, data)


def _defined(name: str, blueprint: Blueprint, data_format: DataFormat) -> Any:
    import keras

    # The definitions ask for it; this process makes no other network.
    keras.config.set_image_data_format(data_format)
    output = blueprint.output
    return getattr(keras.applications, name)(
        weights=None,
        include_top=output == "classes",
        input_tensor=blueprint.image(data_format),
        pooling=output if output in {"avg", "max"} else None,
    )


def densenet(blueprint: Blueprint, data: bytes) -> Any:
    """Make DenseNet-121, whose definition refuses channels first though all of its layers can do it."""
    if blueprint.served:
        return _build("DenseNet121", blueprint, data)
    import keras

    def turned(layer: Any) -> Any:
        config = layer.get_config()
        changed = {"data_format": "channels_first", "axis": 1}
        return layer.from_config({**config, **{key: value for key, value in changed.items() if key in config}})

    model = keras.models.clone_model(
        _defined("DenseNet121", blueprint, "channels_last"),
        input_tensors=[blueprint.image("channels_first")],
        clone_function=turned,
    )
    return filled(model, blueprint, data)


vgg16: Final = partial(_build, "VGG16")
vgg19: Final = partial(_build, "VGG19")
resnet50: Final = partial(_build, "ResNet50")
inception: Final = partial(_build, "InceptionV3")
xception: Final = partial(_build, "Xception")
mobilenetv2: Final = partial(_build, "MobileNetV2")
mobilenetv3: Final = partial(_build, "MobileNetV3Large")
efficientnetv2b0: Final = partial(_build, "EfficientNetV2B0")
convnexttiny: Final = partial(_build, "ConvNeXtTiny", data_format="channels_last")
