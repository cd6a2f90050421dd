"""All networks that there are golden vectors of: the one place where the suite learns of a new one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.golden import definitions, googlenet, overfeat

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.golden.reference import Reference

REFERENCES: Final[Mapping[str, Reference]] = {
    each.name: each for each in (*definitions.REFERENCES, googlenet.REFERENCE, overfeat.REFERENCE)
}
"""By the names that extractors have."""
