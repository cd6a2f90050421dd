from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from offshelf.images import ImageStatus, UnusableImage, decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LIMIT = 1_000_000
WHITE = [255, 255, 255]
RED = [255, 0, 0]
BLUE = [0, 0, 255]


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Give the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def rgb(data: bytes, limit: int = LIMIT) -> NDArray[np.uint8]:
    """Decode what must be usable."""
    return decode(data, max_pixels=limit)


def refusal(data: bytes, limit: int = LIMIT) -> UnusableImage:
    """Decode what must not be usable; the reason is fit to be shown."""
    with pytest.raises(UnusableImage) as caught:
        decode(data, max_pixels=limit)
    reason = caught.value.reason
    assert reason
    assert "\n" not in reason
    assert "0x" not in reason
    assert "BytesIO" not in reason
    return caught.value


def photo(width: int = 40, height: int = 30) -> Image.Image:
    """Make a picture that compresses badly."""
    ramp = np.arange(width * height * 3, dtype=np.uint32).reshape(height, width, 3)
    return Image.fromarray((ramp * 7 % 256).astype(np.uint8))


def halves() -> Image.Image:
    """Red on the left, blue on the right; 2 high and 4 wide."""
    image = Image.new("RGB", (4, 2), "red")
    image.paste((0, 0, 255), (2, 0, 4, 2))
    return image


def tiff(bits: int, photometric: int, width: int, height: int, pixels: bytes, sample_format: int = 1) -> bytes:
    """Make an uncompressed little-endian TIFF of one channel."""
    entries = [
        (256, 4, width),
        (257, 4, height),
        (258, 3, bits),
        (259, 3, 1),
        (262, 3, photometric),
        (273, 4, 8),
        (277, 3, 1),
        (278, 4, height),
        (279, 4, len(pixels)),
        (339, 3, sample_format),
    ]
    directory = struct.pack("<H", len(entries))
    for tag, kind, value in entries:
        directory += struct.pack("<HHI", tag, kind, 1) + struct.pack(
            "<HH" if kind == 3 else "<I", *([value, 0][: 5 - kind])
        )
    padding = b"\0" * (len(pixels) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(pixels) + len(padding)) + pixels + padding + directory + b"\0" * 4


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM"])
def test_lossless_formats_give_back_the_pixels(kind: str) -> None:
    """A colour picture in a lossless format becomes exactly its pixels, as a writable array in C order."""
    pixels = rgb(encoded(photo(), kind))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (30, 40, 3)
    assert pixels.flags.c_contiguous
    assert pixels.flags.writeable
    assert (pixels == np.asarray(photo())).all()


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_lossy_formats_are_read(kind: str) -> None:
    """A picture in a lossy format becomes RGB pixels of its size."""
    flat = Image.new("RGB", (24, 16), (200, 100, 50))
    pixels = rgb(encoded(flat, kind))
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels.astype(int) - [200, 100, 50]).max() < 12


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize(
    ("orientation", "undo"),
    [
        (1, lambda seen: seen),
        (2, np.fliplr),
        (3, lambda seen: np.rot90(seen, 2)),
        (4, np.flipud),
        (5, lambda seen: np.swapaxes(seen, 0, 1)),
        (6, lambda seen: np.rot90(seen, 1)),
        (7, lambda seen: np.rot90(np.swapaxes(seen, 0, 1), 2)),
        (8, lambda seen: np.rot90(seen, -1)),
    ],
)
def test_exif_orientation_is_applied_once(
    kind: str, orientation: int, undo: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]
) -> None:
    """A photo taken with a turned camera is seen upright, in every format that can say so."""
    upright = np.zeros((32, 64, 3), dtype=np.uint8)
    upright[:16, :32] = 255
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    stored = Image.fromarray(np.ascontiguousarray(undo(upright)))
    pixels = rgb(encoded(stored, kind, exif=exif, **options))
    assert pixels.shape == upright.shape
    assert np.abs(pixels.astype(int) - upright).max() < 60


