"""JPEGs of which less than their whole size is enough."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from offshelf.images import ImageStatus, UnusableImage, decode
from tests.unit.odd_images import encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIMIT = 100_000_000


def detailed(width: int, height: int) -> Image.Image:
    """Make a picture with detail of every size, down to its pixels."""
    random = np.random.default_rng(3)
    sides = (4, 16, 64, 256)
    layers = [Image.fromarray(random.integers(0, 256, (side, side, 3), dtype=np.uint8)) for side in sides]
    scaled = [np.asarray(layer.resize((width, height), Image.Resampling.BICUBIC), np.float32) for layer in layers]
    noise = random.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(sum(scaled) / len(scaled) + noise, 0, 255).astype(np.uint8))


def seen(pixels: NDArray[np.uint8], side: int = 64) -> NDArray[np.int64]:
    """See an image as a network of so small an input does."""
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BILINEAR)).astype(np.int64)


@pytest.mark.parametrize(
    ("size", "enough", "part"),
    [
        ((512, 512), 256, 2),
        ((512, 510), 256, 1),
        ((1024, 768), 256, 2),
        ((1024, 1024), 256, 4),
        ((2048, 2048), 256, 8),
        ((4096, 512), 256, 2),
        ((514, 1027), 256, 1),
        ((1026, 1026), 256, 2),
        ((500, 375), 896, 1),
        ((512, 512), None, 1),
    ],
)
def test_large_jpegs_are_decoded_at_a_part_of_their_size(size: tuple[int, int], enough: int | None, part: int) -> None:
    """A JPEG is decoded no smaller than is enough, only to exact parts, and whole where nobody says what is enough."""
    data = encoded(Image.new("RGB", size, (200, 100, 50)), "JPEG")
    assert decode(data, max_pixels=LIMIT, enough=enough).shape == (size[1] // part, size[0] // part, 3)


@pytest.mark.parametrize("kind", ["JPEG", "MPO", "CMYK", "L", "progressive"])
@pytest.mark.parametrize("orientation", [1, 6, 7])
def test_reduced_jpegs_show_the_same_picture(kind: str, orientation: int) -> None:
    """What a network sees of a JPEG decoded at a part of its size differs by a few levels of 255, hardly anywhere."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = detailed(640, 512)
    options: dict[str, Any] = {"exif": exif, "quality": 90}
    match kind:
        case "MPO":
            data = encoded(image, "MPO", save_all=True, append_images=[image.copy()], **options)
        case "CMYK" | "L":
            data = encoded(image.convert(kind), "JPEG", **options)
        case _:
            data = encoded(image, "JPEG", progressive=kind == "progressive", **options)
    reduced, whole = decode(data, max_pixels=LIMIT, enough=256), decode(data, max_pixels=LIMIT)
    assert reduced.shape[0] * 2 == whole.shape[0]
    difference = np.abs(seen(reduced) - seen(whole))
    assert difference.max() <= 4
    assert difference.mean() < 0.4  # of noise down to the pixel; photos have a third of that


def test_other_formats_are_decoded_whole() -> None:
    """Only JPEG can be decoded at a part of its size."""
    image = Image.new("RGB", (512, 512), "red")
    for kind in ("PNG", "WEBP", "TIFF"):
        assert decode(encoded(image, kind), max_pixels=LIMIT, enough=64).shape == (512, 512, 3)
    assert decode(encoded(image, "TIFF", compression="jpeg"), max_pixels=LIMIT, enough=64).shape == (512, 512, 3)


def test_reduced_jpegs_are_judged_by_their_whole_size() -> None:
    """An image over the limit on pixels is too large, however small it would be decoded; truncated ones are refused."""
    data = encoded(detailed(512, 512), "JPEG")
    with pytest.raises(UnusableImage) as large:
        decode(data, max_pixels=512 * 512 - 1, enough=64)
    with pytest.raises(UnusableImage) as truncated:
        decode(data[: len(data) // 2], max_pixels=LIMIT, enough=64)
    assert (large.value.status, truncated.value.status) == (ImageStatus.TOO_LARGE, ImageStatus.UNREADABLE)
