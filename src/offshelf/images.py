"""THE decoder: encoded bytes in, RGB pixels out, by one written policy.

Every extractor and the predictor see an image through this module only. What it does is part of each extractor's
fingerprint by `DECODER_VERSION`: raise that number with any change that can change a pixel.

========================  =============================================================================================
formats                   JPEG (MPO too), PNG, BMP, GIF, TIFF, WebP, PBM/PGM/PPM, told by their first bytes and never by
                          the file's name. No other parser is reached.
rotation                  EXIF orientation is applied (mirroring too). Orientation that cannot be parsed counts as none.
8-bit greyscale, 1 bit    three equal channels.
palette                   looked up.
transparency              composited on white, as pages and viewers show it; the colours hidden under transparent pixels
                          are what the drawing program left there.
16-bit greyscale          the high byte, as in 16-bit colour: 0 to 65535 become 0 to 255 linearly, nothing is clipped.
                          A TIFF that declares 12 bits is taken as 0 to 4095; one where 0 is white is inverted.
32-bit, signed or float   have no range of their own: the smallest value becomes 0, the largest 255, linearly. NaN and
                          minus infinity become 0, infinity 255.
CMYK, YCbCr, Lab          converted by Pillow's formulas; CMYK JPEGs are taken as inverted, as Adobe writes them.
colour profiles           ignored: the networks were trained on pictures read without them.
several pages or frames   the first.
truncated                 unreadable: half a picture is not what was labelled.
size                      over `max_pixels` by the header is too large, before anything is decoded. Pillow's own limit
                          of 178 megapixels stays in force for WebP, MPO and tiled TIFF.
========================  =============================================================================================
"""

from __future__ import annotations

import io
import re
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from PIL.ImageFile import ImageFile

DECODER_VERSION = 1
"""Version of the policy above; part of every extractor's fingerprint."""

_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_PREFIX_BYTES = 16  # what Pillow's own tests for a format look at

_EXIF_ORIENTATION = 0x0112
_TIFF_BITS_PER_SAMPLE = 258
_TIFF_PHOTOMETRIC = 262
_LONGEST_REASON = 160


class ImageStatus(StrEnum):
    """What became of an image."""

    OK = "ok"
    UNREADABLE = "unreadable"
    """The bytes are no image that is read here: empty, truncated, another kind of file."""
    TOO_LARGE = "too_large"
    """More pixels than the limit."""
    CRASHED = "crashed"
    """Decoding it ended the decoder's process."""
    HUNG = "hung"
    """Decoding it took longer than the limit."""


