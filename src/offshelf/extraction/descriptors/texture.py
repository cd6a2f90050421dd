"""How the grey levels of neighbouring pixels go together."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.extraction.descriptors.pixels import bounded, grey

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def haralick(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Haralick's first 13 texture features of the grey image, each averaged over the four directions.

    From the co-occurrence of grey levels at distance 1 (R. M. Haralick, K. Shanmugam and I. Dinstein, "Textural
    Features for Image Classification", 1973), as ``mahotas.features.haralick(grey).mean(axis=0)``. An image that is one
    pixel high or wide has no neighbours in some directions; it is doubled there.

    Returns
    -------
    ndarray of float32, shape (13,)
    """
    import numpy as np
    from mahotas.features import haralick as features_of

    image = grey(bounded(pixels))
    image = np.pad(image, [(0, int(length == 1)) for length in image.shape], mode="edge")
    return np.asarray(features_of(image).mean(axis=0), dtype=np.float32)
