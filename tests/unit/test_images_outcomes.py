"""What becomes of every kind of image: its pixels, or a status and a reason."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from offshelf.images import ImageStatus, UnusableImage, decode
from offshelf.workers.memory import more_memory_at_most
from tests.unit.odd_images import (
    bmp,
    chunk,
    encoded,
    hostile,
    one_of_each_kind,
    picture,
    png,
    tiff,
    with_jpeg_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

LIMIT = 100_000_000
KINDS = one_of_each_kind()
PHOTO = picture()
COLOURS = np.asarray(PHOTO)
SIZE = PHOTO.size
JPEG = encoded(PHOTO, "JPEG")
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")

LOSSY = {"jpeg", "jpeg progressive", "mpo", "webp", "webp animated", "tiff jpeg", "gif", "gif animated"}
TURNED = {"jpeg", "png", "webp"}
"""Those of the kinds whose EXIF data says that they lie on the side."""

PLAIN = re.compile(r"[A-Za-z0-9 ,:()-]+")
JARGON = re.compile(r"0x|Error|Plugin|decoder|chunk|buffer|stream|bytes-like|DOS")


def rgb(data: bytes, **options: Any) -> NDArray[np.uint8]:
    """Decode what must be usable."""
    return decode(data, **({"max_pixels": LIMIT} | options))


def refused(data: bytes, **options: Any) -> tuple[ImageStatus, str]:
    """Decode what must not be usable; the reason is fit to be shown."""
    with pytest.raises(UnusableImage) as caught:
        decode(data, **({"max_pixels": LIMIT} | options))
    assert_plain(caught.value.reason)
    return caught.value.status, caught.value.reason


def assert_plain(reason: str) -> None:
    """Hold a reason to be one short line of words: nothing of the parser's, and nothing of the file's."""
    assert PLAIN.fullmatch(reason), reason
    assert not JARGON.search(reason), reason
    assert len(reason) < 120


def channels(count: int, kind: str = "u1") -> NDArray[Any]:
    """Repeat the photo's channels, in 8 bits or wider."""
    scale = 257 if np.dtype(kind).itemsize > 1 else 1
    return np.stack([COLOURS[..., number % 3].astype(kind) * scale for number in range(count)], axis=-1)


def rows_of(pixels: NDArray[Any]) -> bytes:
    """Give the rows of a PNG without filters."""
    return b"".join(b"\0" + row.tobytes() for row in np.ascontiguousarray(pixels))


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_every_kind_shows_its_picture(kind: str) -> None:
    """Whatever format and flavour a picture is saved in, the same picture is seen; to the pixel where that can be."""
    pixels = rgb(KINDS[kind])
    assert pixels.dtype == np.uint8
    if kind in {"ppm in words", "pfm"}:
        expected = {"ppm in words": np.array([1, 2, 3]), "pfm": np.array([[[170], [255]], [[0], [85]]])}[kind]
        assert (pixels == np.broadcast_to(expected, (2, 2, 3))).all()
        return
    expected = shown(kind)
    assert pixels.shape == expected.shape
    difference = np.abs(pixels.astype(int) - expected)
    if kind in LOSSY | {"jpeg grey", "jpeg cmyk"}:
        assert difference.mean() < 8
    else:
        # Pillow's conversion to CMYK, palettes and blending round; nothing else may.
        assert difference.max() <= (1 if kind == "webp lossless" else 0)


def shown(kind: str) -> NDArray[np.uint8]:
    """Make what should be seen of one of the kinds."""
    grey = np.repeat(np.asarray(PHOTO.convert("L"))[..., None], 3, axis=-1)
    red = np.repeat(COLOURS[..., :1], 3, axis=-1)
    flat = np.asarray(PHOTO.quantize(16).convert("RGB"))
    transparent = PHOTO.copy()
    transparent.putalpha(picture(1).convert("L"))
    on_white = Image.alpha_composite(Image.new("RGBA", SIZE, "white"), transparent).convert("RGB")
    one_bit = np.repeat(np.asarray(PHOTO.convert("1").convert("L"))[..., None], 3, axis=-1)
    levels = COLOURS[..., 0].astype(np.float32)
    stretched = np.rint((levels - levels.min()) / (levels.max() - levels.min()) * 255).astype(np.uint8)
    white = np.asarray(PHOTO.quantize(16))[..., None] == 3
    special: dict[str, NDArray[np.uint8]] = {
        "jpeg grey": grey,
        "pgm": grey,
        "jpeg cmyk": COLOURS,
        "png palette": np.where(white, np.uint8(255), flat),
        "bmp palette": flat,
        "bmp run lengths": np.full_like(COLOURS, 0x40),
        "png transparent": np.asarray(on_white),
        "webp lossless": np.asarray(on_white),
        "pbm": one_bit,
        "tiff group 4": one_bit,
        "tiff grey 16 bits": red,
        "pgm 16 bits": red,
        "tiff float": np.repeat(stretched[..., None], 3, axis=-1),
    }
    upright = special.get(kind, COLOURS)
    return np.rot90(upright, -1) if kind in TURNED or kind == "tiff" else upright


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("count", [1, 3, 4])
@pytest.mark.parametrize("deflated", [False, True])
def test_sixteen_bits_of_a_tiff_are_those_of_eight(order: str, count: int, *, deflated: bool) -> None:
    """A scan of 16 bits a channel shows what the same scan of 8 bits shows, and is not clipped to white."""
    options: dict[str, Any] = {"photometric": 1 if count == 1 else 2, "deflated": deflated}
    if count > 3:
        options["extra"] = [2]
    wide = tiff(channels(count, f"{order}u2").tobytes(), SIZE, [16] * count, order=order, **options)
    narrow = tiff(channels(count).tobytes(), SIZE, [8] * count, **options)
    assert (rgb(wide) == rgb(narrow)).all()
    assert rgb(wide).std() > 10


