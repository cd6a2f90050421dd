"""Writes Caffe's files, by protobuf's wire format and the numbers of caffe.proto, in both of their forms."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

_INNER_PRODUCT, _CONVOLUTION = 14, 4


def varint(value: int) -> bytes:
    """Write an integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: bytes | int) -> bytes:
    """Write a field: text, bytes or a message; or an integer."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob(array: NDArray[np.float32], shape: Sequence[int], *, old: bool, packed: bool = True) -> bytes:
    """Write an array: with four dimensions of its own as before 2015, or with a list of them."""
    numbers = array.astype("<f4").tobytes()
    if packed:
        data = field(5, numbers)
    else:
        data = b"".join(varint(5 << 3 | 5) + numbers[at : at + 4] for at in range(0, len(numbers), 4))
    if old:
        four = (1,) * (4 - len(shape)) + tuple(shape)
        return b"".join(field(number, extent) for number, extent in enumerate(four, 1)) + data
    return data + field(7, field(1, b"".join(map(varint, shape))))


def caffemodel(
    arrays: Mapping[str, NDArray[np.float32]], *, old: bool = True, packed: bool = True, connected: Sequence[str] = ()
) -> bytes:
    """Write a network: layers of weights and biases among others that have none.

    Parameters
    ----------
    arrays
        ``<layer>.weight`` of shape (out, in, height, width) and ``<layer>.bias``.
    old
        Whether in the form of before 2015.
    packed
        Whether numbers stand one after another, or each with its field's number.
    connected
        Layers that are fully connected.
    """
    out = [field(1, b"GoogleNet"), layer("data", 5, [], old=old)]
    for name in dict.fromkeys(name.rpartition(".")[0] for name in arrays):
        weight, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
        shape = weight.shape[:2] if name in connected else weight.shape
        blobs = [blob(weight, shape, old=old, packed=packed), blob(bias, bias.shape, old=old, packed=packed)]
        out += [
            layer(name, _INNER_PRODUCT if name in connected else _CONVOLUTION, blobs, old=old),
            layer(f"{name}/relu", 18, [], old=old),
        ]
    return b"".join(out)


def layer(name: str, kind: int, blobs: Sequence[bytes], *, old: bool) -> bytes:
    """Write a layer; a kind as a number, or as the word that it was later."""
    words = {_INNER_PRODUCT: b"InnerProduct", _CONVOLUTION: b"Convolution"}
    if old:
        body = field(2, b"bottom") + field(3, b"top") + field(4, name.encode()) + field(5, kind)
        return field(2, body + b"".join(field(6, each) for each in blobs) + varint(7 << 3 | 5) + struct.pack("<f", 1.0))
    body = field(1, name.encode()) + field(2, words.get(kind, b"ReLU")) + field(3, b"bottom")
    return field(100, body + b"".join(field(7, each) for each in blobs))
