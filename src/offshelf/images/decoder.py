"""From encoded bytes to a loaded image: formats, limits, and everything that can be wrong with it."""

from __future__ import annotations

import io
import re
import warnings
from typing import TYPE_CHECKING, Any, Final, TypeVar

from offshelf.images.outcomes import ImageStatus, UnusableImage
from offshelf.images.pixels import upright_image, upright_rgb
from offshelf.images.reasons import TOO_MUCH_MEMORY, TOO_MUCH_TEXT, tiff_layout, why_unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from PIL.ImageFile import ImageFile

Pixels = TypeVar("Pixels")

_FORMATS: Final = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
_NAMES: Final = {"WEBP": "WebP", "PPM": "PNM image"}  # where people call them otherwise
_PREFIX_BYTES: Final = 16  # what Pillow's own tests for a format look at

_EXIF_ORIENTATION: Final = 0x0112
_TIFF_BITS_PER_SAMPLE: Final = 258
_TIFF_COMPRESSION: Final = 259
_TIFF_CHANNELS: Final = 277
_TIFF_PLANES: Final = 284
_TIFF_TILE_WIDTH: Final = 322
_TIFF_TILE_LENGTH: Final = 323
_TIFF_RAW: Final = 1
_TIFF_SEPARATE: Final = 2
_REDUCTIONS: Final = (8, 4, 2)  # that libjpeg has, the largest first


def decode(data: bytes, *, max_pixels: int, enough: int | None = None) -> NDArray[np.uint8]:
    """Decode an image by the policy of this package.

    Parameters
    ----------
    data
        The file's bytes.
    max_pixels
        Most pixels (width times height) that are decoded.
    enough
        Pixels a side that are enough for what comes after. A JPEG that has so many even at a half, a quarter or an
        eighth of its size, on both sides and without a rest, is decoded at that size, which is faster.

    Returns
    -------
    ndarray of uint8, shape (height, width, 3)
        RGB, C-contiguous and writable.

    Raises
    ------
    UnusableImage
        With the status `UNREADABLE` or `TOO_LARGE`. Whatever a parser raises on bad bytes becomes this.
    """
    return _decoded(data, max_pixels, enough, upright_rgb)


def decode_image(data: bytes, *, max_pixels: int, enough: int | None = None) -> Image.Image:
    """Decode an image as `decode` does, to an image of Pillow's in the mode "RGB".

    Most photos come out of their parser so, and are not copied.
    """
    return _decoded(data, max_pixels, enough, upright_image)


def _decoded(data: bytes, max_pixels: int, enough: int | None, finish: Callable[[ImageFile, int], Pixels]) -> Pixels:
    if not data:
        raise UnusableImage(ImageStatus.UNREADABLE, "the file is empty (zero bytes)")
    kind = _kind(data)
    try:
        with warnings.catch_warnings():
            # Whatever this process does about warnings, it is the same image.
            warnings.simplefilter("ignore")
            return finish(*_loaded(kind, data, max_pixels, enough))
    except UnusableImage:
        raise
    except Exception as error:  # parsers fed with arbitrary bytes raise nearly anything
        raise _unusable(kind, data, max_pixels, error) from error


def _kind(data: bytes) -> str:
    """Find the format by the first bytes."""
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

    for name in _FORMATS:
        _, accepts = Image.OPEN[name]
        if accepts is None or accepts(data[:_PREFIX_BYTES]) is True:
            return name
    raise UnusableImage(ImageStatus.UNREADABLE, "not a JPEG, PNG, BMP, GIF, TIFF, WebP or PNM image")