def test_broken_exif_counts_as_none() -> None:
    """A photo whose metadata is damaged is still used."""
    data = encoded(photo(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert rgb(data).shape == (30, 40, 3)


def test_greyscale_becomes_three_equal_channels() -> None:
    """A grey picture gives the same value in red, green and blue."""
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = rgb(encoded(Image.fromarray(ramp), "PNG"))
    assert (pixels == ramp[:, :, None]).all()


def test_one_bit_becomes_black_and_white() -> None:
    """A black-and-white scan gives 0 and 255."""
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert rgb(encoded(image, "PNG")).tolist() == [[[0, 0, 0], WHITE]]


def test_palette_is_looked_up() -> None:
    """A picture with a palette gives its colours, not their numbers."""
    assert rgb(encoded(halves().quantize(2), "PNG"))[0].tolist() == [RED, RED, BLUE, BLUE]


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_shows_white(mode: str) -> None:
    """A transparent pixel is white, a half transparent black one grey, whatever colour lies under it."""
    image = Image.new(mode, (3, 1))
    for x, alpha in enumerate((0, 128, 255)):
        image.putpixel((x, 0), (0, 0, 0, alpha) if mode == "RGBA" else (0, alpha))
    assert rgb(encoded(image, "PNG"))[0, :, 0].tolist() == [255, 127, 0]


@pytest.mark.parametrize("mode", ["P", "RGB", "L"])
def test_a_transparent_colour_shows_white(mode: str) -> None:
    """A picture in which one colour means transparent is white there."""
    image = Image.new(mode, (2, 1))
    colours: dict[str, Any] = {"P": 1, "RGB": (10, 20, 30), "L": 7}
    if mode == "P":
        image.putpalette([0, 0, 0, 10, 20, 30])
    image.putpixel((1, 0), colours[mode])
    transparent = {"P": 0, "RGB": (0, 0, 0), "L": 0}[mode]
    pixels = rgb(encoded(image, "PNG", transparency=transparent))
    assert pixels[0, 0].tolist() == WHITE
    assert pixels[0, 1].tolist() == ([7, 7, 7] if mode == "L" else [10, 20, 30])


def test_cmyk_is_converted() -> None:
    """A picture made for print shows its colours and not their negative."""
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):
        red, green, blue = rgb(encoded(cyan, kind))[4, 4].tolist()
        assert red < 10
        assert min(green, blue) > 245


def test_lab_is_converted() -> None:
    """A TIFF in the Lab colour space becomes RGB."""
    assert rgb(encoded(Image.new("LAB", (4, 4), (255, 128, 128)), "TIFF")).min() > 245


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    """A 16-bit picture spans black to white and is not clipped to white."""
    values = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)
    pixels = rgb(encoded(Image.fromarray(values), kind))
    assert (pixels == (values >> 8)[:, :, None]).all()


def test_sixteen_bit_big_endian_is_read() -> None:
    """A 16-bit TIFF with the other byte order gives the same picture."""
    values = np.array([[0, 1000, 65535]], dtype=">u2")
    image = Image.frombytes("I;16B", (3, 1), values.tobytes())
    assert rgb(encoded(image, "TIFF"))[0, :, 0].tolist() == [0, 3, 255]


def test_tiff_with_zero_as_white_is_inverted() -> None:
    """A 16-bit scan whose file says that 0 is white is not seen as its negative."""
    data = tiff(16, 0, 2, 1, struct.pack("<2H", 0, 65535))
    assert rgb(data)[0, :, 0].tolist() == [255, 0]


def test_twelve_bits_use_their_own_range() -> None:
    """A 12-bit picture spans black to white and is not sixteen times too dark."""
    data = tiff(12, 1, 2, 1, bytes([0x00, 0x0F, 0xFF]))
    assert rgb(data)[0, :, 0].tolist() == [0, 255]


def test_signed_integers_span_their_values() -> None:
    """A picture of signed numbers, as scanners write, runs from its smallest to its largest."""
    data = tiff(16, 1, 3, 1, struct.pack("<3h", -1000, 0, 1000), sample_format=2)
    assert rgb(data)[0, :, 0].tolist() == [0, 128, 255]


