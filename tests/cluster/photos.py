"""Photos that cost as much as real ones to read and to describe, as many as wanted, the same ones every time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from pathlib import Path

_SIZE = (256, 192)
_LABELS = ("field", "sea", "town")


def generate(folder: Path, count: int, *, first: int = 0) -> Path:
    """Write a dataset of three classes that colour and texture tell apart, though not always; `first` numbers them."""
    folder.mkdir(parents=True, exist_ok=True)
    for label in _LABELS:
        (folder / label).mkdir(exist_ok=True)
    for number in range(first, first + count):
        kind = number % len(_LABELS)
        draw = np.random.default_rng(number)
        coarse = draw.integers(0, 256, (_SIZE[1] // (8 << kind), _SIZE[0] // (8 << kind), 3)).astype(np.uint8)
        image = np.asarray(Image.fromarray(coarse).resize(_SIZE, Image.Resampling.BICUBIC)).astype(np.float32)
        image[..., kind] += draw.uniform(-20, 60)
        Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(
            folder / _LABELS[kind] / f"{number:06d}.jpg", quality=85
        )
    return folder
