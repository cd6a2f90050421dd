"""Images that are the same in every test run, and what registered descriptors say of one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from offshelf.extraction.decoding import function_of
from offshelf.extraction.registry import find
from offshelf.extraction.spec import Descriptor

if TYPE_CHECKING:
    from numpy.typing import NDArray


def describe(name: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute a descriptor by the name that users have for it."""
    method = find(name).method
    assert isinstance(method, Descriptor)
    vector: NDArray[np.float32] = function_of(method.function)(pixels, **method.parameters)
    return vector


def photo(height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    """Make something with edges, colours and noise."""
    generator = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 / width, y * 255 / height, 128 + 100 * np.sin(x * y / 99)], axis=-1)
    return np.clip(base + generator.normal(0, 9, base.shape), 0, 255).astype(np.uint8)


def noise(height: int, width: int) -> NDArray[np.uint8]:
    """Make every colour as likely as every other."""
    return np.random.default_rng(4).integers(0, 256, (height, width, 3), dtype=np.uint8)


def gradient(height: int, width: int) -> NDArray[np.uint8]:
    """Make colours that pass into each other without a step."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) * 255 // (height + width)], axis=-1).astype(np.uint8)


def poster(height: int, width: int) -> NDArray[np.uint8]:
    """Make tiles of pure colours, black and white, with hard edges: the corners of the colour space."""
    y, x = np.mgrid[:height, :width]
    tile = y // 9 * 5 + x // 13
    return (np.stack([tile & 1, tile >> 1 & 1, tile >> 2 & 1], axis=-1) * 255).astype(np.uint8)


IMAGES = {
    "photo": photo(120, 161),
    "square photo": photo(128, 128),
    "noise": noise(97, 131),
    "gradient": gradient(111, 203),
    "poster": poster(100, 150),
    "grey": np.repeat(photo(75, 90)[..., :1], 3, axis=2),
    "strip": photo(5, 400),
}
"""Fixed images by what they are of, in even and odd sizes."""