def test_wide_integers_span_their_values() -> None:
    """A picture of 32-bit numbers, small or huge, is neither black nor clipped."""
    for top in (200, 2_000_000):
        image = Image.fromarray(np.array([[0, top // 2, top]], dtype=np.int32))
        assert rgb(encoded(image, "TIFF"))[0, :, 0].tolist() == [0, 128, 255]


def test_floats_span_their_finite_values() -> None:
    """A picture of floats runs from its smallest to its largest, whatever is not a number in it."""
    values = np.array([[-1.0, 0.0, 1.0, np.nan, np.inf, -np.inf]], dtype=np.float32)
    assert rgb(encoded(Image.fromarray(values), "TIFF"))[0, :, 0].tolist() == [0, 128, 255, 0, 255, 0]
    for flat in (5.0, float("nan")):
        constant = np.full((2, 2), flat, dtype=np.float32)
        assert rgb(encoded(Image.fromarray(constant), "TIFF")).max() == 0
    extreme = np.array([[-3e38, 3e38]], dtype=np.float32)
    assert rgb(encoded(Image.fromarray(extreme), "TIFF"))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG", "MPO"])
def test_first_page_or_frame_counts(kind: str) -> None:
    """Of several pages or frames the first is seen."""
    first, second = Image.new("RGB", (8, 8), "red"), Image.new("RGB", (8, 8), "blue")
    options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
    red, _, blue = rgb(encoded(first, kind, save_all=True, append_images=[second], **options))[4, 4].tolist()
    assert red > 245
    assert blue < 10


def test_colour_profiles_are_ignored() -> None:
    """A colour profile, even a broken one, does not change the pixels."""
    with_profile = encoded(photo(), "PNG", icc_profile=b"no profile at all")
    assert (rgb(with_profile) == np.asarray(photo())).all()


def test_one_pixel_is_an_image() -> None:
    """A picture of one pixel is decoded."""
    assert rgb(encoded(Image.new("RGB", (1, 1), "red"), "PNG")).tolist() == [[RED]]


def test_empty_file_is_unreadable() -> None:
    """A file of zero bytes is put aside and the reason says so."""
    error = refusal(b"")
    assert error.status is ImageStatus.UNREADABLE
    assert "empty" in error.reason


@pytest.mark.parametrize(
    "data", [b"These are my notes.\n" * 50, b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"%PDF-1.7", b"P", b"\0" * 99]
)
def test_other_files_are_unreadable(data: bytes) -> None:
    """A text or another kind of file that is named like an image is put aside."""
    assert refusal(data).status is ImageStatus.UNREADABLE


def test_formats_off_the_list_reach_no_parser() -> None:
    """An image in a format that is not on the list is refused by its first bytes."""
    for kind in ("ICO", "TGA", "PCX", "SGI", "EPS", "JPEG2000"):
        assert "not a JPEG" in refusal(encoded(photo(), kind)).reason


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_truncated_files_are_unreadable(kind: str) -> None:
    """Half a file is put aside, and never padded with grey."""
    data = encoded(photo(200, 100), kind)
    for part in (0.05, 0.5, 0.9):
        assert refusal(data[: int(len(data) * part)]).status is ImageStatus.UNREADABLE


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_damaged_files_raise_nothing_else(kind: str) -> None:
    """Whatever is wrong with a file, it is decoded or put aside; nothing else is raised."""
    random = np.random.default_rng(0)
    data = np.frombuffer(encoded(photo(), kind), dtype=np.uint8)
    for _ in range(60):
        damaged = data.copy()
        damaged[random.integers(0, len(data), 6)] = random.integers(0, 256, 6)
        with contextlib.suppress(UnusableImage):
            assert rgb(damaged.tobytes()).ndim == 3


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
def test_too_many_pixels_are_refused(kind: str) -> None:
    """An image over the limit is too large, and one at the limit is not."""
    data = encoded(photo(40, 30), kind)
    assert rgb(data, limit=1200).shape == (30, 40, 3)
    error = refusal(data, limit=1199)
    assert error.status is ImageStatus.TOO_LARGE
    assert "40 x 30" in error.reason


def test_size_is_judged_by_the_header() -> None:
    """A bomb of a few bytes that declares ten gigapixels is too large, though its pixels are not even there."""
    header = struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    idat = b"IDAT" + zlib.compress(b"")
    data += struct.pack(">I", len(idat) - 4) + idat + struct.pack(">I", zlib.crc32(idat))
    assert refusal(data, limit=100_000_000).status is ImageStatus.TOO_LARGE


def test_sizes_between_both_limits_are_decoded() -> None:
    """An image of 95 megapixels is decoded in silence under a limit of 100, though Pillow warns from 89."""
    image = Image.new("1", (9500, 10_000))
    assert rgb(encoded(image, "PNG"), limit=100_000_000).shape == (10_000, 9500, 3)


def test_text_bombs_are_refused() -> None:
    """A PNG whose comment unpacks to much more than it weighs is put aside."""
    comments = PngImagePlugin.PngInfo()
    comments.add_text("comment", "x" * 20_000_000, zip=True)
    assert refusal(encoded(photo(), "PNG", pnginfo=comments)).status is ImageStatus.UNREADABLE


def test_import_is_light() -> None:
    """Importing the decoder's module loads neither Pillow nor NumPy, so that whatever names a status stays light."""
    code = "import sys, offshelf.images; print(sorted({'PIL', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_real_photos_are_decoded() -> None:
    """Photographs as they come from a camera are decoded."""
    material = os.environ.get("OFFSHELF_TEST_MATERIAL")
    if not material:
        pytest.skip("OFFSHELF_TEST_MATERIAL names no folder with photographs")
    photos = sorted((Path(material) / "images").rglob("*.jpg"))[:20]
    assert photos
    for path in photos:
        pixels = rgb(path.read_bytes(), limit=100_000_000)
        assert pixels.ndim == 3
        assert pixels.std() > 0
