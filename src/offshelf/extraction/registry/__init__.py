"""Which extractors there are, by name. A new one is one more entry in `networks` or `descriptors`."""

from __future__ import annotations

import re
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from offshelf.errors import InvalidInput, UnknownName
from offshelf.extraction.registry.descriptors import COLOUR_SPACES, DESCRIPTORS, colour_histogram
from offshelf.extraction.registry.networks import NETWORKS, with_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.extraction.registry.descriptors import ColourSpace
    from offshelf.extraction.spec import ExtractorSpec

EXTRACTORS: Final[Mapping[str, ExtractorSpec]] = MappingProxyType(
    {spec.name: spec for spec in (*NETWORKS, *DESCRIPTORS)}
)
"""All extractors that have a name of their own, in the order in which catalogues list them."""

ALIASES: Final[Mapping[str, str]] = MappingProxyType({"resnet": "resnet50"})
"""Other names by which FrImCla's users know them."""

_BINS = re.compile(r"(\d{1,3}),(\d{1,3}),(\d{1,3})")


def find(name: str, extractors: Mapping[str, ExtractorSpec] | None = None) -> ExtractorSpec:
    """Look an extractor up by name.

    Parameters
    ----------
    name
        As users write it: a registered name, perhaps with parameters, as in "vgg16:max", "resnet50:bf16" or
        "lab:8,4,4".
    extractors
        Where to look; by default `EXTRACTORS`.

    Raises
    ------
    UnknownName
        With the nearest match and all names.
    InvalidInput
        If the extractor has no such parameters; the message says what it has.
    """
    known = EXTRACTORS if extractors is None else extractors
    if name in known:
        return known[name]
    first, *parameters = name.split(":")
    if first in COLOUR_SPACES and parameters:
        return _histogram(first, ":".join(parameters), known)
    first = ALIASES.get(first, first)
    if first not in known:
        raise UnknownName.among("extractor", name, known)
    return with_parameters(known[first], parameters) if parameters else known[first]


def lookup(name: str, extractors: Mapping[str, ExtractorSpec] | None = None) -> ExtractorSpec | None:
    """Look an extractor up that may be one of another version of Offshelf; None if there is none of that name."""
    try:
        return find(name, extractors)
    except (UnknownName, InvalidInput):
        return None


def _histogram(space: ColourSpace, bins: str, known: Mapping[str, ExtractorSpec]) -> ExtractorSpec:
    match = _BINS.fullmatch(bins)
    if not match:
        raise InvalidInput(f"{space}:{bins} cannot be: write the steps of the three channels, as in {space}:8,4,4.")
    first, second, third = map(int, match.groups())
    spec = colour_histogram(space, (first, second, third))
    return known.get(spec.name, spec)
