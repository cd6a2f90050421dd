"""From a loaded image to RGB pixels that stand upright, piece by piece."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from PIL.ImageFile import ImageFile

_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_LYING = (5, 6, 7, 8)  # EXIF's orientations that exchange width and height
_STEPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}  # and those that reverse them
_PIECE_PIXELS = 1 << 20


def upright_rgb(image: ImageFile, orientation: int) -> NDArray[np.uint8]:
    """Convert a loaded image to RGB and turn it upright.

    Piece by piece into the array that is returned: on the whole, each step would be another copy of the image.
    """
    import numpy as np

    to_rgb = _conversion(image)
    width, height = image.size
    upright = np.empty((width, height, 3) if orientation in _LYING else (height, width, 3), dtype=np.uint8)
    stored = _as_stored(upright, orientation)
    for left, top, right, bottom in _boxes(image):
        stored[top:bottom, left:right] = to_rgb(image.crop((left, top, right, bottom)))
    return upright


def upright_image(image: ImageFile, orientation: int) -> Image.Image:
    """Convert a loaded image to RGB and turn it upright, or give it as it is if it is both."""
    from PIL import Image

    if image.mode == "RGB" and orientation not in (*_STEPS, *_LYING) and not image.has_transparency_data:
        return image
    return Image.fromarray(upright_rgb(image, orientation))


def _boxes(image: ImageFile) -> Iterator[tuple[int, int, int, int]]:
    """Cover an image by boxes of few pixels: left, top, right, bottom."""
    columns = min(image.width, _PIECE_PIXELS)
    rows = _PIECE_PIXELS // columns
    for top in range(0, image.height, rows):
        for left in range(0, image.width, columns):
            yield left, top, min(left + columns, image.width), min(top + rows, image.height)


def _as_stored(upright: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """See the array of an upright image as its file has it, by the meaning of EXIF's numbers."""
    down, across = _STEPS.get(orientation, (1, 1))
    return (upright.swapaxes(0, 1) if orientation in _LYING else upright)[::down, ::across]


def _conversion(image: ImageFile) -> Callable[[Image.Image], NDArray[np.uint8]]:
    """Choose how pieces of an image become RGB; shape (height, width, 3), or (height, width, 1) for grey."""
    import numpy as np

    # Pillow reads a PGM of more than 8 bits as "I", scaled to 16 bits.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format != "TIFF"):
        tags: Any = getattr(image, "tag_v2", {})
        bits = int(tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0])
        return partial(_high_byte, bits=bits, inverted=tags.get(_TIFF_PHOTOMETRIC) == 0)
    if image.mode in {"I", "F"}:
        return partial(_stretched, extent=_extent(image))
    if image.has_transparency_data:
        return lambda piece: np.asarray(_on_white(piece))
    return lambda piece: np.asarray(piece if piece.mode == "RGB" else piece.convert("RGB"))


def _on_white(piece: Image.Image) -> Image.Image:
    from PIL import Image

    # Premultiplied colours convert only to their plain sibling.
    plain = piece.convert({"La": "LA"}.get(piece.mode, "RGBA")).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain).convert("RGB")


def _high_byte(piece: Image.Image, *, bits: int, inverted: bool) -> NDArray[np.uint8]:
    """Scale unsigned integers of at most 16 bits to 8 bits."""
    import numpy as np

    grey = (np.asarray(piece) >> (bits - 8)).astype(np.uint8)[:, :, None]
    return 255 - grey if inverted else grey


def _extent(image: ImageFile) -> tuple[float, float]:
    """Smallest and largest value of an image; NaN twice if it has none that is finite."""
    import numpy as np

    low, high = float("inf"), float("-inf")
    for box in _boxes(image):
        values = np.asarray(image.crop(box)).astype(np.float32)
        values = values[np.isfinite(values)]
        if values.size:
            low, high = min(low, float(values.min())), max(high, float(values.max()))
    return (low, high) if low <= high else (float("nan"), float("nan"))


def _stretched(piece: Image.Image, *, extent: tuple[float, float]) -> NDArray[np.uint8]:
    """Scale values without a range of their own from smallest to largest."""
    import numpy as np

    low, high = extent
    values = np.nan_to_num(np.asarray(piece).astype(np.float32), nan=low, neginf=low, posinf=high)
    # In two steps, since the distance of the largest floats is itself too large for one.
    half = high / 2 - low / 2
    scaled = (values / 2 - low / 2) / half if half > 0 else np.zeros_like(values)
    return np.rint(scaled * 255).astype(np.uint8)[:, :, None]
