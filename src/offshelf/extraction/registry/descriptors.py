"""The classical descriptors.

Each takes an image in its own size, or shrunk to four megapixels if it has more; `hog`, and `haarhog` for its half of
it, squeeze it to a square first.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

from offshelf.errors import InvalidInput
from offshelf.extraction.spec import Descriptor, ExtractorSpec

ColourSpace: TypeAlias = Literal["lab", "hsv"]

COLOUR_SPACES: Final[dict[ColourSpace, str]] = {
    "lab": "lightness and two colour axes (CIELAB)",
    "hsv": "hue, saturation and value",
}

_MOST_BINS = 65_536
"""A vector longer than that is none that a classifier could make use of, and a million of them fill a disk."""

_HOG: Final = Descriptor(
    "shape:hog",
    version=2,
    parameters={"size": 128, "orientations": 9, "pixels_per_cell": 16, "cells_per_block": 2},
)
_HOG_DIMENSION = 1764
_HARALICK: Final = Descriptor("texture:haralick", version=2)
_HARALICK_DIMENSION = 13
_LBP_POINTS = 24


def colour_histogram(space: ColourSpace, bins: tuple[int, int, int]) -> ExtractorSpec:
    """Make the extractor of a joint colour histogram.

    Parameters
    ----------
    space
        Whose channels are counted.
    bins
        Steps of each channel.

    Raises
    ------
    InvalidInput
        If there are too many bins, or a channel has more than its 256 values.
    """
    first, second, third = bins
    dimension = first * second * third
    if not all(1 <= steps <= 256 for steps in bins) or dimension > _MOST_BINS:  # noqa: PLR2004  (values of a byte)
        raise InvalidInput(
            f"{space}:{first},{second},{third} cannot be: each channel takes 1 to 256 steps, and their product is "
            f"{_MOST_BINS} at most."
        )
    equal = first == second == third
    steps = f"{first} steps each" if equal else f"{first}, {second} and {third} steps"
    return ExtractorSpec(
        name=f"{space}{first}{first}{first}" if equal and first in {4, 8} else f"{space}:{first},{second},{third}",
        description=f"Which colours occur how often: {COLOUR_SPACES[space]}, {steps}. Knows nothing of shapes.",
        dimension=dimension,
        cost_seconds=0.01,
        method=Descriptor(
            "colour:colour_histogram", version=2, parameters={"space": space, "bins": first if equal else [*bins]}
        ),
    )


DESCRIPTORS: Final = (
    colour_histogram("lab", (4, 4, 4)),
    colour_histogram("lab", (8, 8, 8)),
    colour_histogram("hsv", (4, 4, 4)),
    colour_histogram("hsv", (8, 8, 8)),
    ExtractorSpec(
        name="haralick",
        description="Texture: how grey levels of neighbouring pixels go together, in 13 figures (Haralick).",
        dimension=_HARALICK_DIMENSION,
        cost_seconds=0.015,
        method=_HARALICK,
    ),
    ExtractorSpec(
        name="lbp",
        description="Texture: which patterns of lighter and darker neighbours occur how often, in 26 figures "
        "(uniform local binary patterns).",
        dimension=_LBP_POINTS + 2,
        cost_seconds=0.015,
        method=Descriptor("texture:lbp", version=1, parameters={"radius": 3, "points": _LBP_POINTS}),
    ),
    ExtractorSpec(
        name="hog",
        description="Shape: the directions of edges in each part of the picture "
        "(histograms of oriented gradients, on 128 x 128 pixels).",
        dimension=_HOG_DIMENSION,
        cost_seconds=0.008,
        method=_HOG,
    ),
    ExtractorSpec(
        name="haarhog",
        description="Shape and texture: all figures of hog, and after them those of haralick.",
        dimension=_HOG_DIMENSION + _HARALICK_DIMENSION,
        cost_seconds=0.02,
        # It changes when one of its halves does.
        method=Descriptor("combined:haarhog", version=_HOG.version + _HARALICK.version, parameters=_HOG.parameters),
    ),
)
"""All that have a name of their own, in the order in which catalogues list them."""
