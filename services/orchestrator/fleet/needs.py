"""Roles that are held: by whom, and how it stands with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.services.orchestrator.fleet.outlook import Outlook
    from offshelf.services.orchestrator.fleet.troubles import Trouble


@dataclass(eq=False, slots=True)
class Holder:
    """Somebody who needs a role."""

    units: int
    """How much there is to do."""
    tell: Callable[[str], None]
    told: str = ""

    def hear(self, line: str) -> None:
        """Be told what is in the way, unless it was said before."""
        if line != self.told:
            self.told = line
            self.tell(line)


@dataclass(slots=True)
class Need:
    """A role that is held."""

    outlook: Outlook
    holders: set[Holder] = field(default_factory=set)
    refused: Trouble | None = None
    """What the API answered when it was last asked to scale the role."""
