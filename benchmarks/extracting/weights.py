"""Networks to measure with: of their real weights where those are here, else of random ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf.errors import OffshelfError
from offshelf.extraction.conversion import network_of, store_network
from offshelf.extraction.spec import fingerprint

if TYPE_CHECKING:
    from offshelf.extraction.conversion import ConvertedNetwork
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.store import ObjectStore


def network_for(spec: ExtractorSpec, store: ObjectStore, weights: str) -> ConvertedNetwork:
    """Convert an extractor's network into a store, where the service will find it."""
    try:
        return network_of(spec, store=store, weights=weights)
    except OffshelfError:
        from tests.golden.networks import random_network

        made = random_network(spec)
        store_network(store, fingerprint(spec), made)
        return made
