"""Networks of users' own in the store: a file that is never looked into here, and a card, written last."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from offshelf.digests import canonical_json, digest_of_bytes, is_digest
from offshelf.errors import DataLoss, InvalidInput, NotFound
from offshelf.extraction.own.description import (
    FORMATS,
    Description,
    NetworkFormat,
    name_of,
    network_digest,
    parse_description,
    split_name,
)
from offshelf.extraction.registry.networks import with_parameters
from offshelf.extraction.spec import ExtractorSpec, Network, Weights, WeightsFile
from offshelf.store import keys
from offshelf.store.reading import read_each

if TYPE_CHECKING:
    from offshelf.store.objects import ObjectStore

MAX_NETWORK_BYTES: Final = 1 << 30
"""Of a file."""

ARCHITECTURE: Final = "own"
"""What fingerprints call the way in which such a file is read (`offshelf.extraction.networks.own`)."""

_BUILDER: Final = "offshelf.extraction.networks.own:build"
_CARD_VERSION: Final = 1


@dataclass(frozen=True, slots=True)
class OwnNetwork:
    """A network of a user's own, by what its card says."""

    format: NetworkFormat
    file: str
    """SHA-256 of the file."""
    description: Description
    file_name: str
    """As it was uploaded first."""
    size: int
    """Bytes of the file."""
    user: str
    """Who brought it."""
    created_at: datetime

    @property
    def digest(self) -> str:
        """Names it in the store."""
        return network_digest(self.file, self.format, self.description)

    @property
    def name(self) -> str:
        """What it is called as an extractor."""
        return name_of(self.format, self.file_name, self.digest)

    def goes_by(self, name: str) -> bool:
        """Tell whether an extractor of this name is this network; what stands before the "@" is for people."""
        parts = split_name(name)
        return parts is not None and parts[0] == self.format and self.digest.startswith(parts[1])

    def named(self, name: str) -> ExtractorSpec:
        """Return the extractor of a name that it goes by. Raises `InvalidInput` for a precision that there is not."""
        parts = split_name(name)
        return with_parameters(self.spec, [parts[2]]) if parts and parts[2] else self.spec

    def to_json(self) -> bytes:
        """Return the card, whose bytes are the same for the same network."""
        return canonical_json(
            {
                "version": _CARD_VERSION,
                "format": self.format,
                "file": self.file,
                "description": self.description.to_json(),
                "file_name": self.file_name,
                "size": self.size,
                "user": self.user,
                "created_at": self.created_at.isoformat(),
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> OwnNetwork:
        """Rebuild what `to_json` made. Raises `ValueError`, `KeyError`, `TypeError` or `InvalidInput` if it is none."""
        card: dict[str, Any] = json.loads(data)
        if card["version"] != _CARD_VERSION or card["format"] not in FORMATS:
            raise ValueError("of another version")
        return cls(
            format=card["format"],
            file=str(card["file"]),
            description=parse_description(json.dumps(card["description"]), "its description"),
            file_name=str(card["file_name"]),
            size=int(card["size"]),
            user=str(card["user"]),
            created_at=datetime.fromisoformat(card["created_at"]),
        )

    @property
    def spec(self) -> ExtractorSpec:
        """The extractor that it is."""
        taken = ":".join(filter(None, (self.description.pooling, self.description.output)))
        height, width = self.description.size
        licence = self.description.licence
        file = WeightsFile(
            self.file_name, f"sha256:{self.file}", stored_as=keys.own_network_file(self.digest, self.format)
        )
        return ExtractorSpec(
            name=self.name,
            description=f"A network of your own, {self.file_name}: sees {width} x {height} pixels."
            + (f" Licence: {licence.rstrip('.')}." if licence else ""),
            dimension=0,
            # Nobody knows; larger networks mostly take longer, and units are cut by it and nothing else.
            cost_seconds=0.02 + 1e-9 * self.size,
            method=Network(
                architecture=ARCHITECTURE,
                builder=_BUILDER,
                weights=Weights(self.file_name, (file,), licence or "not stated"),
                size=self.description.size,
                colour=self.description.colour,
                outputs={taken: 0},
                output=taken,
                mean=self.description.mean,
                scale=self.description.scale,
                keras=False,
            ),
        )


def read_network(store: ObjectStore, digest: str) -> OwnNetwork:
    """Read a network's card.

    Raises
    ------
    NotFound
        If there is none.
    DataLoss
        If it is damaged.
    """
    try:
        network = OwnNetwork.from_json(store.get(keys.own_network_card(digest)))
    except (ValueError, KeyError, TypeError, InvalidInput) as error:
        raise DataLoss(f"The card of the network {digest} is damaged: upload the network again.") from error
    if network.digest != digest:
        raise DataLoss(f"The card of the network {digest} is not its own: upload the network again.")
    return network


def find_network(store: ObjectStore, name: str) -> OwnNetwork:
    """Find a network by the name that it has as an extractor.

    Raises
    ------
    NotFound
        If the store has none of this name, or the name is none.
    DataLoss
        If its card is damaged.
    """
    parts = split_name(name)
    missing = NotFound(
        f"There is no network {name[:100]} in this store: it was never uploaded here, or nothing needed it any more. "
        "Name its file (onnx:FILE or tflite:FILE) to upload it."
    )
    if parts is None:
        raise missing
    format_, beginning, _ = parts
    for info in store.list(f"{keys.OWN_NETWORKS}{beginning}"):
        digest = info.key.removeprefix(keys.OWN_NETWORKS).partition("/")[0]
        if is_digest(digest) and info.key == keys.own_network_card(digest):
            network = read_network(store, digest)
            if network.format == format_:
                return network
    raise missing


def read_file(spec: ExtractorSpec, store: ObjectStore) -> tuple[WeightsFile, bytes] | None:
    """Read the file of a network of a user's own, whose digest is checked; None of any other extractor.

    Raises
    ------
    NotFound
        If the store does not have it any more.
    DataLoss
        If it is not what was uploaded.
    """
    if not isinstance(spec.method, Network) or not stored_as(spec):
        return None
    (file,) = spec.method.weights.files
    try:
        data = store.get(file.stored_as)
    except NotFound as error:
        raise NotFound(missing_file(spec)) from error
    if f"sha256:{digest_of_bytes(data)}" != file.digest:
        raise DataLoss(f"{file.name}, the network {spec.name}, is not the file that was uploaded: upload it again.")
    return file, data


def stored_as(spec: ExtractorSpec) -> str:
    """Return the key of the file of a network of a user's own; "" for any other extractor."""
    return spec.method.weights.files[0].stored_as if isinstance(spec.method, Network) else ""


def missing_file(spec: ExtractorSpec) -> str:
    """Say that a network's file is not in the store any more, and what to do."""
    return f"The file of the network {spec.name} is not in the store any more: name it again to upload it."


def list_networks(store: ObjectStore) -> list[OwnNetwork]:
    """List all networks of the store, newest first; those whose card is damaged are left out."""

    def read(digest: str) -> OwnNetwork | None:
        try:
            return read_network(store, digest)
        except (NotFound, DataLoss):
            return None

    found = read_each(read, [name for name in store.children(keys.OWN_NETWORKS) if is_digest(name)])
    return sorted(filter(None, found), key=lambda network: network.created_at, reverse=True)
