"""What descriptors do to pixels before they look at them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

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
    """Brightness by ITU-R BT.601, shape (height, width); in integers with weights of 15 bits, as OpenCV 5 has it."""
    import numpy as np

    wide = pixels.astype(np.uint32)
    total = wide[..., 0] * 9798 + wide[..., 1] * 19235 + wide[..., 2] * 3735
    return ((total + (1 << 14)) >> 15).astype(np.uint8)
