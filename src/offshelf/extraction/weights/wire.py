"""Protobuf's wire format, read field by field.

For files of other programs, whose messages are not those of the contract. Compiled classes of theirs would be
registered for the whole process, where another library may have registered its own under the same names, and would copy
each array.

The format: https://protobuf.dev/programming-guides/encoding. Here nothing is copied, nothing nests by itself, and a
length that is only claimed costs nothing: a hostile file ends in `Malformed`, after `MOST_FIELDS` fields at the latest.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np
    from numpy.typing import NDArray

MOST_FIELDS: Final = 100_000
"""Of one file, all its messages together. GoogLeNet's has some thousands."""

_BITS: Final = 7
_MORE: Final = 0x80
_LONGEST_VARINT: Final = 10
_LARGEST: Final = (1 << 64) - 1


class Malformed(ValueError):
    """Bytes are not the message that they should be; the text says how."""


class Wire(IntEnum):
    """How a field is written."""

    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    """Preceded by their length: texts, messages, packed lists."""
    FIXED32 = 5


class Field(NamedTuple):
    """A field of a message; of fixed ones of 32 bits, as many as follow one another under the same number."""

    number: int
    wire: Wire
    integer: int = 0
    """A varint's value, unsigned."""
    body: memoryview = memoryview(b"")
    """What stands in a field of bytes, or of 64 bits."""
    floats: NDArray[np.float32] | None = None
    """What stands in fields of 32 bits."""

    def as_integer(self) -> int:
        """Return the integer, or raise `Malformed` if it is none."""
        if self.wire != Wire.VARINT:
            raise Malformed(f"its field {self.number} is no integer")
        return self.integer

    def as_bytes(self) -> memoryview:
        """Return the bytes, or raise `Malformed` if it is of another kind."""
        if self.wire != Wire.BYTES:
            raise Malformed(f"its field {self.number} holds no text, list or message")
        return self.body


class Reader:
    """Reads the messages of one file, and counts their fields."""

    def __init__(self, most: int = MOST_FIELDS) -> None:
        self._most = self._left = most

    def fields(self, message: memoryview) -> Iterator[Field]:
        """Read a message's fields in the order of the file.

        Raises
        ------
        Malformed
            If it is none, or there are too many fields.
        """
        position = 0
        while position < len(message):
            self._left -= 1
            if self._left < 0:
                raise Malformed(f"it has more than {self._most} fields")
            start = position
            tag, position = varint(message, position)
            number, kind = tag >> 3, tag & 7
            if not number:
                raise Malformed("it has a field without a number")
            match kind:
                case Wire.VARINT:
                    value, position = varint(message, position)
                    yield Field(number, Wire.VARINT, integer=value)
                case Wire.BYTES:
                    length, position = varint(message, position)
                    body, position = _cut(message, position, length)
                    yield Field(number, Wire.BYTES, body=body)
                case Wire.FIXED64:
                    body, position = _cut(message, position, 8)
                    yield Field(number, Wire.FIXED64, body=body)
                case Wire.FIXED32:
                    _cut(message, position, 4)
                    floats = _run(message, start) if position == start + 1 else _float(message, position)
                    position += 4 + (len(floats) - 1) * 5
                    yield Field(number, Wire.FIXED32, floats=floats)
                case _:
                    raise Malformed(f"its field {number} is written in a way that is not read here")


def varint(message: memoryview, position: int) -> tuple[int, int]:
    """Read an unsigned integer of up to 64 bits; return it and where it ends. Raises `Malformed` if there is none."""
    value = 0
    for shift, byte in enumerate(message[position : position + _LONGEST_VARINT]):
        value |= (byte & ~_MORE) << (_BITS * shift)
        if byte < _MORE:
            if value > _LARGEST:
                break
            return value, position + shift + 1
    raise Malformed("an integer in it has no end")


def _cut(message: memoryview, position: int, length: int) -> tuple[memoryview, int]:
    end = position + length
    if end > len(message):
        raise Malformed(f"it ends {end - len(message)} bytes too early")
    return message[position:end], end


def _float(message: memoryview, position: int) -> NDArray[np.float32]:
    import numpy as np

    return np.frombuffer(message, dtype="<f4", count=1, offset=position)


def _run(message: memoryview, start: int) -> NDArray[np.float32]:
    """Read a list that is not packed: tag, number, tag, number and so on. One at a time would take a minute."""
    import numpy as np

    record = np.dtype([("tag", "u1"), ("value", "<f4")])
    records = np.frombuffer(message, record, count=(len(message) - start) // record.itemsize, offset=start)
    # In windows that grow: the search costs no more than the run that it finds is long.
    count, window = 1, 16
    while count < len(records):
        others = np.flatnonzero(records["tag"][count : count + window] != message[start])
        if others.size:
            return records["value"][: count + int(others[0])]
        count, window = count + window, window * 2
    return records["value"]
