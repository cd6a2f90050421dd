"""RGB to CIELAB and to HSV in 8 bits, with every bit as OpenCV has it: in integers, by tables.

Textbook formulas in floating point round other pixels up than OpenCV does, and a pixel at the edge of a histogram's bin
then counts in another one: vectors of photos move by 0.02 of their length, and of one with a plain background by 0.17.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    Channels: TypeAlias = tuple[NDArray[np.integer], NDArray[np.integer], NDArray[np.integer]]

_LINEAR_UNIT: Final = 255 * 8
"""Linear light of 0 to 1 is counted in 0 to this."""
_WEIGHT_BITS: Final = 12
_ROOT_BITS: Final = 15
_QUOTIENT_BITS: Final = 12
_HALF_HUES: Final = 180
"""Degrees of hue are halved, to fit a byte."""

_XYZ_OF_RGB: Final = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
_WHITE: Final = (0.950456, 1.0, 1.088754)
"""D65."""


def lab(pixels: NDArray[np.uint8]) -> Channels:
    """Lightness x 255/100, a + 128 and b + 128 under D65, each 0 to 255 and shaped (height, width)."""
    weighted, roots = _lab_tables()
    red, green, blue = pixels[..., 0], pixels[..., 1], pixels[..., 2]
    x, y, z = (
        roots[_rounded(of_red[red] + of_green[green] + of_blue[blue], _WEIGHT_BITS)]
        for of_red, of_green, of_blue in weighted
    )
    black = (16 * 255 << _ROOT_BITS) // 100
    middle = 128 << _ROOT_BITS
    return (
        _rounded((116 * 255 + 50) // 100 * y - black, _ROOT_BITS),
        _rounded(500 * (x - y) + middle, _ROOT_BITS),
        _rounded(200 * (y - z) + middle, _ROOT_BITS),
    )


def hsv(pixels: NDArray[np.uint8]) -> Channels:
    """Hue / 2 (0 to 179), saturation x 255 and value (0 to 255), each shaped (height, width)."""
    import numpy as np

    saturations, hues = _hsv_tables()
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    value = np.maximum(np.maximum(red, green), blue)
    spread = value - np.minimum(np.minimum(red, green), blue)
    # Sixths of the circle, in units of the spread: from red, from green, or from blue.
    turn = np.where(
        value == red, green - blue, np.where(value == green, blue - red + 2 * spread, red - green + 4 * spread)
    )
    hue = _rounded(turn * hues[spread], _QUOTIENT_BITS)
    hue[hue < 0] += _HALF_HUES
    return hue, _rounded(spread * saturations[value], _QUOTIENT_BITS), value


SPACES: Final[dict[str, tuple[Callable[[NDArray[np.uint8]], Channels], tuple[int, int, int]]]] = {
    "lab": (lab, (256, 256, 256)),
    "hsv": (hsv, (_HALF_HUES, 256, 256)),
}
"""How to convert to a space, and how many values each of its channels has."""


def _rounded(numbers: NDArray[np.int32], bits: int) -> NDArray[np.int32]:
    """Take fixed-point numbers to the nearest integers, halves up."""
    return (numbers + (1 << bits - 1)) >> bits


@cache
def _lab_tables() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Give each byte's weighted linear light, of shape (XYZ, RGB, 256), and the cube roots CIELAB takes of sums."""
    import numpy as np

    byte = np.arange(256) / 255
    linear = np.rint(_LINEAR_UNIT * np.where(byte <= 0.04045, byte / 12.92, ((byte + 0.055) / 1.055) ** 2.4))  # noqa: PLR2004  (sRGB, IEC 61966-2-1)
    weights = np.rint((1 << _WEIGHT_BITS) * np.array(_XYZ_OF_RGB) / np.array(_WHITE)[:, np.newaxis])
    light = np.arange(_LINEAR_UNIT + 1) / _LINEAR_UNIT
    roots = np.where(light < 216 / 24389, light * 841 / 108 + 16 / 116, np.cbrt(light)).astype(np.float32)
    return (
        (weights[:, :, np.newaxis] * linear).astype(np.int32),
        np.rint(roots * np.float32(1 << _ROOT_BITS)).astype(np.int32),
    )


@cache
def _hsv_tables() -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Give what saturation and hue are multiplied by instead of divided by 0 to 255; 0 for 0."""
    import numpy as np

    divisors = np.arange(1, 256)
    saturations = np.rint((255 << _QUOTIENT_BITS) / divisors)
    hues = np.rint((_HALF_HUES << _QUOTIENT_BITS) / (6 * divisors))
    return (
        np.concatenate([[0], saturations]).astype(np.int32),
        np.concatenate([[0], hues]).astype(np.int32),
    )
