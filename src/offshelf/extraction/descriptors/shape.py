"""Where edges run, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.extraction.descriptors.pixels import bounded, grey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def hog(
    pixels: NDArray[np.uint8],
    *,
    size: int,
    orientations: int,
    pixels_per_cell: int,
    cells_per_block: int,
    transform_sqrt: bool = False,
) -> NDArray[np.float32]:
    """Histograms of oriented gradients of the grey image (N. Dalal and B. Triggs, CVPR 2005), L2-Hys by block.

    ``skimage.feature.hog`` on a square of one size, to which each image is squeezed whatever its proportions (Pillow's
    antialiased bilinear filter): vectors of photos of all sizes then have one length. FrImCla's function has no rule
    for sizes, and relies on images that were squeezed to 231 x 231 before. Its vectors of those, of 17,424 numbers, are
    what ``size=231, orientations=9, pixels_per_cell=10, cells_per_block=2, transform_sqrt=True`` gives.

    Parameters
    ----------
    pixels
        Shape (height, width, 3), RGB.
    size
        Side of the square, pixels.
    orientations
        Directions told apart, over half a turn.
    pixels_per_cell, cells_per_block
        Sides of a cell and a block; blocks overlap, one at each cell.
    transform_sqrt
        Whether square roots of the grey levels take their place, which evens out how brightly parts are lit.

    Returns
    -------
    ndarray of float32
        Of length ``(size // pixels_per_cell - cells_per_block + 1) ** 2 * cells_per_block ** 2 * orientations``.
    """
    import numpy as np
    from PIL import Image
    from skimage.feature import hog as gradients_of

    square = Image.fromarray(grey(bounded(pixels))).resize((size, size), Image.Resampling.BILINEAR)
    vector = gradients_of(
        np.asarray(square),
        orientations=orientations,
        pixels_per_cell=(pixels_per_cell, pixels_per_cell),
        cells_per_block=(cells_per_block, cells_per_block),
        block_norm="L2-Hys",
        transform_sqrt=transform_sqrt,
    )
    return np.asarray(vector, dtype=np.float32)