@pytest.mark.parametrize(("colour", "count"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_a_png_are_those_of_eight(colour: int, count: int) -> None:
    """A PNG of 16 bits, grey or in colour, with transparency or without, shows what that of 8 bits shows."""
    wide = png(SIZE, rows_of(channels(count, ">u2")), depth=16, colour=colour)
    narrow = png(SIZE, rows_of(channels(count)), colour=colour)
    assert np.abs(rgb(wide).astype(int) - rgb(narrow)).max() <= 1
    assert rgb(wide).std() > 10


@pytest.mark.parametrize(("magic", "count"), [(b"P5", 1), (b"P6", 3)])
def test_sixteen_bits_of_a_pnm_are_those_of_eight(magic: bytes, count: int) -> None:
    """A PGM or PPM of 16 bits shows what that of 8 bits shows."""
    wide = magic + b" 48 40 65535\n" + channels(count, ">u2").tobytes()
    narrow = magic + b" 48 40 255\n" + channels(count).tobytes()
    assert (rgb(wide) == rgb(narrow)).all()


def test_print_colours_of_sixteen_bits_are_those_of_eight() -> None:
    """A CMYK TIFF of 16 bits shows what that of 8 bits shows."""
    wide = tiff(channels(4, "<u2").tobytes(), SIZE, [16] * 4, photometric=5)
    assert (rgb(wide) == rgb(tiff(channels(4).tobytes(), SIZE, [8] * 4, photometric=5))).all()


def test_planes_of_a_tiff_are_put_together() -> None:
    """A TIFF in separate planes shows its picture, of 16 bits too if it is compressed; else it is put aside."""
    narrow, wide = (np.moveaxis(channels(3, kind), -1, 0).tobytes() for kind in ("u1", "<u2"))
    for planes, bits in ((narrow, 8), (wide, 16)):
        pixels = rgb(tiff(planes, SIZE, [bits] * 3, photometric=2, planes=3, deflated=True))
        assert (pixels == COLOURS).all()
    status, reason = refused(tiff(wide, SIZE, [16] * 3, photometric=2, planes=3))
    assert status is ImageStatus.UNREADABLE
    assert reason.endswith("3 channels of 16-bit unsigned numbers in separate planes")
    assert (rgb(tiff(channels(1, "<u2").tobytes(), SIZE, [16])) == COLOURS[..., :1]).all()


@pytest.mark.parametrize(("extra", "seen"), [([0, 0], "colours"), ([2, 0], "on white"), ([], "")])
def test_five_channels(extra: Sequence[int], seen: str) -> None:
    """A TIFF of five channels is used if it says what the last two are, and is put aside with what it holds if not."""
    data = tiff(channels(5).tobytes(), SIZE, [8] * 5, photometric=2, extra=extra)
    if seen == "colours":
        assert (rgb(data) == COLOURS).all()
    elif seen:
        four = tiff(channels(4).tobytes(), SIZE, [8] * 4, photometric=2, extra=[2])
        assert (rgb(data) == rgb(four)).all()
    else:
        reason = "a TIFF of this kind is not read: 5 channels of 8-bit unsigned numbers"
        assert refused(data) == (ImageStatus.UNREADABLE, reason)


@pytest.mark.parametrize(
    ("count", "kind", "holds"),
    [
        (3, "<f4", "3 channels of 32-bit float"),
        (1, "<f8", "1 channel of 64-bit float"),
        (2, "<u2", "2 channels of 16-bit"),
    ],
)
def test_tiffs_that_are_not_read_say_what_they_hold(count: int, kind: str, holds: str) -> None:
    """Whoever has such a scan reads what it is, and so what to convert it from."""
    form = 3 if "f" in kind else 1
    bits = np.dtype(kind).itemsize * 8
    data = tiff(channels(count, kind).tobytes(), SIZE, [bits] * count, photometric=1, sample_format=form)
    status, reason = refused(data)
    assert status is ImageStatus.UNREADABLE
    assert holds in reason


@pytest.mark.parametrize("kind", FORMATS)
@pytest.mark.parametrize("size", [(1, 1), (1, 10_000), (10_000, 1)])
def test_thin_images_are_images(kind: str, size: tuple[int, int]) -> None:
    """A picture of one pixel, or of one row or column, is used."""
    pixels = rgb(encoded(Image.new("RGB", size, (200, 100, 50)), kind))
    assert pixels.shape == (size[1], size[0], 3)
    assert np.abs(pixels.astype(int) - [200, 100, 50]).max() < 12


def claims(side: int) -> dict[str, bytes]:
    """Make small files whose headers say that they are squares of so many pixels a side."""
    gif = struct.pack("<HH", side, side)
    screen = b"GIF89a" + gif + b"\0\0\0," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02D\x01\0;"
    frame = b"GIF89a\x0a\0\x0a\0\0\0\0," + struct.pack("<HH", 0, 0) + gif + b"\0\x02\x02D\x01\0;"
    canvas = (side - 1).to_bytes(3, "little") * 2
    webp = (
        b"RIFF" + struct.pack("<I", 30) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + canvas + b"VP8 " + bytes(8)
    )
    return {
        "jpeg": with_jpeg_size(JPEG, (side, side)),
        "jpeg progressive": with_jpeg_size(KINDS["jpeg progressive"], (side, side)),
        "png": png((side, side), b"\0"),
        "gif": screen,
        "gif frame": frame,
        "webp": webp,
        "bmp": bmp((side, side), b"\0\1", bits=8, compression=1),
        "tiff": tiff(b"\0" * 100, (side, side), [8] * 3, photometric=2),
        "tiff tile": tiff(b"\0" * 100, (48, 40), [8] * 3, photometric=2, tile=(side, side), deflated=True),
        "ppm": b"P6 %d %d 255\n" % (side, side),
    }


@pytest.mark.parametrize("kind", sorted(claims(1)))
def test_huge_images_are_too_large_before_their_memory_is_taken(kind: str) -> None:
    """An image that says that it has 20,000 x 20,000 pixels is put aside, and its 1.2 gigabytes are never asked for."""
    data = claims(20_000)[kind]
    refused(data)  # whatever is imported by that
    with more_memory_at_most(16 << 20):
        status, reason = refused(data)
    assert status is ImageStatus.TOO_LARGE
    assert "20000 x 20000" in reason or "400000000 pixels" in reason


@pytest.mark.nightly
def test_a_photo_of_100_megapixels_takes_less_than_eight_bytes_a_pixel() -> None:
    """What decoding takes beside the file is known, so that machines can be chosen for it."""
    data = encoded(PHOTO.resize((10_000, 10_000)), "JPEG")
    with more_memory_at_most(8 * LIMIT):
        assert rgb(data).shape == (10_000, 10_000, 3)
    with more_memory_at_most(6 * LIMIT):
        assert refused(data) == (ImageStatus.TOO_LARGE, "decoding it takes more memory than an image may")


def test_a_raised_limit_takes_larger_images() -> None:
    """Who raises the limit has the images beyond it decoded."""
    data = encoded(Image.new("1", (2_000, 2_000)), "PNG")
    assert refused(data, max_pixels=3_999_999)[0] is ImageStatus.TOO_LARGE
    assert rgb(data, max_pixels=4_000_000).shape == (2_000, 2_000, 3)


@pytest.mark.parametrize("kind", FORMATS)
def test_half_a_file_is_unreadable(kind: str) -> None:
    """An image whose second half has been lost is put aside, and the reason says that it is incomplete."""
    data = encoded(PHOTO, kind)
    for length in (len(data) // 2, len(data) * 9 // 10):
        status, reason = refused(data[:length])
        assert status is ImageStatus.UNREADABLE
        assert "incomplete" in reason or "ends before" in reason


def test_half_a_progressive_jpeg_is_unreadable() -> None:
    """A progressive JPEG that would show a blurred whole is put aside like any other half."""
    data = KINDS["jpeg progressive"]
    assert refused(data[: len(data) * 2 // 3])[0] is ImageStatus.UNREADABLE


def test_what_follows_the_first_frame_does_not_matter() -> None:
    """Pages behind the first may be lost: they are not looked at."""
    for kind in ("mpo", "gif animated"):
        data = KINDS[kind]
        assert (rgb(data[: len(data) - 200]) == rgb(data)).all()


@pytest.mark.parametrize("name", [b"iCCP", b"zTXt", b"iTXt"])
def test_bombs_in_what_comes_along_are_refused(name: bytes) -> None:
    """A PNG whose colour profile or comment unpacks to 200 megabytes is put aside, and never unpacked."""
    start = b"x\0\1\0\0\0" if name == b"iTXt" else b"x\0\0"
    data = png(SIZE, rows_of(COLOURS), chunk(name, start + zlib.compress(bytes(200_000_000))))
    with more_memory_at_most(16 << 20):
        status, reason = refused(data)
    assert status is ImageStatus.UNREADABLE
    assert "unpack to more than is read" in reason


def test_many_comments_are_refused() -> None:
    """Comments that each are small enough are put aside when they are too much together."""
    comments = [chunk(b"zTXt", b"%d\0\0" % number + zlib.compress(bytes(1_000_000))) for number in range(100)]
    assert "unpack to more" in refused(png(SIZE, rows_of(COLOURS), *comments))[1]


def test_pixels_beyond_the_image_are_not_unpacked() -> None:
    """A PNG or TIFF whose data unpacks to far more than its pixels is used, for these pixels."""
    bomb = rows_of(COLOURS) + bytes(200_000_000)
    strip = COLOURS.tobytes() + bytes(200_000_000)
    tile = tiff(bytes(64 * 64 * 3) + bytes(200_000_000), (48, 40), [8] * 3, photometric=2, tile=(64, 64), deflated=True)
    files = [png(SIZE, bomb), tiff(strip, SIZE, [8] * 3, photometric=2, deflated=True)]
    with more_memory_at_most(64 << 20):
        for data in files:
            assert (rgb(data) == COLOURS).all()
        assert rgb(tile).max() == 0


def test_profiles_and_metadata_may_be_large_or_broken() -> None:
    """A photo with megabytes of profile, of EXIF data or of anything else beside its pixels shows its pixels."""
    plain = rgb(JPEG)
    junk = JPEG[:2] + (b"\xff\xe5\xff\xff" + bytes(65533)) * 300 + JPEG[2:]
    exif = b"Exif\0\0MM\0*" + b"\xff" * 60_000
    for data in (
        encoded(PHOTO, "JPEG", icc_profile=bytes(10_000_000)),
        encoded(PHOTO, "JPEG", icc_profile=b"no profile"),
        encoded(PHOTO, "JPEG", exif=exif),
        junk,
    ):
        assert (rgb(data) == plain).all()
    large = png(SIZE, rows_of(COLOURS), chunk(b"eXIf", b"MM\0*" + bytes(30_000_000)))
    assert (rgb(large) == COLOURS).all()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"<!DOCTYPE html><html></html>",
        b"notes\n",
        b"PK\3\4" * 9,
        b"II*",
    ],
)
def test_other_files_say_so(data: bytes) -> None:
    """A drawing, page, text or archive that is named like an image is put aside with a reason."""
    assert refused(data)[0] is ImageStatus.UNREADABLE


def test_damage_that_nothing_checks_shows_as_in_any_viewer() -> None:
    """A JPEG that ends properly but has lost pixels before that is grey there, and is used."""
    middle = len(JPEG) * 3 // 4
    assert rgb(JPEG[:middle] + JPEG[-2:]).shape == COLOURS.shape


def outcome(data: bytes) -> tuple[ImageStatus, str, bytes]:
    """Give the status, the reason and the pixels."""
    try:
        return ImageStatus.OK, "", rgb(data).tobytes()
    except UnusableImage as error:
        return error.status, error.reason, b""


def test_reasons_are_plain_and_outcomes_are_the_same_again() -> None:
    """Whatever is wrong with an image, its reason is a line of plain words, and a second look finds the same."""
    reasons = set()
    for data in hostile(list(KINDS.values()), 700, seed=0):
        status, reason, pixels = outcome(data)
        assert outcome(data) == (status, reason, pixels)
        if status is not ImageStatus.OK:
            assert status in {ImageStatus.UNREADABLE, ImageStatus.TOO_LARGE}
            assert_plain(reason)
            reasons.add(reason)
    assert len(reasons) > 10


def test_warnings_do_not_matter() -> None:
    """An image is the same whether this process shows warnings, hides them or makes errors of them."""
    data = encoded(PHOTO, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    for action in ("error", "always"):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter(action)
            assert rgb(data).shape == COLOURS.shape
        assert not caught
