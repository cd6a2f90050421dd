"""Which colours occur how often."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from offshelf.extraction.descriptors.pixels import bounded
from offshelf.extraction.descriptors.spaces import SPACES

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


def colour_histogram(
    pixels: NDArray[np.uint8], *, space: Literal["lab", "hsv"], bins: int | Sequence[int]
) -> NDArray[np.float32]:
    """Joint histogram over the three channels of a colour space, scaled to length 1.

    What FrImCla computes by ``cv2.cvtColor``, ``cv2.calcHist`` and ``cv2.normalize``, with equal bits before the last
    step. FrImCla squeezes images to 231 x 231 before; here each counts in its own size, up to four megapixels.

    Parameters
    ----------
    pixels
        Shape (height, width, 3), RGB.
    space
        CIELAB under D65, or HSV, by OpenCV's 8-bit conventions (L x 255/100, a + 128, b + 128; hue 0 to 179, saturation
        and value 0 to 255).
    bins
        Steps of each channel, of equal width over its range; one number if they are equal.

    Returns
    -------
    ndarray of float32, as long as the product of the three steps
        The last channel varies fastest. Its Euclidean length is 1.
    """
    import numpy as np

    steps = (bins,) * 3 if isinstance(bins, int) else tuple(bins)
    convert, extents = SPACES[space]
    image = bounded(pixels)
    joint = np.zeros(image.shape[:2], dtype=np.intp)
    for channel, extent, count in zip(convert(image), extents, steps, strict=True):
        # Rounded as OpenCV does it: of 26 steps, hue 90 ends the thirteenth, since 26 / 180 was rounded down.
        step_of = np.floor(np.arange(extent) * (count / extent)).astype(np.intp)
        joint = joint * count + step_of[channel]
    counts = np.bincount(joint.ravel(), minlength=math.prod(steps)).astype(np.float64)
    return (counts / np.linalg.norm(counts)).astype(np.float32)
