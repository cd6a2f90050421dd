"""Several descriptors in one vector."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.extraction.descriptors.shape import hog
from offshelf.extraction.descriptors.texture import haralick

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def haarhog(
    pixels: NDArray[np.uint8], *, size: int, orientations: int, pixels_per_cell: int, cells_per_block: int
) -> NDArray[np.float32]:
    """`hog`, and after it `haralick`, under the name and in the order that FrImCla has for them.

    The image is squeezed to a square for the first alone; the second takes it as it is. Their figures are of different
    sizes: scale them before comparing distances, as the classifiers here do that need it.

    Parameters
    ----------
    pixels
        Shape (height, width, 3), RGB.
    size, orientations, pixels_per_cell, cells_per_block
        As `hog` takes them.

    Returns
    -------
    ndarray of float32
        13 longer than that of `hog`.
    """
    import numpy as np

    shape = hog(
        pixels,
        size=size,
        orientations=orientations,
        pixels_per_cell=pixels_per_cell,
        cells_per_block=cells_per_block,
    )
    return np.concatenate([shape, haralick(pixels)])
