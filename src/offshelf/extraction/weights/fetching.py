"""Whether weights that are missing are downloaded from their authors, and from which hosts.

This and the modules it leads to need the standard library alone: `offshelf weights` works where no extra is installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple
from urllib.parse import quote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Sequence

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

_WEB: Final = ("https://", "http://")


class Source(NamedTuple):
    """Where a file can be downloaded from."""

    file: WeightsFile
    url: str
    hosts: tuple[str, ...]
    """Who may be asked, and may be redirected to."""

    @property
    def host(self) -> str:
        """Who is asked."""
        return urlsplit(self.url).hostname or ""

    def __str__(self) -> str:
        """Say what would come, for people."""
        return f"{megabytes(self.file.size)} from {self.host}" if self.file.size else f"from {self.host}"


@dataclass(frozen=True, slots=True)
class FetchPolicy:
    """Who may be asked for a file of weights that is not where weights are kept."""

    allowed: bool
    """Whether its authors are."""
    hosts: tuple[str, ...]
    """Those that may be asked, and may be redirected to: of authors, and what else the operator has named."""
    mirror: str = ""
    """Address of a mirror on the web, which is asked first, whether authors are or not: an operator has named it."""

    @classmethod
    def of(cls, settings: Settings) -> FetchPolicy:
        """Read it from a service's settings, which may name hosts besides those of authors."""
        allowed = settings.fetch == "auto"
        mirror = settings.weights.rstrip("/") if is_web(settings.weights) else ""
        return cls(allowed, (*(HOSTS if allowed else ()), *settings.fetch_hosts), mirror)

    def sources(self, files: Sequence[WeightsFile]) -> list[Source]:
        """List where files, any of which will do, can be downloaded from, the best first."""
        found = []
        if self.mirror:
            hosts = ((urlsplit(self.mirror).hostname or "").lower(), *self.hosts)
            found += [Source(file, f"{self.mirror}/{quote(file.name)}", hosts) for file in files]
        if self.allowed:
            found += [Source(file, file.source, self.hosts) for file in files if file.source]
        return found


NEVER: Final = FetchPolicy(allowed=False, hosts=())
"""Nobody is asked."""


def is_web(weights: str) -> bool:
    """Tell whether weights are taken from a mirror on the web."""
    return weights.lower().startswith(_WEB)


def megabytes(size: int) -> str:
    """Say how large something is, for people."""
    return f"{max(size / 1e6, 0.1):.1f} MB"
