"""Squeezing: an image of any proportions to the height and width that a network takes.

The filter is a triangle (bilinear) that is widened by the reduction, so that every pixel of the image counts; across
first, then down, each rounded to eight bits. Pillow has it, and takes as long for it as for decoding a JPEG. Where
cykooz_resizer is installed, images that shrink go through its fast_image_resize, which computes the same filter with
the processor's vector instructions in a third of that time: the same bytes on every processor, of which 2 in 1,000
differ from Pillow's, by one level of 255 (its weights have 16 bits, Pillow's 22).
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image


def squeezed(image: Image.Image, *, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring an image to a size.

    Parameters
    ----------
    image
        Of the mode "RGB".
    size
        Height and width in pixels.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
    """
    import numpy as np
    from PIL import Image

    height, width = size
    if image.width < width or image.height < height:
        # Enlarged in one way, a line of a hundred million pixels takes more memory than there is. Pillow goes the other
        # way, or says so.
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))
    return np.frombuffer(_shrinking()(image, height, width), np.uint8).reshape(height, width, 3)


@cache
def _shrinking() -> Callable[[Image.Image, int, int], bytes]:
    """Find what there is on this machine; it is given an image, a height and a width."""
    try:
        from cykooz_resizer import FilterType, ImageData, PixelType, ResizeAlg, ResizeOptions, Resizer
    except ModuleNotFoundError:  # there is none for Linux on ARM processors (pyproject.toml)
        return _shrunk_by_pillow
    resizer = Resizer()
    bilinear = ResizeOptions(ResizeAlg.convolution(FilterType.bilinear))

    def shrunk(image: Image.Image, height: int, width: int) -> bytes:
        whole = ImageData(image.width, image.height, PixelType.U8x3, image.tobytes())
        narrow = ImageData(width, image.height, PixelType.U8x3)
        small = ImageData(width, height, PixelType.U8x3)
        # In two steps: in one, it would take the other order.
        resizer.resize(whole, narrow, bilinear)
        resizer.resize(narrow, small, bilinear)
        pixels: bytes = small.get_buffer()
        return pixels

    return shrunk


def _shrunk_by_pillow(image: Image.Image, height: int, width: int) -> bytes:
    from PIL import Image

    # In two steps: in one, it would take the cheaper order.
    narrow = image.resize((width, image.height), Image.Resampling.BILINEAR)
    return narrow.resize((width, height), Image.Resampling.BILINEAR).tobytes()
