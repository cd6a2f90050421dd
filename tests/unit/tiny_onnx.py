"""Small ONNX files, written field by field: the library that writes them needs more than all of our tests together.

Field numbers are those of ONNX's own onnx.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

FLOAT, UINT8, INT64 = 1, 2, 7
CHANNELS = 5
"""Of the feature maps that `network` gives."""


def number(field: int, value: int) -> bytes:
    """Write a field that holds an integer."""
    return _varint(field << 3) + _varint(value)


def text(field: int, value: str | bytes) -> bytes:
    """Write a field that holds a text, or a message that is written already."""
    data = value.encode() if isinstance(value, str) else value
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def tensor(name: str, array: NDArray[np.float32] | NDArray[np.int64], *, elsewhere: str = "") -> bytes:
    """Write a tensor; with its numbers in another file, if one is named."""
    kind = FLOAT if array.dtype == np.float32 else INT64
    fields = b"".join(number(1, side) for side in array.shape) + number(2, kind) + text(8, name)
    if elsewhere:
        return fields + text(13, text(1, "location") + text(2, elsewhere)) + number(14, 1)
    return fields + text(9, array.tobytes())


def value(name: str, shape: Sequence[int | str], kind: int = FLOAT) -> bytes:
    """Write an input or output; a side that is a text is of any length."""
    sides = b"".join(text(1, number(1, side) if isinstance(side, int) else text(2, side)) for side in shape)
    return text(1, name) + text(2, text(1, number(1, kind) + text(2, sides)))


def node(kind: str, inputs: Sequence[str], outputs: Sequence[str], **integers: int) -> bytes:
    """Write a node with attributes that are integers."""
    attributes = b"".join(text(5, text(1, key) + number(3, given) + number(20, 2)) for key, given in integers.items())
    return (
        b"".join(text(1, each) for each in inputs)
        + b"".join(text(2, each) for each in outputs)
        + text(4, kind)
        + attributes
    )


def model(
    nodes: Sequence[bytes], inputs: Sequence[bytes], outputs: Sequence[bytes], tensors: Sequence[bytes] = ()
) -> bytes:
    """Write a whole file."""
    graph = (
        b"".join(text(1, each) for each in nodes)
        + text(2, "tiny")
        + b"".join(text(5, each) for each in tensors)
        + b"".join(text(11, each) for each in inputs)
        + b"".join(text(12, each) for each in outputs)
    )
    return number(1, 8) + text(7, graph) + text(8, text(1, "") + number(2, 13))


def network(
    size: int | str = 32,
    *,
    channels: int = 3,
    batch: int | str = 1,
    extra_output: bool = False,
    scale: float = 1.0,
    elsewhere: str = "",
) -> bytes:
    """Write a network of one 1 x 1 convolution to `CHANNELS` feature maps, called "maps".

    Map c is `scale` times (c + 1) times the mean of the three channels.
    """
    weights = np.repeat(np.arange(1, CHANNELS + 1, dtype=np.float32)[:, None], channels, axis=1) / channels * scale
    nodes = [node("Conv", ["image", "weights"], ["maps"])]
    outputs = [value("maps", [batch, CHANNELS, size, size])]
    if extra_output:
        nodes.append(node("GlobalAveragePool", ["maps"], ["means"]))
        outputs.append(value("means", [batch, CHANNELS, 1, 1]))
    return model(
        nodes,
        [value("image", [batch, channels, size, size])],
        outputs,
        [tensor("weights", weights[:, :, None, None].astype(np.float32), elsewhere=elsewhere)],
    )


def _varint(value: int) -> bytes:
    data = b""
    while value > 0x7F:
        data += bytes([value & 0x7F | 0x80])
        value >>= 7
    return data + bytes([value])
