"""What an extractor is: a pretrained network or a classical descriptor, with everything that decides its vectors.

The digest of that is the extractor's fingerprint. Which extractors there are stands in `offshelf.extraction.registry`.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from offshelf.digests import digest_of
from offshelf.errors import InvalidInput
from offshelf.images import DECODER_VERSION

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.digests import JSONValue

PREPROCESSING_VERSION: Final = 3
"""Version of what happens between an image and a network: `offshelf.extraction.decoding` has JPEGs of at least eight
times the network's input decoded at a half of their size or less; `offshelf.extraction.squeezing` squeezes the image to
the input's size by an antialiased bilinear filter, whatever its proportions (as Keras' and FrImCla's loaders do); the
converted network itself reorders the channels, subtracts the mean and divides by the scale."""

CONVERTER_VERSION: Final = 2
"""Version of `offshelf.extraction.conversion`; part of the key of a converted network, not of the fingerprint."""

EngineFamily: TypeAlias = Literal["openvino-cpu", "tensorflow-serving"]
"""What runs a network: `offshelf.extraction.engine` in this process, or a TensorFlow Serving elsewhere."""

ENGINE_FAMILY: Final[EngineFamily] = "openvino-cpu"

REMOTE_ENGINE: Final[EngineFamily] = "tensorflow-serving"

_REMOTE_SECONDS: Final = 0.01
"""CPU seconds here for one photo whose network runs elsewhere: decoding it, and sending its pixels."""

Colour: TypeAlias = Literal["RGB", "BGR"]

Precision: TypeAlias = Literal["f32", "bf16"]
"""Of a network's arithmetic: 32-bit floats, or 16-bit ones with 8 bits of mantissa, twice as fast where the CPU has
instructions for them."""

PRECISIONS: Final[tuple[Precision, ...]] = ("f32", "bf16")


@dataclass(frozen=True, slots=True)
class WeightsFile:
    """One file that weights can be read from."""

    name: str
    digest: str
    """What its bytes must have, checked before anything is parsed: "sha256:<hex>", or "md5:" or "sha1:" where the
    authors publish nothing better and nobody here has had the file. Where there is none at all, "size:<bytes>", for
    formats in which any bytes of that length are numbers. Where it is not a SHA-256, that of the first file which is
    downloaded or verified is recorded beside it, if we may write there, and holds from then on."""
    source: str = ""
    """Address of its authors' copy; empty if none is published in this form."""
    size: int = 0
    """Bytes, as far as they are known; no more than that is downloaded."""
    stored_as: str = ""
    """Key in the store, of a file that a user brought; such a file is looked for nowhere else."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Pretrained weights: the files that are accepted for them, and what must come out of each."""

    name: str
    files: tuple[WeightsFile, ...]
    licence: str
    arrays: str = ""
    """Digest over the arrays (`offshelf.extraction.weights.arrays_digest`), the same for every file format. Empty if
    there is one file only, which then stands for its arrays."""
    restriction: str = ""
    """What the licence forbids most users, in a sentence that is said before the weights are used; mostly nothing."""

    @property
    def identity(self) -> str:
        """What fingerprints call these weights."""
        if self.arrays:
            return self.arrays
        (file,) = self.files
        return file.digest


