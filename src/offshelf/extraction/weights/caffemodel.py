"""Weights from Caffe's files, without Caffe.

A ``.caffemodel`` is a protobuf message, NetParameter (src/caffe/proto/caffe.proto of BVLC/caffe). Its layers have a
name, a kind and blobs: the weights and the biases. Layers are written in one of two forms, by Caffe before 2015 and
after; blobs have four dimensions of their own, or a list of them. All of these are read.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Final, NamedTuple

from offshelf.errors import DataLoss
from offshelf.extraction.weights.wire import Malformed, Reader, Wire, varint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from offshelf.extraction.weights.wire import Field

_MOST_DIMENSIONS: Final = 4
_LONGEST_NAME: Final = 200
_BLOBS: Final = 2
_SIGN_BIT: Final = 1 << 63


class _Form(NamedTuple):
    """Numbers of the fields of a layer."""

    name: int
    kind: int
    blobs: int


_FORMS: Final = {2: _Form(name=4, kind=5, blobs=6), 100: _Form(name=1, kind=2, blobs=7)}
"""V1LayerParameter and LayerParameter, by their numbers in NetParameter."""

_FULLY_CONNECTED: Final = (14, b"InnerProduct")
"""That kind of layer in the two forms."""

_EXTENTS: Final = range(1, 5)
_DATA: Final = 5
_SHAPE: Final = 7
_SHAPE_DIMENSIONS: Final = 1


def parse_caffemodel(data: bytes, name: str) -> dict[str, NDArray[np.float32]]:
    """Read the arrays of a network of convolutions and fully connected layers.

    Parameters
    ----------
    data
        The file, whose digest has been checked.
    name
        What it is called, for messages.

    Returns
    -------
    dict of str to ndarray of float32
        ``<layer>.weight`` of shape (out, in, height, width), which is (out, in, 1, 1) for fully connected layers, and
        ``<layer>.bias`` of shape (out,), under Caffe's names of layers.

    Raises
    ------
    DataLoss
        If it is no such file.
    """
    try:
        return _network(memoryview(data))
    except Malformed as error:
        raise DataLoss(f"{name} cannot be read as a network of Caffe: {error}. Get the file again.") from error


def _network(data: memoryview) -> dict[str, NDArray[np.float32]]:
    reader = Reader()
    arrays: dict[str, NDArray[np.float32]] = {}
    for field in reader.fields(data):
        form = _FORMS.get(field.number)
        if form is None:
            continue
        for name, array in _layer(reader, field.as_bytes(), form).items():
            if name in arrays:
                raise Malformed(f"it has two layers with a {name!r}")
            arrays[name] = array
    return arrays


def _layer(reader: Reader, message: memoryview, form: _Form) -> dict[str, NDArray[np.float32]]:
    name = ""
    kind: int | bytes = b""
    blobs: list[NDArray[np.float32]] = []
    for field in reader.fields(message):
        if field.number == form.name:
            name = _text(field)
        elif field.number == form.kind:
            kind = field.as_integer() if field.wire == Wire.VARINT else bytes(field.as_bytes()[:_LONGEST_NAME])
        elif field.number == form.blobs:
            if len(blobs) == _BLOBS:
                raise Malformed(f"its layer {name!r} has more than weights and biases")
            blobs.append(_blob(reader, field.as_bytes()))
    if not blobs:
        return {}
    if not name:
        raise Malformed("it has a layer without a name")
    weight, *biases = blobs
    if kind in _FULLY_CONNECTED and prod(weight.shape[:-2]) == 1:
        weight = weight.reshape(*weight.shape[-2:], 1, 1)
    if weight.ndim != _MOST_DIMENSIONS:
        raise Malformed(f"its layer {name!r} has weights of shape {weight.shape}")
    return {f"{name}.weight": weight, **{f"{name}.bias": bias.reshape(-1) for bias in biases}}


def _text(field: Field) -> str:
    body = field.as_bytes()
    if len(body) > _LONGEST_NAME:
        raise Malformed(f"it has a layer with a name of {len(body)} bytes")
    return bytes(body).decode(errors="replace")


def _blob(reader: Reader, message: memoryview) -> NDArray[np.float32]:
    import numpy as np

    own: dict[int, int] = {}
    listed: list[int] = []
    pieces: list[NDArray[np.float32]] = []
    for field in reader.fields(message):
        if field.number in _EXTENTS:
            own[field.number] = field.as_integer()
        elif field.number == _SHAPE:
            for part in reader.fields(field.as_bytes()):
                if part.number == _SHAPE_DIMENSIONS:
                    listed += _dimensions(part)
        elif field.number == _DATA:
            pieces.append(_floats(field))
    # Caffe, too, goes by the four where there are any.
    shape = tuple(own.get(number, 0) for number in _EXTENTS) if own else tuple(listed)
    if not 0 < len(shape) <= _MOST_DIMENSIONS or not all(0 < extent < _SIGN_BIT for extent in shape):
        raise Malformed("it has a blob whose dimensions are not 1 to 4 positive numbers")
    count = sum(len(piece) for piece in pieces)
    if count == 0 or count != prod(shape):
        raise Malformed(f"it has a blob of {count} numbers whose shape is {shape}")
    return np.concatenate(pieces, dtype="<f4").reshape(shape)


def _dimensions(field: Field) -> list[int]:
    """Read one dimension, or a packed list of them; of one that is too long, one more than there may be."""
    if field.wire == Wire.VARINT:
        return [field.integer]
    body, position = field.as_bytes(), 0
    found: list[int] = []
    while position < len(body) and len(found) <= _MOST_DIMENSIONS:
        value, position = varint(body, position)
        found.append(value)
    return found


def _floats(field: Field) -> NDArray[np.float32]:
    import numpy as np

    if field.floats is not None:
        return field.floats
    body = field.as_bytes()
    if len(body) % 4:
        raise Malformed(f"it has a list of numbers of {len(body)} bytes")
    return np.frombuffer(body, dtype="<f4")
