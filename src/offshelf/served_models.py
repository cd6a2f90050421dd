"""Networks that run elsewhere, on servers that speak the prediction API of TensorFlow Serving: where, and what is said.

`offshelf.extraction.saved_model` makes such networks, and `offshelf.rpc.remote_engine` asks them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

SIGNATURE: Final = "serving_default"

IMAGES: Final = "images"
"""Input of the network: uint8, shape (n, height, width, 3), RGB."""

FEATURES: Final = "features"
"""Output of the network: float32, shape (n, dimension)."""

IDENTITY_SIGNATURE: Final = "identity"
"""Tells which network it is; takes `IMAGES`, too."""

FINGERPRINT: Final = "fingerprint"
"""Output of that: a string for each image, the fingerprint of the extractor."""

_ENTRY: Final = re.compile(
    r"(?P<extractor>[^=\s]+)=(?P<address>(?:\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9._-]+):(?P<port>[0-9]{1,5}))"
    r"(?:/(?P<model>[A-Za-z0-9._:-]+)(?:/(?P<version>[0-9]{1,18}))?)?"
)
_MAX_PORT: Final = 65535

EXPECTED: Final = "EXTRACTOR=HOST:PORT, or EXTRACTOR=HOST:PORT/MODEL/VERSION, separated by spaces, each extractor once"
"""How such networks are written."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One extractor's network on a server."""

    extractor: str
    """Name of the extractor, as it is registered."""
    address: str
    """HOST:PORT of the server."""
    model: str
    """What the server calls the network."""
    version: int | None = None
    """The version that must answer; None for the newest, as the server has it."""


def model_name(extractor: str) -> str:
    """Return what servers call an extractor's network unless said otherwise: its name, fit for a folder."""
    return extractor.replace(":", "-")


def parse_served_models(text: str) -> tuple[ServedModel, ...]:
    """Read what `EXPECTED` says. Raises `ValueError` with that if it is something else.

    Extractors get the names that they are registered by, whichever way they are written: "resnet" is resnet50, and so
    is "resnet50:avg". What is no extractor stays as it is, for `offshelf.extraction.extractors` to refuse.
    """
    found: dict[str, ServedModel] = {}
    for entry in text.split():
        model = _parse(entry)
        if model.extractor in found:
            raise ValueError(f"{EXPECTED} ({model.extractor} is there twice)")
        found[model.extractor] = model
    return tuple(found.values())


def _parse(entry: str) -> ServedModel:
    from offshelf.extraction.registry import lookup  # here, since most settings have none of these

    match = _ENTRY.fullmatch(entry)
    if match is None or not 0 < int(match["port"]) <= _MAX_PORT:
        raise ValueError(EXPECTED)
    spec, version = lookup(match["extractor"]), match["version"]
    extractor = spec.name if spec else match["extractor"]
    return ServedModel(
        extractor=extractor,
        address=match["address"],
        model=match["model"] or model_name(extractor),
        version=int(version) if version else None,
    )
