"""Images that Pillow does not write, one of each kind that is read, and what an attacker would make of those."""

from __future__ import annotations

import io
import struct
import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

_KINDS = {"H": 3, "I": 4}  # of TIFF's numbers, by the letters of `struct`


def encoded(image: Image.Image, kind: str, **options: Any) -> bytes:
    """Give the bytes of an image file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(
    pixels: bytes,
    size: tuple[int, int],
    bits: Sequence[int],
    *,
    photometric: int = 1,
    sample_format: int = 1,
    extra: Sequence[int] = (),
    planes: int = 1,
    tile: tuple[int, int] | None = None,
    deflated: bool = False,
    order: str = "<",
) -> bytes:
    """Make a TIFF of a width and height, with as many channels as `bits` has numbers; `pixels` are in its byte order.

    All is in one strip, in one for each of several planes, or in one tile of a width and height.
    """
    parts = [pixels[start : start + len(pixels) // planes] for start in range(0, len(pixels), len(pixels) // planes)]
    parts = [zlib.compress(part) if deflated else part for part in parts]
    starts = [8 + sum(map(len, parts[:number])) for number in range(len(parts))]
    entries: dict[int, tuple[str, Sequence[int]]] = {
        256: ("I", size[:1]),
        257: ("I", size[1:]),
        258: ("H", bits),
        259: ("H", (8 if deflated else 1,)),
        262: ("H", (photometric,)),
        277: ("H", (len(bits),)),
        284: ("H", (2 if planes > 1 else 1,)),
        339: ("H", [sample_format] * len(bits)),
    }
    if extra:
        entries[338] = ("H", extra)
    if tile:
        entries |= {322: ("I", tile[:1]), 323: ("I", tile[1:]), 324: ("I", starts), 325: ("I", [*map(len, parts)])}
    else:
        entries |= {273: ("I", starts), 278: ("I", size[1:]), 279: ("I", [*map(len, parts)])}
    body = b"".join(parts)
    body += b"\0" * (len(body) % 2)
    directory = struct.pack(f"{order}H", len(entries))
    behind = 8 + len(body) + 2 + 12 * len(entries) + 4
    rest = b""
    for tag, (letter, values) in sorted(entries.items()):
        packed = struct.pack(f"{order}{len(values)}{letter}", *values)
        directory += struct.pack(f"{order}HHI", tag, _KINDS[letter], len(values))
        if len(packed) > 4:
            directory += struct.pack(f"{order}I", behind + len(rest))
            rest += packed
        else:
            directory += packed.ljust(4, b"\0")
    start = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}I", 8 + len(body))
    return start + body + directory + b"\0" * 4 + rest


def chunk(name: bytes, content: bytes) -> bytes:
    """Make a chunk of a PNG."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png(size: tuple[int, int], rows: bytes, *before: bytes, depth: int = 8, colour: int = 2, end: bool = True) -> bytes:
    """Make a PNG of rows that each start with their filter; chunks may come before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(before) + pixels + (chunk(b"IEND", b"") if end else b"")


def bmp(size: tuple[int, int], pixels: bytes, *, bits: int, compression: int = 0) -> bytes:
    """Make a BMP with a palette of greys if it has at most 8 bits."""
    palette = b"".join(bytes((grey, grey, grey, 0)) for grey in range(256)) if bits <= 8 else b""
    start = 54 + len(palette)
    header = struct.pack("<IiiHHIIiiII", 40, *size, 1, bits, compression, len(pixels), 0, 0, len(palette) // 4, 0)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + header + palette + pixels


def with_jpeg_size(data: bytes, size: tuple[int, int]) -> bytes:
    """Write another width and height into the header of a JPEG."""
    place = next(data.index(marker) for marker in (b"\xff\xc0", b"\xff\xc2") if marker in data) + 5
    return data[:place] + struct.pack(">HH", size[1], size[0]) + data[place + 4 :]


def picture(seed: int = 0, width: int = 48, height: int = 40) -> Image.Image:
    """Make a coloured picture with shapes and some noise."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def one_of_each_kind(seed: int = 0) -> dict[str, bytes]:
    """Make a usable image in every format and flavour that is read."""
    photo, other = picture(seed), picture(seed + 1)
    colours = np.asarray(photo)
    wide = colours.astype(np.uint16) * 257
    transparent = photo.copy()
    transparent.putalpha(other.convert("L"))
    animated: dict[str, Any] = {"save_all": True, "append_images": [other]}
    profile: dict[str, Any] = {"icc_profile": b"no profile" * 20}
    exif = Image.Exif()
    exif[0x0112] = 6
    size = photo.size
    return {
        "jpeg": encoded(photo, "JPEG", exif=exif, **profile),
        "jpeg progressive": encoded(photo, "JPEG", progressive=True, restart_marker_rows=1),
        "jpeg grey": encoded(photo.convert("L"), "JPEG"),
        "jpeg cmyk": encoded(photo.convert("CMYK"), "JPEG", **profile),
        # Saving leaves JPEG's settings on the images, which then fit no other format.
        "mpo": encoded(photo.copy(), "MPO", save_all=True, append_images=[other.copy()]),
        "png": encoded(photo, "PNG", exif=exif, **profile),
        "png palette": encoded(photo.quantize(16), "PNG", transparency=3),
        "png transparent": encoded(transparent, "PNG"),
        "png animated": encoded(photo, "PNG", **animated),
        "png 16 bits": png(size, _filtered(wide.astype(">u2")), depth=16),
        "bmp": encoded(photo, "BMP"),
        "bmp palette": encoded(photo.quantize(16), "BMP"),
        "bmp run lengths": bmp((48, 40), b"\x30\x40\0\0" * 40 + b"\0\1", bits=8, compression=1),
        "gif": encoded(photo, "GIF"),
        "gif animated": encoded(photo, "GIF", **animated),
        "webp": encoded(photo, "WEBP", exif=exif, **profile),
        "webp lossless": encoded(transparent, "WEBP", lossless=True),
        "webp animated": encoded(photo, "WEBP", **animated),
        "tiff": encoded(photo, "TIFF", exif=exif, **profile),
        "tiff lzw": encoded(photo, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": encoded(photo, "TIFF", compression="jpeg"),
        "tiff group 4": encoded(photo.convert("1"), "TIFF", compression="group4"),
        "tiff pages": encoded(photo, "TIFF", **animated),
        "tiff 16 bits": tiff(wide.tobytes(), size, [16] * 3, photometric=2),
        "tiff grey 16 bits": tiff(wide[..., 0].astype(">u2").tobytes(), size, [16], order=">"),
        "tiff float": encoded(Image.fromarray(wide[..., 0].astype(np.float32)), "TIFF"),
        "tiff planes": tiff(np.moveaxis(colours, -1, 0).tobytes(), size, [8] * 3, photometric=2, planes=3),
        "tiff tile": tiff(
            np.pad(colours, [(0, 24), (0, 16), (0, 0)]).tobytes(),
            size,
            [8] * 3,
            photometric=2,
            tile=(64, 64),
            deflated=True,
        ),
        "pbm": encoded(photo.convert("1"), "PPM"),
        "pgm": encoded(photo.convert("L"), "PPM"),
        "pgm 16 bits": encoded(Image.fromarray(wide[..., 0]), "PPM"),
        "ppm": encoded(photo, "PPM"),
        "ppm in words": b"P3 2 2 255 " + b"1 2 3 " * 4,
        "pfm": b"Pf\n2 2\n-1.0\n" + struct.pack("<4f", 0, 1, 2, 3),
    }


def hostile(originals: Sequence[bytes], count: int, seed: int) -> Iterator[bytes]:
    """Damage images, the same way each time: cut, flipped, spliced, doubled, or with other numbers in their headers."""
    random = np.random.default_rng(seed)
    for number in range(count):
        original = originals[number % len(originals)]
        data = bytearray(original)
        for _ in range(random.integers(1, 4)):
            _damage(data, originals[int(random.integers(len(originals)))], random)
        yield bytes(data)


def _damage(data: bytearray, other: bytes, random: np.random.Generator) -> None:
    place = int(random.integers(len(data) + 1))
    match random.integers(6):
        case 0:
            del data[place:]
        case 1:
            for spot in random.integers(len(data), size=random.integers(1, 12)) if data else ():
                data[spot] ^= 1 << int(random.integers(8))
        case 2:
            start = int(random.integers(len(other)))
            piece = other[start : start + int(random.integers(1, 400))]
            data[place : place + len(piece)] = piece
        case 3:
            data[place:place] = data[place : place + int(random.integers(1, 400))]
        case 4:
            del data[place : place + int(random.integers(1, 64))]
        case _:
            place = int(random.integers(min(len(data), 96) + 1))
            extremes = (b"\0\0", b"\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\0\0\x40\0", b"\x40\x9c\0\0")
            piece = extremes[random.integers(len(extremes))]
            data[place : place + len(piece)] = piece


def _filtered(rows: NDArray[Any]) -> bytes:
    return b"".join(b"\0" + row.tobytes() for row in rows)
