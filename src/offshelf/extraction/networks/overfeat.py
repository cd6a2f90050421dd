"""OverFeat, the "fast" network, as FrImCla uses it.

P. Sermanet et al., "OverFeat: Integrated Recognition, Localization and Detection using Convolutional Networks", ICLR
2014. The layers are those of the authors' release, with one difference: where theirs put out 1e-6 for a negative value,
these put out 0, as do sklearn-theano's, which FrImCla uses.

It is made of the engine's own operations, without Keras: the weights, of half a gigabyte, then need not be copied.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Final

from offshelf.extraction.runtime import load_openvino
from offshelf.extraction.weights.flat import parse_flat

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offshelf.extraction.networks.blueprint import Blueprint
    from offshelf.extraction.weights.flat import Shape


@dataclass(frozen=True, slots=True)
class Layer:
    """A convolution; the maximum with 0, unless it is the last; and perhaps the maxima of squares of 2 x 2."""

    filters: int
    side: int
    """Of the filters, pixels."""
    stride: int = 1
    padding: int = 0
    """Zeros on all sides."""
    halved: bool = False


LAYERS: Final = (
    Layer(96, 11, stride=4, halved=True),
    Layer(256, 5, halved=True),
    Layer(512, 3, padding=1),
    Layer(1024, 3, padding=1),
    Layer(1024, 3, padding=1, halved=True),
    Layer(3072, 6),
    Layer(4096, 1),
    Layer(1000, 1),
)
"""Of 231 x 231 pixels the fifth makes 6 x 6, so that the last three are fully connected."""


def shapes(layers: Sequence[Layer]) -> list[Shape]:
    """Shapes of the layers' weights: (out, in, height, width)."""
    channels = [len("RGB"), *(layer.filters for layer in layers)]
    return [(layer.filters, channels[at], layer.side, layer.side) for at, layer in enumerate(layers)]


def build(blueprint: Blueprint, data: bytes) -> Any:
    """Make the network from ``net_weight_0``; see `offshelf.extraction.networks.blueprint`.

    Layers are counted from the end, as in FrImCla, whose transformer takes a convolution and the rectifier after it as
    one: "-1" is the last one, the scores of the classes; "-2" and "-3", which is FrImCla's, the two before it, of 4096
    and 3072 numbers; "-4" the maxima that go into that (channel, row, column). "classes" gives the scores' softmax.

    Raises
    ------
    DataLoss
        If the file's length is not that of the network's weights.
    """
    return assemble(LAYERS, blueprint, data)


def assemble(layers: Sequence[Layer], blueprint: Blueprint, data: bytes) -> Any:
    """Make a network of such layers; see `build`."""
    ov = load_openvino()
    from openvino import opset13 as ops

    arrays = parse_flat(data, shapes(layers), blueprint.file)
    count = len(layers) + (0 if blueprint.output == "classes" else 1 + int(blueprint.output))
    image = ops.parameter([1, 3, *blueprint.size], ov.Type.f32)
    x = image
    for layer, (weights, biases) in list(zip(layers, arrays, strict=True))[:count]:
        x = _convolution(ops, x, layer, ops.constant(weights))
        x = ops.add(x, ops.constant(biases.reshape(1, -1, 1, 1)))
        if layer is not layers[-1]:
            x = ops.relu(x)
        if layer.halved:
            x = ops.max_pool(x, [2, 2], [1, 1], [0, 0], [0, 0], [2, 2]).output(0)
    x = ops.reshape(x, [1, prod(x.shape)], special_zero=False)
    if blueprint.output == "classes":
        x = ops.softmax(x, axis=1)
    return ov.Model([x], [image], blueprint.weights.name)


def _convolution(ops: Any, x: Any, layer: Layer, weights: Any) -> Any:
    padding = [layer.padding] * 2
    return ops.convolution(x, weights, [layer.stride] * 2, padding, padding, [1, 1])