@dataclass(frozen=True, slots=True)
class Network:
    """A pretrained network, and the preprocessing it was trained with."""

    architecture: str
    """Name of the network's definition in fingerprints; changed with any change of what it computes."""
    builder: str
    """``"package.module:function"`` that makes the graph from the weights: see `offshelf.extraction.conversion`."""
    weights: Weights
    size: tuple[int, int]
    """Height and width of the input, pixels."""
    colour: Colour
    outputs: Mapping[str, int]
    """What can be taken from it, and how many numbers that is: "avg", "max" or "flatten" (its last feature maps,
    averaged, their largest values, or all of them), "classes" (probabilities of the classes it was trained on), or the
    number of a layer."""
    output: str
    """The one of them that is taken."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted from pixels of 0 to 255, in the order of `colour`."""
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """What the difference is then divided by."""
    precision: Precision = "f32"
    classes_weights: Weights | None = None
    """What "classes" takes instead of `weights`, if those lack the last layers."""
    engine: EngineFamily = ENGINE_FAMILY
    """What runs it in this installation."""
    keras: bool = True
    """Whether its builder defines it in Keras, which a remote engine needs; else of OpenVINO's own operations."""

    @property
    def taken_weights(self) -> Weights:
        """The weights that its output takes."""
        return self.classes_weights if self.output == "classes" and self.classes_weights else self.weights

    def identity(self) -> dict[str, JSONValue]:
        """All that decides the vectors."""
        height, width = self.size
        preprocessing: dict[str, JSONValue] = {
            "version": PREPROCESSING_VERSION,
            "size": height if height == width else [height, width],
            "colour": self.colour,
            "mean": self.mean,
        }
        if self.scale != (1.0, 1.0, 1.0):
            preprocessing["scale"] = self.scale
        return {
            "architecture": self.architecture,
            "weights": self.taken_weights.identity,
            "preprocessing": preprocessing,
            "decoder": DECODER_VERSION,
            "output": self.output,
            # Of a remote engine its own affair: it may have other arithmetic, and does not say which.
            "precision": "served" if self.engine == REMOTE_ENGINE else self.precision,
            "engine": self.engine,
        }


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A vector computed from pixels by a formula."""

    function: str
    """``"module:function"`` in `offshelf.extraction.descriptors`."""
    version: int
    """Version of that function's algorithm, its rule for sizes included."""
    parameters: Mapping[str, JSONValue] = field(default_factory=dict)

    def identity(self) -> dict[str, JSONValue]:
        """All that decides the vectors."""
        return {
            "descriptor": self.function.rpartition(":")[2],
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
    """Length of a vector; 0 if only the network itself can tell."""
    cost_seconds: float
    """CPU seconds for one photo of 500 x 375 pixels, decoding included; to cut work into units."""
    method: Network | Descriptor

    @property
    def licence(self) -> str:
        """Under which its weights may be used; empty if it has none."""
        return self.method.taken_weights.licence if isinstance(self.method, Network) else ""

    @property
    def restriction(self) -> str:
        """What that forbids most users, in a sentence; mostly nothing."""
        return self.method.taken_weights.restriction if isinstance(self.method, Network) else ""


def fingerprint(spec: ExtractorSpec) -> str:
    """Digest of everything that decides an extractor's vectors; its name and description do not."""
    # Where only the network can tell, the network is what tells.
    dimension: dict[str, JSONValue] = {"dimension": spec.dimension} if spec.dimension else {}
    return digest_of({**spec.method.identity(), **dimension})


def served(spec: ExtractorSpec) -> ExtractorSpec:
    """Return the same extractor with its network on a remote engine.

    Raises
    ------
    InvalidInput
        If there is nothing that a remote engine could serve of it.
    """
    network = spec.method
    if not isinstance(network, Network):
        raise InvalidInput(f"{spec.name} has no network, so that no remote engine can run it.")
    if any(file.stored_as for file in network.weights.files):
        raise InvalidInput(f"{spec.name} is a network of a user's own, and those run on no remote engine.")
    if not network.keras:
        raise InvalidInput(
            f"{spec.name} runs on no remote engine, and cannot be exported for one: its network is made of OpenVINO's "
            "own operations, without Keras."
        )
    if network.precision != "f32":
        raise InvalidInput(
            f"{spec.name} cannot run on a remote engine, which has a precision of its own: leave {network.precision} "
            "out of the name."
        )
    return replace(
        spec,
        cost_seconds=min(spec.cost_seconds, _REMOTE_SECONDS),
        method=replace(network, engine=REMOTE_ENGINE),
    )


def fingerprints(spec: ExtractorSpec) -> frozenset[str]:
    """Return the digests that the extractor's vectors may be kept under: one for each engine that may run it."""
    if not isinstance(spec.method, Network):
        return frozenset({fingerprint(spec)})
    here = replace(spec, method=replace(spec.method, engine=ENGINE_FAMILY))
    found = {fingerprint(here)}
    with suppress(InvalidInput):
        found.add(fingerprint(served(here)))
    return frozenset(found)
