"""Photos of 500 x 375 pixels that cost as much to decode as real ones, the same ones every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

SIZE = (500, 375)
_DIFFERENT = 200
"""So many are drawn; of the others only the comment differs, which makes them other images at no cost."""


def generate(folder: Path, count: int) -> Path:
    """Write a dataset of two classes."""
    drawn = [_draw(number) for number in range(min(count, _DIFFERENT))]
    for number in range(count):
        image = drawn[number % len(drawn)]
        target = folder / ("near" if number % 2 else "far") / f"{number:06d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        image.save(target, quality=88, comment=f"photo {number}".encode())
    return folder


def _draw(number: int) -> Image.Image:
    """Draw coarse shapes, finer ones over them, and a little noise: about 50 KB as a JPEG, as photos of this size."""
    draw = np.random.default_rng(number)
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
    for cells, strength in ((4, 110.0), (16, 60.0), (60, 30.0)):
        coarse = draw.uniform(0, 1, (cells, cells, 3)).astype(np.float32)
        layers = [
            np.asarray(Image.fromarray(coarse[..., channel]).resize(SIZE, Image.Resampling.BICUBIC))
            for channel in range(3)
        ]
        pixels += strength * np.stack(layers, axis=-1)
    pixels += draw.normal(0, 6, pixels.shape).astype(np.float32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
