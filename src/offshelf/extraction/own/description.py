"""What has to be known of a network besides its file: the JSON that lies beside it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, get_args

from offshelf.digests import digest_of
from offshelf.errors import InvalidInput

if TYPE_CHECKING:
    from offshelf.digests import JSONValue

NetworkFormat: TypeAlias = Literal["onnx", "tflite"]

FORMATS: Final[tuple[NetworkFormat, ...]] = get_args(NetworkFormat)

Pooling: TypeAlias = Literal["avg", "max", "flatten"]

POOLINGS: Final[tuple[Pooling, ...]] = get_args(Pooling)

EXAMPLE: Final = '{"size": 224, "colour": "RGB", "mean": [123.68, 116.78, 103.94], "scale": 1}'
"""What a description may look like."""

LONGEST_DESCRIPTION: Final = 16 * 1024
"""Bytes; nobody writes one that is longer."""

LARGEST_SIDE: Final = 2048

_LARGEST: Final = 1e38
"""About what 32-bit floats hold: beyond, pixels would become infinite."""

_LONGEST_TEXT: Final = 1000
_SHORT_DIGEST: Final = 12
_LONGEST_STEM: Final = 40
_NAME: Final = re.compile(
    rf"({'|'.join(FORMATS)}):[a-z0-9._-]{{1,{_LONGEST_STEM}}}@([0-9a-f]{{{_SHORT_DIGEST}}})(?::([a-z0-9]+))?"
)
_NUMBERS: Final = "a number, or a list of three, one a channel"


@dataclass(frozen=True, slots=True)
class Description:
    """How images go into a network of a user's own, and what is taken from it."""

    size: tuple[int, int]
    """Height and width of the input, pixels."""
    colour: Literal["RGB", "BGR"]
    """Order of the channels."""
    mean: tuple[float, float, float]
    """Subtracted from pixels of 0 to 255, in the order of `colour`."""
    scale: tuple[float, float, float]
    """What the difference is then divided by. The outcome is what the network's input holds; of a quantized one, whole
    numbers: with mean 0 and scale 1, a uint8 input gets the pixels as they are."""
    output: str = ""
    """Name of the output that is taken; empty if the network has one only."""
    pooling: Pooling = "avg"
    """What becomes of an output of feature maps; one that is a vector is taken as it is."""
    licence: str = ""
    """Of the network, for people."""

    def to_json(self) -> dict[str, JSONValue]:
        """Return it as plain JSON with nothing left out: equal descriptions give equal JSON."""
        return {
            "size": [*self.size],
            "colour": self.colour,
            "mean": [*self.mean],
            "scale": [*self.scale],
            "output": self.output,
            "pooling": self.pooling,
            "licence": self.licence,
        }


def parse_description(text: str | bytes, file: str) -> Description:
    """Read a description.

    Parameters
    ----------
    text
        JSON, as in `EXAMPLE`.
    file
        What messages call it.

    Raises
    ------
    InvalidInput
        If something in it cannot be used; with the file, what is expected and what was found.
    """
    if len(text) > LONGEST_DESCRIPTION:
        raise InvalidInput(f"{file} has more than {LONGEST_DESCRIPTION} bytes; expected is a small JSON as {EXAMPLE}.")
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{file} is no JSON; expected is for example {EXAMPLE}.") from None
    if not isinstance(data, dict):
        raise InvalidInput(f"{file} holds {_shown(data)}; expected is for example {EXAMPLE}.")
    known = ("size", "colour", "mean", "scale", "output", "pooling", "licence")
    if unknown := sorted(set(data) - set(known)):
        raise InvalidInput(f"{file} has {_shown(unknown[0])}, which means nothing; it may have {', '.join(known)}.")
    if missing := [name for name in known[:4] if name not in data]:
        raise InvalidInput(f"{file} says nothing of {' and '.join(missing)}; expected is for example {EXAMPLE}.")
    read = _Reading(file, data)
    return Description(
        size=read.size(),
        colour=read.choice("colour", ("RGB", "BGR")),
        mean=read.channels("mean"),
        scale=read.channels("scale", zero=False),
        output=read.text("output"),
        pooling=read.choice("pooling", POOLINGS),
        licence=read.text("licence"),
    )


def network_digest(file: str, format_: NetworkFormat, description: Description) -> str:
    """Return what names a network: the digest of its file's SHA-256, its format and its description."""
    return digest_of({"file": file, "format": format_, "description": description.to_json()})


def name_of(format_: NetworkFormat, file_name: str, digest: str) -> str:
    """Return the name by which a network is chosen as an extractor, as "onnx:net@0123456789ab"."""
    stem = PurePosixPath(file_name.replace("\\", "/")).name.lower().removesuffix(f".{format_}")
    stem = re.sub(r"[^a-z0-9._-]+", "-", stem)[:_LONGEST_STEM].strip("-.") or "network"
    return f"{format_}:{stem}@{digest[:_SHORT_DIGEST]}"


def is_name(text: str) -> bool:
    """Tell whether a text has the form of what `name_of` gives, perhaps with a precision: "onnx:net@...:bf16"."""
    return _NAME.fullmatch(text) is not None


def split_name(name: str) -> tuple[NetworkFormat, str, str] | None:
    """Return the format, the beginning of the digest, and the precision ("" if it says none); None for other texts."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    return next(format_ for format_ in FORMATS if format_ == match[1]), match[2], match[3] or ""


class _Reading:
    """Takes values out of a description, each checked."""

    def __init__(self, file: str, data: dict[str, Any]) -> None:
        self._file = file
        self._data = data

    def size(self) -> tuple[int, int]:
        value = self._data["size"]
        sides = value if isinstance(value, list) else [value, value]
        if len(sides) != 2 or not all(type(side) is int and 1 <= side <= LARGEST_SIDE for side in sides):  # noqa: PLR2004
            raise self._wrong("size", f"pixels from 1 to {LARGEST_SIDE}: one number, or [height, width]")
        return sides[0], sides[1]

    def channels(self, name: str, *, zero: bool = True) -> tuple[float, float, float]:
        value = self._data[name]
        values = value if isinstance(value, list) else [value] * 3
        if len(values) != 3 or not all(_is_number(each) for each in values):  # noqa: PLR2004
            raise self._wrong(name, _NUMBERS)
        if not zero and not all(values):
            raise self._wrong(name, f"{_NUMBERS}, and none of them 0")
        return float(values[0]), float(values[1]), float(values[2])

    def choice(self, name: str, choices: tuple[Any, ...]) -> Any:
        value = self._data.get(name, choices[0])
        if value not in choices:
            raise self._wrong(name, " or ".join(json.dumps(choice) for choice in choices))
        return value

    def text(self, name: str) -> str:
        value = self._data.get(name, "")
        if not isinstance(value, str) or len(value) > _LONGEST_TEXT or not value.isprintable():
            raise self._wrong(name, "a line of text")
        return value

    def _wrong(self, name: str, expected: str) -> InvalidInput:
        found = _shown(self._data[name])
        return InvalidInput(f"{self._file}: {name} must be {expected}; found {found}.")


def _is_number(value: object) -> bool:
    return type(value) in {int, float} and -_LARGEST < value < _LARGEST  # type: ignore[operator]  # False of NaN too


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."  # noqa: PLR2004  (a message is one line)
