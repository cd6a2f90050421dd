"""Which colours occur how often."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from offshelf.extraction.descriptors.pixels import bounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray


def colour_histogram(
    pixels: NDArray[np.uint8], *, space: Literal["lab", "hsv"], bins: int | Sequence[int]
) -> NDArray[np.float32]:
    """Joint histogram over the three channels of a colour space, scaled to length 1.

    What FrImCla computes by ``cv2.cvtColor``, ``cv2.calcHist`` and ``cv2.normalize``: channels are brought to OpenCV's
    8-bit conventions (L x 255/100, a + 128, b + 128; hue 0 to 179, saturation and value 0 to 255), and steps of equal
    width cover each channel's range.

    Parameters
    ----------
    pixels
        Shape (height, width, 3), RGB.
    space
        CIELAB under D65, or HSV.
    bins
        Steps of each channel; one number if they are equal.

    Returns
    -------
    ndarray of float32, as long as the product of the three steps
        The last channel varies fastest. Its Euclidean length is 1.
    """
    import numpy as np
    from skimage import color

    steps = (bins,) * 3 if isinstance(bins, int) else tuple(bins)
    unit = bounded(pixels).astype(np.float32) / np.float32(255)
    if space == "lab":
        lightness, a, b = np.moveaxis(color.rgb2lab(unit), -1, 0)
        channels = (_eight_bits(lightness * np.float32(2.55)), _eight_bits(a + 128), _eight_bits(b + 128))
        ranges = (256, 256, 256)
    else:
        hue, saturation, value = np.moveaxis(color.rgb2hsv(unit), -1, 0)
        full_circle = 180
        channels = (_eight_bits(hue * 180) % full_circle, _eight_bits(saturation * 255), _eight_bits(value * 255))
        ranges = (full_circle, 256, 256)
    joint = np.zeros(unit.shape[:2], dtype=np.intp)
    for channel, extent, count in zip(channels, ranges, steps, strict=True):
        joint = joint * count + channel.astype(np.intp) * count // extent
    counts = np.bincount(joint.ravel(), minlength=math.prod(steps)).astype(np.float64)
    return (counts / np.linalg.norm(counts)).astype(np.float32)


def _eight_bits(channel: NDArray[np.float32]) -> NDArray[np.uint8]:
    import numpy as np

    return np.clip(np.rint(channel), 0, 255).astype(np.uint8)
