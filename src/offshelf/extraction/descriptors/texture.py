"""How the grey levels of neighbouring pixels go together."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from offshelf.extraction.descriptors.pixels import bounded, grey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PLACE_BITS: Final = 11
"""Places between pixels are told apart to 1/2048: two such weights and a grey level are 30 bits."""


def haralick(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Haralick's first 13 texture features of the grey image, each averaged over the four directions.

    From the co-occurrence of grey levels at distance 1 (R. M. Haralick, K. Shanmugam and I. Dinstein, "Textural
    Features for Image Classification", 1973), as ``mahotas.features.haralick(grey).mean(axis=0)``. An image that is one
    pixel high or wide has no neighbours in some directions; it is doubled there. FrImCla squeezes images to 231 x 231
    before; here each is taken in its own size, up to four megapixels.

    Parameters
    ----------
    pixels
        Shape (height, width, 3), RGB.

    Returns
    -------
    ndarray of float32, shape (13,)
    """
    import numpy as np
    from mahotas.features import haralick as features_of

    image = grey(bounded(pixels))
    image = np.pad(image, [(0, int(length == 1)) for length in image.shape], mode="edge")
    return np.asarray(features_of(image).mean(axis=0), dtype=np.float32)


def lbp(pixels: NDArray[np.uint8], *, radius: int, points: int) -> NDArray[np.float32]:
    """How often each uniform local binary pattern occurs in the grey image, whichever way it is turned.

    Of the points on a circle around a pixel, interpolated between pixels, some are as light as the pixel or lighter.
    Where these stand together, the pattern is uniform, and its number says how many they are; all other patterns have
    the last number (T. Ojala, M. Pietikainen and T. Maenpaa, "Multiresolution Gray-Scale and Rotation Invariant Texture
    Classification with Local Binary Patterns", 2002). Beyond its edges an image counts as black.

    It is the histogram of ``skimage.feature.local_binary_pattern(grey, points, radius, "uniform")``, in integers and so
    several times faster; they round points' places differently, so that about one pixel in 4,000 counts elsewhere.

    FrImCla takes ``mahotas.features.lbp(grey, 3, 24)``, which counts all patterns one by one: 699,252 numbers an image,
    nearly all of them 0. It asks for lighter points, not for those that are as light, and mahotas 1.4.19 puts the
    circle a pixel beside where it belongs, down and right, without interpolating. FrImCla also squeezes images to
    231 x 231 before; here each is taken in its own size, up to four megapixels.

    Parameters
    ----------
    pixels
        Shape (height, width, 3), RGB.
    radius
        Of the circle, pixels.
    points
        How many there are on the circle, evenly spread.

    Returns
    -------
    ndarray of float32, shape (points + 2,)
        Shares of the pixels, whose sum is 1.
    """
    import numpy as np

    image = grey(bounded(pixels)).astype(np.int32)
    angles = [2 * math.pi * point / points for point in range(points)]
    offsets = [(-radius * math.sin(angle), radius * math.cos(angle)) for angle in angles]
    padded = np.pad(image, radius + 1)
    level = image << 2 * _PLACE_BITS
    lighter, changes = np.zeros(image.shape, np.uint8), np.zeros(image.shape, np.uint8)
    before = _interpolated(padded, radius + 1, *offsets[-1]) >= level
    for down, right in offsets:
        here = _interpolated(padded, radius + 1, down, right) >= level
        lighter += here
        changes += here != before
        before = here
    uniform_changes = 2
    patterns = np.where(changes <= uniform_changes, lighter, points + 1)
    counts = np.bincount(patterns.ravel(), minlength=points + 2)
    return np.asarray(counts / image.size, dtype=np.float32)


def _interpolated(padded: NDArray[np.int32], margin: int, down: float, right: float) -> NDArray[np.int32]:
    """Move an image within its margin, and interpolate linearly; in units of 2 ** (-2 * _PLACE_BITS)."""
    unit = 1 << _PLACE_BITS
    height, width = padded.shape[0] - 2 * margin, padded.shape[1] - 2 * margin
    (top, below), (left, beside) = divmod(round(down * unit), unit), divmod(round(right * unit), unit)
    rows = padded[margin + top :][: height + 1]
    across = rows[:, margin + left :][:, :width] * (unit - beside)
    across += rows[:, margin + left + 1 :][:, :width] * beside
    moved = across[:-1] * (unit - below)
    moved += across[1:] * below
    return moved
