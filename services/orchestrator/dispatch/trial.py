"""One unit on its way: what has gone wrong with it so far, and whether it may go on.

Who is blamed for a replica that ended without an answer:

- nobody, while the store or a remote engine is away, or when somebody took the replica away (evicted, deleted, its node
  gone), or when the unit had not been sent yet;
- else the units on it are *suspects*, since one of them may have done it. A suspect is sent again to a replica of its
  own. `ATTEMPTS` replicas lost that way are the unit's fault.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from offshelf.backoff import full_jitter
from offshelf.errors import EngineUnavailable, StoreUnavailable
from offshelf.services.orchestrator.dispatch.failures import UnitLost, Unreached
from offshelf.services.orchestrator.dispatch.patience import Outage, Patience
from offshelf.services.orchestrator.fleet.replicas import RoleUnavailable
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.errors import Unavailable
    from offshelf.services.orchestrator.fleet.replicas import Fleet, Replica, Role
    from offshelf.store import ObjectStore

_log = logging.getLogger(__name__)

ATTEMPTS = 2
"""Replicas that a unit may cost, alone on each, before it counts as what kills them."""

MOST_LOSSES = 100
"""Replicas that may be taken away under one unit before its role is given up."""

_BACK_OFF_SECONDS = 0.2
_LONGEST_BACK_OFF_SECONDS = 5.0

_REACHED_SECONDS = 120.0
"""A role that nobody failed to reach for so long was within reach: an attempt to connect takes seconds."""


@dataclass(frozen=True, slots=True)
class Outages:
    """What the units of one role cannot get at, of all runs together."""

    store: Outage = field(default_factory=Outage)
    """The store, as the role's replicas see it."""
    engine: Outage = field(default_factory=Outage)
    """The remote engine of an extractor."""
    replicas: Outage = field(default_factory=lambda: Outage(quiet_seconds=_REACHED_SECONDS))
    """The replicas themselves."""

    def are_over(self) -> None:
        """Take note that a unit gets on."""
        self.store.is_over()
        self.engine.is_over()
        self.replicas.is_over()


class Trial:
    """What one unit has gone through. Its methods return when the unit may be sent again, or raise why not.

    Parameters
    ----------
    role
        What the unit is sent to.
    what
        Names the unit in messages.
    outages
        What is away for the role.
    tell
        Called with a line that says what is in the way, and with "" when it no longer is.
    suspect
        Whether the unit may have cost a replica already.
    """

    def __init__(
        self,
        role: Role,
        what: str,
        *,
        fleet: Fleet,
        store: ObjectStore,
        outages: Outages,
        tell: Callable[[str], None],
        suspect: bool,
    ) -> None:
        self.suspect = suspect
        self._role = role
        self._what = what
        self._fleet = fleet
        self._store = store
        self._outages = outages
        self._patience = Patience(tell)
        self._losses = 0
        self._blamed = 0

    async def store_away(self, error: StoreUnavailable, *, at_start: bool) -> None:
        """Wait for the store; `at_start`: no replica could start without it. Raises `error` after some minutes."""
        await self._patience.wait_for_store(error, self._outages.store)
        if at_start:
            await self._start_again()

    async def engine_away(self, error: EngineUnavailable, *, at_start: bool) -> None:
        """Wait for the extractor's remote engine, in the same way. Raises `RoleUnavailable` after some minutes."""
        try:
            pause = self._patience.next_pause(error, error.message, self._outages.engine)
        except EngineUnavailable:
            raise RoleUnavailable(error.message) from error
        await asyncio.sleep(pause)
        if at_start:
            await self._start_again()

    async def _start_again(self) -> None:
        async with self._fleet.hold(self._role):
            pass  # who asks anew has replicas started again

    def unreached(self, error: Unreached, replica: Replica) -> None:
        """Look for another replica; this one gets nothing for a while. Raises `RoleUnavailable` after some minutes."""
        line = f"{self._role} cannot be reached: {error.message}"
        try:
            seconds = self._patience.next_pause(error, line, self._outages.replicas)
        except Unreached:
            raise RoleUnavailable(line) from error
        self._fleet.pool.shun(replica, seconds)

    async def lost(self, error: Unavailable, replica: Replica) -> None:
        """Find out whom to blame.

        Raises
        ------
        UnitLost
            It is the unit.
        RoleUnavailable
            Too many replicas have gone, and never by the unit's fault.
        """
        _log.warning("replica lost", extra={"replica": replica.name, "unit": self._what, "reason": error.message})
        try:
            await asyncio.to_thread(self._store.stat, keys.FORMAT)
        except StoreUnavailable as away:
            # What needs the store may end without it.
            await self._patience.wait_for_store(away, self._outages.store)
            return
        self._outages.are_over()  # the store answers, and the replica had the unit
        self._losses += 1
        if await self._fleet.blames(replica):
            self._blamed += self.suspect
            self.suspect = True
        if self._blamed >= ATTEMPTS:
            raise UnitLost(
                f"{self._what}: the process that worked on it ended without an answer {ATTEMPTS} times. "
                f"The last time: {error.message}"
            ) from error
        if self._losses >= MOST_LOSSES:
            raise RoleUnavailable(
                f"{self._role}: {self._losses} replicas went away while they worked on {self._what}. "
                "Find out what takes them away, then run again."
            ) from error
        await asyncio.sleep(full_jitter(self._losses, first=_BACK_OFF_SECONDS, longest=_LONGEST_BACK_OFF_SECONDS))

    def over(self) -> None:
        """Take note that the unit is not waited for any more, however it ended."""
        self._patience.over()