def _loaded(kind: str, data: bytes, max_pixels: int, enough: int | None) -> tuple[ImageFile, int]:
    """Load an image; with its orientation, by EXIF's numbers."""
    from PIL import Image

    # `Image.open` would do, but for its limit on pixels: a warning at 89 and an error at 178 megapixels, set by a
    # global of the process that is not ours to change.
    factory, _ = Image.OPEN[kind]
    with factory(io.BytesIO(data), "") as image:
        for width, height in (image.size, _tile_size(image)):
            if width * height > max_pixels:
                raise _too_large(f"{width} x {height}", max_pixels)
        if not image.width * image.height:
            raise UnusableImage(ImageStatus.UNREADABLE, "the image has no pixels")
        if _is_misread(image):
            raise _unread_tiff(data)
        if enough and image.format in {"JPEG", "MPO"}:
            _reduce(image, enough)
        image.load()
        orientation = _orientation(image)
        # What Pillow decoded from is no longer needed, and WebP's canvases are as large as the image.
        image.fp = None
        vars(image).pop("_decoder", None)
        return image, orientation


def _reduce(image: ImageFile, enough: int) -> None:
    """Have a JPEG decoded at the smallest size that is enough and an exact part of it.

    Exact, because libjpeg rounds up: of sides with a rest, everything would be shifted by a part of a pixel.
    """
    for part in _REDUCTIONS:
        if min(image.size) >= enough * part and not (image.width % part or image.height % part):
            image.draft(None, (image.width // part, image.height // part))
            return


def _tile_size(image: ImageFile) -> tuple[int, int]:
    """Width and height of a TIFF's tiles, each of which is decoded whole, however small the image is."""
    tags: Any = getattr(image, "tag_v2", {})
    return int(tags.get(_TIFF_TILE_WIDTH, 0)), int(tags.get(_TIFF_TILE_LENGTH, 0))


def _is_misread(image: ImageFile) -> bool:
    """Tell whether Pillow takes the bytes of wide numbers for numbers: in separate planes that are not compressed."""
    tags: Any = getattr(image, "tag_v2", {})
    wide = max(tags.get(_TIFF_BITS_PER_SAMPLE, (1,))) > 8  # noqa: PLR2004 - bits of a byte
    planes = tags.get(_TIFF_CHANNELS, 1) > 1 and tags.get(_TIFF_PLANES) == _TIFF_SEPARATE
    return bool(wide and planes and tags.get(_TIFF_COMPRESSION, _TIFF_RAW) == _TIFF_RAW)


def _orientation(image: ImageFile) -> int:
    # TIFFs are turned by Pillow while loading, which then drops the tag.
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # noqa: BLE001 - a picture is not lost for the sake of broken metadata
        return 1


def _unusable(kind: str, data: bytes, max_pixels: int, error: Exception) -> UnusableImage:
    """Say what whatever a parser raised means."""
    from PIL.Image import DecompressionBombError

    name = _NAMES.get(kind, kind)
    if isinstance(error, DecompressionBombError) and len(sizes := re.findall(r"\d+", str(error))) > 1:
        return _too_large(sizes[0], min(max_pixels, int(sizes[1])))
    if isinstance(error, MemoryError):
        return UnusableImage(ImageStatus.TOO_LARGE, TOO_MUCH_MEMORY)
    if TOO_MUCH_TEXT.search(str(error)):
        reason = f"this {name} has comments or a colour profile that unpack to more than is read"
        return UnusableImage(ImageStatus.UNREADABLE, reason)  # whatever the limit on pixels
    if kind == "TIFF" and isinstance(error.__cause__, KeyError):  # a combination that Pillow has no entry for
        return _unread_tiff(data)
    return UnusableImage(ImageStatus.UNREADABLE, why_unreadable(name, error))


def _too_large(size: str, limit: int) -> UnusableImage:
    return UnusableImage(ImageStatus.TOO_LARGE, f"{size} pixels are more than the limit of {limit}")


def _unread_tiff(data: bytes) -> UnusableImage:
    layout = tiff_layout(data)
    reason = f"a TIFF of this kind is not read: {layout}" if layout else "this TIFF is of a kind that is not read here"
    return UnusableImage(ImageStatus.UNREADABLE, reason)
