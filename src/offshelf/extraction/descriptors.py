"""Classical descriptors: a vector computed from pixels by a formula, as FrImCla uses them.

Each function takes pixels, uint8 of shape (height, width, 3), RGB, and gives a float32 vector that is finite for every
image. Change one and its version in the registry goes up.

Images over four megapixels are shrunk to four first (`bounded`): cost and memory then have a bound, and a photo's
colours and textures at that size say what they said before.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_PIXELS = 4_000_000


def bounded(pixels: NDArray[np.uint8], most: int = _MOST_PIXELS) -> NDArray[np.uint8]:
    """Shrink an image to at most `most` pixels, keeping its proportions, by averaging areas (Pillow's box filter)."""
    import numpy as np
    from PIL import Image

    height, width = pixels.shape[:2]
    if height * width <= most:
        return pixels
    scale = math.sqrt(most / (height * width))
    short = max(1, math.floor(min(height, width) * scale))
    # A strip one pixel wide gets no narrower: its length alone has to give way.
    long = min(math.floor(max(height, width) * scale), most // short)
    size = (long, short) if width >= height else (short, long)
    return np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BOX))


def grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Brightness by ITU-R BT.601 in OpenCV's 8-bit arithmetic (14-bit weights, rounded); shape (height, width)."""
    import numpy as np

    wide = pixels.astype(np.uint32)
    total = wide[..., 0] * 4899 + wide[..., 1] * 9617 + wide[..., 2] * 1868
    return ((total + 8192) >> 14).astype(np.uint8)


def colour_histogram(pixels: NDArray[np.uint8], *, space: Literal["lab", "hsv"], bins: int) -> NDArray[np.float32]:
    """Joint histogram over the three channels of a colour space, scaled to length 1.

    What FrImCla computes by ``cv2.cvtColor``, ``cv2.calcHist`` and ``cv2.normalize``: channels are brought to OpenCV's
    8-bit conventions (L x 255/100, a + 128, b + 128; hue 0 to 179, saturation and value 0 to 255), and `bins` steps of
    equal width cover each channel's range.

    Parameters
    ----------
    pixels
        Shape (height, width, 3), RGB.
    space
        CIELAB under D65, or HSV.
    bins
        Steps of each channel.

    Returns
    -------
    ndarray of float32, shape (bins ** 3,)
        The last channel varies fastest. Its Euclidean length is 1.
    """
    import numpy as np
    from skimage import color

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
    for channel, extent in zip(channels, ranges, strict=True):
        joint = joint * bins + channel.astype(np.intp) * bins // extent
    counts = np.bincount(joint.ravel(), minlength=bins**3).astype(np.float64)
    return (counts / np.linalg.norm(counts)).astype(np.float32)


def haralick(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Haralick's first 13 texture features of the grey image, each averaged over the four directions.

    From the co-occurrence of grey levels at distance 1 (R. M. Haralick, K. Shanmugam and I. Dinstein, "Textural
    Features for Image Classification", 1973), as ``mahotas.features.haralick(grey).mean(axis=0)``. An image that is one
    pixel high or wide has no neighbours in some directions; it is doubled there.

    Returns
    -------
    ndarray of float32, shape (13,)
    """
    import numpy as np
    from mahotas.features import haralick as features_of

    image = grey(bounded(pixels))
    image = np.pad(image, [(0, int(length == 1)) for length in image.shape], mode="edge")
    return np.asarray(features_of(image).mean(axis=0), dtype=np.float32)


def hog(
    pixels: NDArray[np.uint8], *, size: int, orientations: int, pixels_per_cell: int, cells_per_block: int
) -> NDArray[np.float32]:
    """Histograms of oriented gradients of the grey image (N. Dalal and B. Triggs, CVPR 2005), L2-Hys by block.

    FrImCla states no size, so that photos of different sizes give vectors of different lengths; here each is squeezed
    to a square first, whatever its proportions (Pillow's antialiased bilinear filter).

    Parameters
    ----------
    pixels
        Shape (height, width, 3), RGB.
    size
        Side of the square, pixels.
    orientations
        Directions told apart, over half a turn.
    pixels_per_cell, cells_per_block
        Sides of a cell and a block; blocks overlap, one at each cell.

    Returns
    -------
    ndarray of float32
        Of length ``(size // pixels_per_cell - cells_per_block + 1) ** 2 * cells_per_block ** 2 * orientations``.
    """
    import numpy as np
    from PIL import Image
    from skimage.feature import hog as gradients_of

    square = Image.fromarray(grey(bounded(pixels))).resize((size, size), Image.Resampling.BILINEAR)
    vector = gradients_of(
        np.asarray(square),
        orientations=orientations,
        pixels_per_cell=(pixels_per_cell, pixels_per_cell),
        cells_per_block=(cells_per_block, cells_per_block),
        block_norm="L2-Hys",
    )
    return np.asarray(vector, dtype=np.float32)


def _eight_bits(channel: NDArray[np.float32]) -> NDArray[np.uint8]:
    import numpy as np

    return np.clip(np.rint(channel), 0, 255).astype(np.uint8)
