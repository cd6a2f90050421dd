"""ONNX files that name other files: refused, since OpenVINO would read whatever path they name.

Field numbers are those of ONNX's own onnx.proto.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from offshelf.errors import InvalidInput
from offshelf.extraction.weights.wire import Malformed, Reader, Wire

if TYPE_CHECKING:
    from collections.abc import Mapping

MOST_FIELDS: Final = 5_000_000
"""Of one file: networks of thousands of layers have some hundred thousand."""

_DEEPEST: Final = 100
"""Messages within messages; protobuf's own limit."""

_MESSAGES: Final[Mapping[str, Mapping[int, str]]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Tensor": {},
}
"""Which fields of a message hold messages that may hold a tensor."""

_EXTERNAL_DATA: Final = 13
_DATA_LOCATION: Final = 14


def refuse_external_data(data: bytes, file: str) -> None:
    """See that a network keeps all its weights in its own file.

    Raises
    ------
    InvalidInput
        If it names another file, or is no ONNX file.
    """
    try:
        external = _names_files(Reader(MOST_FIELDS), memoryview(data), "Model", _DEEPEST)
    except Malformed as error:
        raise InvalidInput(f"{file} cannot be read: expected a network in ONNX; found that {error}.") from error
    if external:
        raise InvalidInput(
            f"{file} names other files, which are never read: expected a network in one file. Save it so, with "
            "onnx.save_model(model, FILE, save_as_external_data=False)."
        )


def _names_files(reader: Reader, message: memoryview, kind: str, deepest: int) -> bool:
    if not deepest:
        raise Malformed("it nests too deep")
    below = _MESSAGES[kind]
    for field in reader.fields(message):
        if kind == "Tensor":
            if field.number == _EXTERNAL_DATA or (field.number == _DATA_LOCATION and field.integer):
                return True
        elif (
            field.number in below
            and field.wire is Wire.BYTES
            and _names_files(reader, field.body, below[field.number], deepest - 1)
        ):
            return True
    return False
