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
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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
_TIFF_CHANNELS = 277
_TIFF_SAMPLE_FORMAT = 339
_TIFF_HEADER_BYTES = 16
_TIFF_TILE_WIDTH, _TIFF_TILE_LENGTH = 322, 323
_LYING = (5, 6, 7, 8)  # EXIF's orientations that exchange width and height
_STEPS = {2: (1, -1), 3: (-1, -1), 4: (-1, 1), 6: (-1, 1), 7: (-1, -1), 8: (1, -1)}  # and those that reverse them
_PIECE_PIXELS = 1 << 20
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
        raise UnusableImage(ImageStatus.TOO_LARGE, "decoding it takes more memory than an image may") from error
    except Exception as error:  # parsers fed with arbitrary bytes raise nearly anything
        raise UnusableImage(ImageStatus.UNREADABLE, f"damaged or truncated: {_plain(error)}") from error


def _decode(data: bytes, max_pixels: int) -> NDArray[np.uint8]:
    with _open(data) as image:
        for width, height in (image.size, _tile_size(image)):
            if width * height > max_pixels:
                raise UnusableImage(
                    ImageStatus.TOO_LARGE, f"{width} x {height} pixels are more than the limit of {max_pixels}"
                )
        if not image.width * image.height:
            raise UnusableImage(ImageStatus.UNREADABLE, "the image has no pixels")
        image.load()
        orientation = _orientation(image)
        # What Pillow decoded from is no longer needed, and WebP's canvases are as large as the image.
        image.fp = None
        vars(image).pop("_decoder", None)
        return _pixels(image, orientation)


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
        if accepts is not None and accepts(prefix) is not True:
            continue
        try:
            return factory(io.BytesIO(data), "")
        except Exception as error:
            if name == "TIFF" and (layout := _tiff_layout(data)):
                reason = f"a TIFF of this kind is not read: {layout}"
                raise UnusableImage(ImageStatus.UNREADABLE, reason) from error
            raise
    raise UnusableImage(ImageStatus.UNREADABLE, "not a JPEG, PNG, BMP, GIF, TIFF, WebP or PNM image")


def _tiff_layout(data: bytes) -> str:
    """Describe the pixels of a TIFF that Pillow does not take; empty if its header tells nothing."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        tags = ImageFileDirectory_v2(data[:_TIFF_HEADER_BYTES])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        channels = int(tags[_TIFF_CHANNELS])
        bits, kinds = tags[_TIFF_BITS_PER_SAMPLE], tags.get(_TIFF_SAMPLE_FORMAT, (1,))
        numbers = {1: "unsigned", 2: "signed", 3: "float"}.get(int(kinds[0]), "other")
        return f"{channels} channel{'s'[: channels - 1]} of {int(bits[0])}-bit {numbers} numbers"
    except Exception:  # noqa: BLE001 - then it is simply damaged
        return ""


def _orientation(image: ImageFile) -> int:
    # TIFFs are turned by Pillow while loading, which then drops the tag.
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a picture is not lost for the sake of broken metadata
        return 1


def _tile_size(image: ImageFile) -> tuple[int, int]:
    """Width and height of a TIFF's tiles, each of which is decoded whole, however small the image is."""
    tags: Any = getattr(image, "tag_v2", {})
    return int(tags.get(_TIFF_TILE_WIDTH, 0)), int(tags.get(_TIFF_TILE_LENGTH, 0))


def _pixels(image: ImageFile, orientation: int) -> NDArray[np.uint8]:
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


def _plain(error: BaseException) -> str:
    """Make one plain line of what a parser said."""
    # A LookupError's text is what was looked up, which tells nobody anything.
    said = type(error).__name__ if isinstance(error, LookupError) else str(error) or type(error).__name__
    text = re.sub(r"<[^<>]*>|\b(at )?0x[0-9a-fA-F]{6,}", "the file", said)
    text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split())[:_LONGEST_REASON]
