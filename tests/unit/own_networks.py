"""Networks of a user's own for tests: described, and put into stores as uploads put them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from offshelf.digests import digest_of_bytes
from offshelf.extraction.own.description import Description, NetworkFormat, parse_description
from offshelf.extraction.own.stored import OwnNetwork
from offshelf.store import keys
from tests.unit import tiny_onnx

if TYPE_CHECKING:
    from offshelf.store import ObjectStore

PLAIN = {"size": 32, "colour": "RGB", "mean": 0, "scale": 1}


def described(**changes: Any) -> Description:
    """Describe a network that takes 32 x 32 pixels as they are."""
    return parse_description(json.dumps(PLAIN | changes), "net.json")


def put_network(
    store: ObjectStore,
    data: bytes | None = None,
    *,
    name: str = "net.onnx",
    format_: NetworkFormat = "onnx",
    **description: Any,
) -> OwnNetwork:
    """Put a network into a store; by default a small one."""
    data = tiny_onnx.network() if data is None else data
    network = OwnNetwork(
        format=format_,
        file=digest_of_bytes(data),
        description=described(**description),
        file_name=name,
        size=len(data),
        user="ann",
        created_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    store.put(keys.own_network_file(network.digest, format_), data)
    store.put(keys.own_network_card(network.digest), network.to_json())
    return network