class UnusableImage(Exception):
    """An image that is put aside; no error of the program, so not an `OffshelfError`.

    Parameters
    ----------
    status
        Why, for programs.
    reason
        Why, for people: one plain line without a path.
    """

    def __init__(self, status: ImageStatus, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return self.reason


def decode(data: bytes, *, max_pixels: int) -> NDArray[np.uint8]:
    """Decode an image by the policy of this module.

    Parameters
    ----------
    data
        The file's bytes.
    max_pixels
        Most pixels (width times height) that are decoded.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        RGB, C-contiguous and writable.

    Raises
    ------
    UnusableImage
        With the status `UNREADABLE` or `TOO_LARGE`. Whatever a parser raises on bad bytes becomes this.
    """
    from PIL.Image import DecompressionBombError

    if not data:
        raise UnusableImage(ImageStatus.UNREADABLE, "the file is empty (zero bytes)")
    try:
        return _decode(data, max_pixels)
    except UnusableImage:
        raise
    except DecompressionBombError as error:
        raise UnusableImage(ImageStatus.TOO_LARGE, _plain(error)) from error
    except MemoryError as error:
        raise UnusableImage(ImageStatus.UNREADABLE, "decoding it needs more memory than there is") from error
    except Exception as error:  # parsers fed with arbitrary bytes raise nearly anything
        raise UnusableImage(ImageStatus.UNREADABLE, f"damaged or truncated: {_plain(error)}") from error


def _decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    import numpy as np

    with _open(data) as image:
        width, height = image.size
        if width * height > max_pixels:
            raise UnusableImage(
                ImageStatus.TOO_LARGE, f"{width} x {height} pixels are more than the limit of {max_pixels}"
            )
        if not width * height:
            raise UnusableImage(ImageStatus.UNREADABLE, "the image has no pixels")
        image.load()
        return np.array(_turned(_to_rgb(image), _orientation(image)), dtype=np.uint8, order="C")


def _open(data: bytes) -> ImageFile:
    """Find the format by the first bytes and read the header.

    `PIL.Image.open` would do, but for its limit on pixels: a warning at 89 and an error at 178 megapixels, set by a
    global of the process that is not ours to change.
    """
    from PIL import (
        BmpImagePlugin,  # noqa: F401 - importing a plugin registers its format
        GifImagePlugin,  # noqa: F401
        Image,
        JpegImagePlugin,  # noqa: F401
        PngImagePlugin,  # noqa: F401
        PpmImagePlugin,  # noqa: F401
        TiffImagePlugin,  # noqa: F401
        WebPImagePlugin,  # noqa: F401
    )

    prefix = data[:_PREFIX_BYTES]
    for name in _FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is None or accepts(prefix) is True:
            return factory(io.BytesIO(data), "")
    raise UnusableImage(ImageStatus.UNREADABLE, "not a JPEG, PNG, BMP, GIF, TIFF, WebP or PNM image")


def _orientation(image: ImageFile) -> int:
    # TIFFs are turned by Pillow while loading, which then drops the tag.
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a picture is not lost for the sake of broken metadata
        return 1


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    from PIL.Image import Transpose

    turns = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }
    return image.transpose(turns[orientation]) if orientation in turns else image


def _to_rgb(image: ImageFile) -> Image.Image:
    from PIL import Image

    if image.mode.startswith("I;16"):
        return Image.fromarray(_high_byte(image)).convert("RGB")
    if image.mode == "I" and image.format != "TIFF":
        # Pillow reads a PGM of more than 8 bits so, scaled to 16 bits.
        return Image.fromarray(_high_byte(image)).convert("RGB")
    if image.mode in {"I", "F"}:
        return Image.fromarray(_stretched(image)).convert("RGB")
    if image.has_transparency_data:
        # Premultiplied colours convert only to their plain sibling.
        plain = image.convert({"La": "LA"}.get(image.mode, "RGBA")).convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", plain.size, "white"), plain).convert("RGB")
    return image.convert("RGB")


def _high_byte(image: ImageFile) -> NDArray[np.uint8]:
    """Scale unsigned integers of at most 16 bits to 8 bits."""
    import numpy as np

    tags: Any = getattr(image, "tag_v2", {})
    bits = int(tags.get(_TIFF_BITS_PER_SAMPLE, (16,))[0])
    grey = (np.asarray(image) >> (bits - 8)).astype(np.uint8)
    return 255 - grey if tags.get(_TIFF_PHOTOMETRIC) == 0 else grey


def _stretched(image: ImageFile) -> NDArray[np.uint8]:
    """Scale values without a range of their own from smallest to largest."""
    import numpy as np

    values = np.asarray(image).astype(np.float32)
    finite = np.isfinite(values)
    if not finite.any():
        return np.zeros(values.shape, dtype=np.uint8)
    low, high = float(values[finite].min()), float(values[finite].max())
    values = np.nan_to_num(values, nan=low, neginf=low, posinf=high)
    # In two steps, since the distance of the largest floats is itself too large for one.
    half = high / 2 - low / 2
    scaled = (values / 2 - low / 2) / half if half else np.zeros_like(values)
    return np.rint(scaled * 255).astype(np.uint8)


def _plain(error: BaseException) -> str:
    """Make one plain line of what a parser said."""
    text = re.sub(r"<[^<>]*>|\b(at )?0x[0-9a-fA-F]{6,}", "the file", str(error) or type(error).__name__)
    text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())[:_LONGEST_REASON]
