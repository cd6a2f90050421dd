"""Which extractors there are, and which of them can be used here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from offshelf.extraction import registry
from offshelf.extraction.spec import fingerprint
from offshelf.extraction.weights.finding import availability

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.store import ObjectStore


@dataclass(frozen=True, slots=True)
class ExtractorCatalog:
    """The extractors of this installation."""

    store: ObjectStore
    weights: str
    """Where weights are looked for (the setting of that name)."""
    fetch: str
    extractors: Mapping[str, ExtractorSpec]

    @property
    def names(self) -> tuple[str, ...]:
        """All names, in the registry's order."""
        return tuple(self.extractors)

    def find(self, name: str) -> ExtractorSpec:
        """Look an extractor up; see `registry.find`."""
        return registry.find(name, self.extractors)

    def fingerprint(self, name: str) -> str:
        """Digest of everything that decides an extractor's vectors."""
        return fingerprint(self.find(name))

    def availability(self, name: str) -> str:
        """Return nothing if the extractor can be used here, else why not and what to do, in one line."""
        return availability(self.find(name), self.weights, self.fetch, store=self.store)
