"""Which extractors there are, and what names the vectors they make.

An extractor is a pretrained network or a classical descriptor. Everything that decides its vectors is in its
`ExtractorSpec`, and the digest of that is its fingerprint. A new extractor is one more entry of `EXTRACTORS`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from offshelf.digests import digest_of
from offshelf.errors import UnknownName
from offshelf.images import DECODER_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from offshelf.digests import JSONValue

PREPROCESSING_VERSION: Final = 1
"""Version of what happens between decoded pixels and a network: `offshelf.extraction.decoding` squeezes the image to
the network's square by Pillow's antialiased bilinear filter, whatever its proportions (as Keras' and FrImCla's loaders
do); the converted network itself reorders the channels and subtracts the mean."""

CONVERTER_VERSION: Final = 1
"""Version of `offshelf.extraction.conversion`; part of the key of a converted network, not of the fingerprint."""

PRECISION: Final = "f32"
ENGINE_FAMILY: Final = "openvino-cpu"

Output: TypeAlias = Literal["avg", "max", "flatten", "classes"]
"""What is taken from a network: its last feature maps, averaged, their largest values, or all of them; or the
probabilities of the classes it was trained on."""


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file that weights can be read from."""

    name: str
    sha256: str
    source: str = ""
    """Address of its authors' copy; empty if none is published in this form."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Pretrained weights: the files that are accepted for them, and what must come out of each."""

    name: str
    files: tuple[WeightsFile, ...]
    arrays: str
    """Digest over the arrays (`offshelf.extraction.weights.arrays_digest`), the same for every file format."""
    licence: str


@dataclass(frozen=True, slots=True)
class Network:
    """A pretrained network, and the preprocessing it was trained with."""

    architecture: str
    """Name of the network's definition in fingerprints; changed with any change of what it computes."""
    builder: str
    """``"package.module:function"`` that makes the Keras model from the arrays."""
    weights: Weights
    size: int
    """Height and width of the input, pixels."""
    colour: Literal["RGB", "BGR"]
    mean: tuple[float, float, float]
    """Subtracted from pixels of 0 to 255, in the order of `colour`."""
    output: Output = "avg"

    def identity(self) -> dict[str, JSONValue]:
        """All that decides the vectors."""
        return {
            "architecture": self.architecture,
            "weights": self.weights.arrays,
            "preprocessing": {
                "version": PREPROCESSING_VERSION,
                "size": self.size,
                "colour": self.colour,
                "mean": self.mean,
            },
            "decoder": DECODER_VERSION,
            "output": self.output,
            "precision": PRECISION,
            "engine": ENGINE_FAMILY,
        }


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A vector computed from pixels by a formula."""

    function: str
    """Name of the function in `offshelf.extraction.descriptors`."""
    version: int
    """Version of that function's algorithm, its rule for sizes included."""
    parameters: Mapping[str, JSONValue] = field(default_factory=dict)

    def identity(self) -> dict[str, JSONValue]:
        """All that decides the vectors."""
        return {
            "descriptor": self.function,
            "version": self.version,
            "parameters": dict(self.parameters),
            "decoder": DECODER_VERSION,
        }


@dataclass(frozen=True, slots=True)
class ExtractorSpec:
    """An extractor as users choose it."""

    name: str
    description: str
    """What it looks at, in plain words."""
    dimension: int
    """Length of a vector."""
    cost_seconds: float
    """CPU seconds for one photo of 500 x 375 pixels, decoding included; to cut work into units."""
    method: Network | Descriptor


def fingerprint(spec: ExtractorSpec) -> str:
    """Digest of everything that decides an extractor's vectors; its name and description do not."""
    return digest_of({**spec.method.identity(), "dimension": spec.dimension})


def find(name: str, extractors: Mapping[str, ExtractorSpec] | None = None) -> ExtractorSpec:
    """Look an extractor up by name.

    Parameters
    ----------
    name
        As users write it.
    extractors
        Where to look; by default `EXTRACTORS`.

    Raises
    ------
    UnknownName
        With the nearest match and all names.
    """
    known = EXTRACTORS if extractors is None else extractors
    if name not in known:
        raise UnknownName.among("extractor", name, known)
    return known[name]


def _by_name(specs: Iterable[ExtractorSpec]) -> Mapping[str, ExtractorSpec]:
    return MappingProxyType({spec.name: spec for spec in specs})


def _colour_histogram(space: Literal["lab", "hsv"], bins: int, cost_seconds: float) -> ExtractorSpec:
    words = {"lab": "lightness and two colour axes (CIELAB)", "hsv": "hue, saturation and value"}
    return ExtractorSpec(
        name=f"{space}{bins}{bins}{bins}",
        description=f"Which colours occur how often: {words[space]}, {bins} steps each. Knows nothing of shapes.",
        dimension=bins**3,
        cost_seconds=cost_seconds,
        method=Descriptor("colour_histogram", version=1, parameters={"space": space, "bins": bins}),
    )


_GOOGLENET_BVLC: Final = Weights(
    name="BVLC GoogLeNet, trained on ImageNet",
    files=(
        WeightsFile(
            "googlenet_bvlc.npz",
            sha256="cf4ea6d9d5b62944e8ce0e4f4da54f34d8febb507402e15e38d9102fc8073d1f",
        ),
    ),
    arrays="5f152355b695e0c6b9d0a5fbe1edf54d3e8b326ea5bff535633a8156b1f338ec",
    licence="unrestricted use (BVLC model zoo)",
)

EXTRACTORS: Final[Mapping[str, ExtractorSpec]] = _by_name(
    (
        ExtractorSpec(
            name="googlenet",
            description="A network (GoogLeNet, Inception v1) that has learned to tell 1000 kinds of things in photos; "
            "its last feature maps, averaged.",
            dimension=1024,
            cost_seconds=0.045,
            method=Network(
                architecture="bvlc-googlenet",
                builder="offshelf.extraction.networks.googlenet:build",
                weights=_GOOGLENET_BVLC,
                size=224,
                colour="BGR",
                mean=(104.0, 117.0, 123.0),
            ),
        ),
        _colour_histogram("lab", 4, cost_seconds=0.015),
        _colour_histogram("lab", 8, cost_seconds=0.015),
        _colour_histogram("hsv", 4, cost_seconds=0.035),
        _colour_histogram("hsv", 8, cost_seconds=0.035),
        ExtractorSpec(
            name="haralick",
            description="Texture: how grey levels of neighbouring pixels go together, in 13 figures (Haralick).",
            dimension=13,
            cost_seconds=0.015,
            method=Descriptor("haralick", version=1),
        ),
        ExtractorSpec(
            name="hog",
            description="Shape: the directions of edges in each part of the picture "
            "(histograms of oriented gradients, on 128 x 128 pixels).",
            dimension=1764,
            cost_seconds=0.008,
            method=Descriptor(
                "hog",
                version=1,
                parameters={"size": 128, "orientations": 9, "pixels_per_cell": 16, "cells_per_block": 2},
            ),
        ),
    )
)
"""All extractors, in the order in which catalogues list them."""
