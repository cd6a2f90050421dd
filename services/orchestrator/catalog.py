"""Which extractors there are, and which of them can be used here."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from offshelf.extraction.own.stored import missing_file, stored_as
from offshelf.extraction.spec import fingerprint
from offshelf.extraction.weights.finding import availability, source_of

if TYPE_CHECKING:
    from offshelf.extraction.extractors import Extractors
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.extraction.weights.fetching import FetchPolicy, Source
    from offshelf.store import ObjectStore


@dataclass(frozen=True, slots=True)
class ExtractorCatalog:
    """The extractors of this installation. What is asked may be asked of the store, which blocks."""

    store: ObjectStore
    weights: str
    """Where weights are looked for (the setting of that name)."""
    fetch: FetchPolicy
    """Who may be asked for those that are missing."""
    extractors: Extractors

    @property
    def names(self) -> tuple[str, ...]:
        """All names that are registered, in the registry's order."""
        return tuple(self.extractors.registered)

    def list(self) -> list[tuple[ExtractorSpec, str, bool]]:
        """List all extractors, networks of users' own last, each with what `availability` and `fetchable` say of it."""
        specs = [*self.extractors.registered.values(), *self.extractors.own()]
        return [(spec, self._availability(spec), self._source(spec) is not None) for spec in specs]

    def find(self, name: str) -> ExtractorSpec:
        """Look an extractor up; see `Extractors.find`."""
        return self.extractors.find(name)

    def fingerprint(self, name: str) -> str:
        """Digest of everything that decides an extractor's vectors."""
        return fingerprint(self.find(name))

    def availability(self, name: str) -> str:
        """Return nothing if the extractor can be used here, else why not and what to do, in one line."""
        return self._availability(self.find(name))

    def fetchable(self, name: str) -> bool:
        """Tell whether weights of an extractor that are missing may be downloaded, and are published."""
        return self._source(self.find(name)) is not None

    def _source(self, spec: ExtractorSpec) -> Source | None:
        return source_of(spec, self.fetch)

    def _availability(self, spec: ExtractorSpec) -> str:
        if key := stored_as(spec):
            return "" if self.store.stat(key) else missing_file(spec)
        return availability(spec, self.weights, self.fetch, store=self.store)
