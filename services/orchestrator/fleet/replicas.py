"""Replicas and the right to send them work.

A fleet keeps replicas of a role running while somebody holds the role, and tells the pool which of them are ready.
The pool hands out leases: at most so many units at a time on each replica, the least busy first. Round robin is not
used, since it is blind to load.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from offshelf.errors import OffshelfError, StoreDenied, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

STORE_ERRORS = (StoreDenied, StoreFull, StoreUnavailable)
"""What says something about the store, and nothing about a replica or its work."""


class RoleUnavailable(OffshelfError):
    """No replica of a role can be started; asking again at once will not help."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a replica is for: a service, and for extractors which one."""

    service: str
    """extractor, trainer, stats or predictor."""
    extractor: str = ""

    def __str__(self) -> str:
        return f"{self.service}-{self.extractor}" if self.extractor else self.service


@dataclass(frozen=True, slots=True)
class Replica:
    """One running process of a role."""

    role: Role
    name: str
    address: str


class ReplicaPool:
    """The ready replicas and what they are doing. Belongs to one event loop."""

    def __init__(self, slots: Callable[[Role], int]) -> None:
        """`slots` says how many units a replica of a role takes at a time."""
        self._slots = slots
        self._busy: dict[Role, dict[Replica, int]] = defaultdict(dict)
        self._refusals: dict[Role, OffshelfError] = {}
        self._leased: set[Replica] = set()
        self._changed = asyncio.Event()

    def add(self, replica: Replica) -> None:
        """Take a replica that has become ready."""
        self._busy[replica.role][replica] = 0
        self._refusals.pop(replica.role, None)
        self._tell()

    def remove(self, replica: Replica) -> None:
        """Forget a replica that has gone or is about to; its leases end with their calls."""
        self._busy[replica.role].pop(replica, None)
        self._leased.discard(replica)
        self._tell()

    def refuse(self, role: Role, error: OffshelfError) -> None:
        """Let every lease of a role fail: no replica of it can be started."""
        self._refusals[role] = error
        self._tell()

    def forgive(self, role: Role) -> None:
        """Undo `refuse`: somebody asks for the role anew."""
        self._refusals.pop(role, None)

    def was_leased(self, replica: Replica) -> bool:
        """Whether a ready replica has ever been leased."""
        return replica in self._leased

    def ready(self, role: Role) -> tuple[Replica, ...]:
        """Return the ready replicas of a role."""
        return tuple(self._busy[role])

    @asynccontextmanager
    async def lease(self, role: Role) -> AsyncIterator[Replica]:
        """Wait for a replica with a free slot and occupy it.

        Raises
        ------
        RoleUnavailable
            If no replica of this role can be started, with the reason.
        StoreFull, StoreDenied, StoreUnavailable
            If the store is the reason.
        """
        while (replica := self._least_busy(role)) is None:
            if refusal := self._refusals.get(role):
                kind = type(refusal) if isinstance(refusal, STORE_ERRORS) else RoleUnavailable
                raise kind(refusal.message)
            await self._changed.wait()
        self._busy[role][replica] += 1
        self._leased.add(replica)
        try:
            yield replica
        finally:
            # Without a pause, which a cancelled holder might not come back from.
            if replica in self._busy[role]:
                self._busy[role][replica] -= 1
            self._tell()

    def _tell(self) -> None:
        """Have all that wait look again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _least_busy(self, role: Role) -> Replica | None:
        free = [(busy, replica.name, replica) for replica, busy in self._busy[role].items() if busy < self._slots(role)]
        return min(free)[2] if free else None


class Fleet(Protocol):
    """Keeps replicas running. `LocalFleet` starts processes; in a cluster, Deployments are scaled."""

    @property
    def pool(self) -> ReplicaPool:
        """The replicas that are ready."""
        ...

    def hold(self, role: Role) -> AbstractAsyncContextManager[None]:
        """Keep replicas of a role running while inside. Returns before they are ready: a lease waits for them."""
        ...

    async def close(self) -> None:
        """Stop every replica that this fleet started."""
        ...
