"""Whether weights that are missing are downloaded from their authors, and from which hosts.

This and the modules it leads to need the standard library alone: `offshelf weights` works where no extra is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from offshelf.extraction.spec import WeightsFile
    from offshelf.settings import Settings

HOSTS: Final = (
    "storage.googleapis.com",
    "github.com",
    "objects.githubusercontent.com",
    "release-assets.githubusercontent.com",
    "dl.caffe.berkeleyvision.org",
)
"""Those of the addresses in the registry, and those that they redirect to."""


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """What may be asked for a file of weights that is not where weights are kept."""

    allowed: bool
    """Whether anybody is asked."""
    hosts: tuple[str, ...]
    """Who may be asked, and may be redirected to."""

    @classmethod
    def of(cls, settings: Settings) -> FetchPolicy:
        """Read it from a service's settings."""
        allowed = settings.fetch == "auto"
        return cls(allowed, settings.fetch_hosts or (HOSTS if allowed else ()))

    def source_among(self, files: tuple[WeightsFile, ...]) -> WeightsFile | None:
        """Choose the file to download; None if none may be, or none is published."""
        return next((file for file in files if file.source), None) if self.allowed else None


NEVER: Final = FetchPolicy(allowed=False, hosts=())
"""Nobody is asked."""
