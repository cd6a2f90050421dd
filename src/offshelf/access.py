"""Who a caller is and what they may do, without a word about how they proved it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Role(IntEnum):
    """What a caller may do; each of a user's roles may do what the one before may.

    The numbers are those of the contract (``protos/offshelf/v1/access.proto``).
    """

    VIEWER = 1
    """Sees runs, datasets, models and their artefacts, and classifies images."""
    RUNNER = 2
    """Uploads images, and starts and stops runs."""
    ADMIN = 3
    """Deletes datasets, collects garbage, stops runs of others."""
    SERVICE = 4
    """Another service of the same installation. No user has it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call."""

    name: str
    """A user's name; of a service, what its certificate says."""
    roles: frozenset[Role]
    """All that they have, lower ones included."""

    @classmethod
    def user(cls, name: str, role: Role) -> Caller:
        """Make a user of a role, who may do all that lower ones may."""
        return cls(name, frozenset(each for each in (Role.VIEWER, Role.RUNNER, Role.ADMIN) if each <= role))

    def may(self, least: Role) -> bool:
        """Tell whether something that asks for a role is open to this caller."""
        return least in self.roles


OWNER = Caller("owner", frozenset(Role))
"""Whoever holds the one token of an installation on one machine: user and services are the same account."""
