"""What the suite of networks knows of one: how others compute it, and from which weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Reference:
    """A network as others define it, with generated weights."""

    name: str
    """Of the extractor."""
    size: int
    """Side of the input, pixels."""
    outputs: tuple[str, ...]
    """What there are golden vectors of."""
    file: str
    """Name of the weights file; its ending tells the format, as with published ones."""
    data: Callable[[], bytes]
    """Writes generated weights as the published ones are written."""
    vectors: Callable[[NDArray[np.float32]], Mapping[str, NDArray[np.float32]]]
    """Computes the outputs of images, 0 to 255, RGB, of shape (images, height, width, 3); in `tests.golden.make`."""
    classes_data: Callable[[], bytes] | None = None
    """Writes the file with the last layers, if that is another one."""
    quick: bool = False
    """Whether it takes seconds, so that it is tested with every change and not by night alone."""
