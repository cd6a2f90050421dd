"""Images at the size that a network takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from offshelf.extraction import squeezing
from offshelf.extraction.squeezing import squeezed
from offshelf.workers.memory import more_memory_at_most

if TYPE_CHECKING:
    from numpy.typing import NDArray

SHRINK = [(500, 375), (224, 500), (500, 224), (225, 225), (224, 224), (1500, 1999), (10_000, 224), (333, 500)]
ENLARGE = [(1, 1), (17, 31), (10_000, 1), (1, 10_000), (223, 500), (500, 223)]


def noise(width: int, height: int) -> Image.Image:
    """Make an image in which each pixel is another than its neighbours."""
    random = np.random.default_rng(width * height)
    return Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8))


def by_pillow(image: Image.Image, size: tuple[int, int]) -> NDArray[np.int64]:
    """Squeeze an image as Pillow does."""
    height, width = size
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).astype(np.int64)


@pytest.mark.parametrize("width_height", SHRINK, ids=str)
@pytest.mark.parametrize("size", [(224, 224), (131, 97)], ids=str)
def test_every_machine_shrinks_alike(
    width_height: tuple[int, int], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user gets from a machine without the faster library the same pixels, but for a level of 255 here and there."""
    image = noise(*width_height)
    usual = squeezed(image, size=size)
    monkeypatch.setattr(squeezing, "_shrinking", lambda: squeezing._shrunk_by_pillow)
    difference = squeezed(image, size=size) - usual.astype(int)
    assert difference.shape == (*size, 3)
    assert np.abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.006


@pytest.mark.parametrize("width_height", [*SHRINK, *ENLARGE], ids=str)
def test_it_is_pillows_filter(width_height: tuple[int, int]) -> None:
    """A user's images are squeezed as by Pillow's antialiased bilinear filter, but for rounding between its steps."""
    image = noise(*width_height)
    difference = squeezed(image, size=(224, 224)) - by_pillow(image, (224, 224))
    assert np.abs(difference).max() <= 1
    assert abs(difference.mean()) < 0.005


@pytest.mark.parametrize("width_height", [(1, 100_000_000), (100_000_000, 1)], ids=str)
def test_lines_of_all_pixels_that_are_allowed_survive(width_height: tuple[int, int]) -> None:
    """A user's line of a hundred million pixels is squeezed or refused, and ends no process."""
    line = Image.new("RGB", width_height, (200, 100, 50))
    with more_memory_at_most(3 << 30):
        try:
            pixels = squeezed(line, size=(224, 224))
        except MemoryError:
            return
    assert (pixels == (200, 100, 50)).all()


def test_every_processor_gives_the_same_bytes() -> None:
    """A user's vectors do not depend on which vector instructions the processor of a machine has."""
    cykooz_resizer = pytest.importorskip("cykooz_resizer", reason="there is no wheel of it for this kind of machine")
    image = noise(500, 375)
    resizer = cykooz_resizer.Resizer()
    resizer.cpu_extensions = cykooz_resizer.CpuExtensions.none
    kind = cykooz_resizer.PixelType.U8x3
    steps = [cykooz_resizer.ImageData(*size, kind) for size in ((224, 375), (224, 224))]
    bilinear = cykooz_resizer.ResizeOptions(cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.bilinear))
    before = cykooz_resizer.ImageData(500, 375, kind, image.tobytes())
    for step in steps:
        resizer.resize(before, step, bilinear)
        before = step
    assert steps[-1].get_buffer() == squeezed(image, size=(224, 224)).tobytes()
