"""Replicas and the right to send them work.

A fleet keeps replicas of a role running while somebody holds the role, and tells the pool which of them are ready.
The pool hands out leases: at most so many units at a time on each replica, the least busy first. Round robin is not
used, since it is blind to load. Whoever waits is served in the order of coming, without waking the others: thousands of
units may wait for the same replicas.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from offshelf.errors import EngineUnavailable, OffshelfError, StoreDenied, StoreFull, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

NOT_ITS_OWN = (StoreDenied, StoreFull, StoreUnavailable, EngineUnavailable)
"""What says something about the store, or about an engine elsewhere, and nothing about a replica or its work."""


class RoleUnavailable(OffshelfError):
    """No replica of a role can be started; asking again at once will not help."""


@dataclass(frozen=True, slots=True)
class Role:
    """What a replica is for: a service, and for extractors which one, or "custom" for those that share replicas."""

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
    server_name: str = ""
    """Name that its certificate must have; empty for the host of its address."""


@dataclass(slots=True)
class _Load:
    """What a replica is doing. It outlives the replica's readiness until its last lease has ended."""

    units: int = 0
    alone: bool = False


@dataclass(slots=True)
class _Line:
    """A role's replicas, and who waits for them."""

    ready: dict[Replica, None] = field(default_factory=dict)
    shared: OrderedDict[asyncio.Future[Replica], None] = field(default_factory=OrderedDict)
    alone: OrderedDict[asyncio.Future[Replica], None] = field(default_factory=OrderedDict)


class ReplicaPool:
    """The ready replicas and what they are doing. Belongs to one event loop."""

    def __init__(self, slots: Callable[[Role], int]) -> None:
        """`slots` says how many units a replica of a role takes at a time."""
        self._slots = slots
        self._lines: dict[Role, _Line] = {}
        self._loads: dict[Replica, _Load] = {}
        self._refusals: dict[Role, OffshelfError] = {}
        self._leased: set[Replica] = set()
        self._shunned: dict[Replica, asyncio.TimerHandle] = {}

    def add(self, replica: Replica) -> None:
        """Take a replica that has become ready."""
        self._line(replica.role).ready[replica] = None
        self._loads.setdefault(replica, _Load())
        self._refusals.pop(replica.role, None)
        self._serve(replica.role)

    def remove(self, replica: Replica) -> None:
        """Forget a replica that has gone or is about to; its leases end with their calls."""
        self._line(replica.role).ready.pop(replica, None)
        self._leased.discard(replica)
        if handle := self._shunned.pop(replica, None):
            handle.cancel()
        self._forget_idle(replica)

    def shun(self, replica: Replica, seconds: float) -> None:
        """Give a ready replica nothing for some time: it cannot be reached, and would always be the least busy."""
        if replica not in self._line(replica.role).ready:
            return
        if handle := self._shunned.pop(replica, None):
            handle.cancel()

        def welcome() -> None:
            del self._shunned[replica]
            self._serve(replica.role)

        self._shunned[replica] = asyncio.get_running_loop().call_later(seconds, welcome)

    def refuse(self, role: Role, error: OffshelfError) -> None:
        """Let every lease of a role fail: no replica of it can be started."""
        self._refusals[role] = error
        line = self._line(role)
        for waiting in (line.alone, line.shared):
            while waiting:
                turn, _ = waiting.popitem(last=False)
                if not turn.done():
                    turn.set_exception(_refusal(error))

    def forgive(self, role: Role) -> None:
        """Undo `refuse`: somebody asks for the role anew."""
        self._refusals.pop(role, None)

    def was_leased(self, replica: Replica) -> bool:
        """Whether a ready replica has ever been leased."""
        return replica in self._leased

    def ready(self, role: Role) -> tuple[Replica, ...]:
        """Return the ready replicas of a role."""
        line = self._lines.get(role)
        return tuple(line.ready) if line else ()

    def waiting(self, role: Role) -> int:
        """Count the leases of a role that wait for a replica."""
        line = self._lines.get(role)
        return len(line.shared) + len(line.alone) if line else 0

    def busy(self, role: Role) -> int:
        """Count the units that are with replicas of a role."""
        return sum(load.units for replica, load in self._loads.items() if replica.role == role)

    def roles(self) -> tuple[Role, ...]:
        """Return the roles that had a replica, or were asked for, since the start."""
        return tuple(self._lines)

    @asynccontextmanager
    async def lease(self, role: Role, *, alone: bool = False) -> AsyncIterator[Replica]:
        """Wait for a replica with a free slot and occupy it.

        Parameters
        ----------
        role
            What the replica should be for.
        alone
            Wait for a replica with nothing else on it, and let nothing else onto it meanwhile. Such a lease goes before
            those that came earlier: else a replica that is always busy would never be free for it.

        Raises
        ------
        RoleUnavailable
            If no replica of this role can be started, with the reason.
        StoreFull, StoreDenied, StoreUnavailable
            If the store is the reason.
        EngineUnavailable
            If a remote engine is.
        """
        replica = await self._turn(role, alone=alone)
        self._leased.add(replica)
        load = self._loads[replica]
        try:
            yield replica
        finally:
            # Without a pause, which a cancelled holder might not come back from.
            self._give_back(replica, load)

    async def _turn(self, role: Role, *, alone: bool) -> Replica:
        line = self._line(role)
        turn: asyncio.Future[Replica] = asyncio.get_running_loop().create_future()
        waiting = line.alone if alone else line.shared
        waiting[turn] = None
        self._serve(role)
        if not turn.done() and (refusal := self._refusals.get(role)):
            del waiting[turn]
            raise _refusal(refusal)
        try:
            return await turn
        except asyncio.CancelledError:
            waiting.pop(turn, None)
            if turn.done() and not turn.cancelled() and turn.exception() is None:
                self._give_back(turn.result(), self._loads[turn.result()])
            else:
                self._serve(role)  # nothing is kept free for it any more
            raise

    def _serve(self, role: Role) -> None:
        """Give what is free to whoever waits longest."""
        line = self._line(role)
        if not (line.shared or line.alone):
            return
        slots = self._slots(role)
        # Replicas that may take more, the least busy last.
        open_ = sorted(
            (replica for replica in line.ready if not self._loads[replica].alone and replica not in self._shunned),
            key=lambda replica: (self._loads[replica].units, replica.name),
            reverse=True,
        )
        while line.alone and open_ and self._loads[open_[-1]].units == 0:
            self._grant(line.alone, open_.pop(), alone=True)
        # For each that still waits to be alone, one replica gets nothing more until it is empty: the one that will be
        # so soonest.
        del open_[max(len(open_) - len(line.alone), 0) :]
        free = [(self._loads[replica].units, replica.name, replica) for replica in open_]
        heapq.heapify(free)
        while line.shared and free and free[0][0] < slots:
            units, name, replica = free[0]
            self._grant(line.shared, replica, alone=False)
            heapq.heapreplace(free, (units + 1, name, replica))

    def _grant(self, waiting: OrderedDict[asyncio.Future[Replica], None], replica: Replica, *, alone: bool) -> None:
        turn, _ = waiting.popitem(last=False)
        if turn.done():
            return  # cancelled, and its waiter has not run yet
        load = self._loads[replica]
        load.units += 1
        load.alone = alone
        turn.set_result(replica)

    def _give_back(self, replica: Replica, load: _Load) -> None:
        load.units -= 1
        load.alone = False
        self._forget_idle(replica)
        self._serve(replica.role)

    def _forget_idle(self, replica: Replica) -> None:
        if replica not in self._line(replica.role).ready and (load := self._loads.get(replica)) and not load.units:
            del self._loads[replica]

    def _line(self, role: Role) -> _Line:
        return self._lines.setdefault(role, _Line())


def _refusal(error: OffshelfError) -> OffshelfError:
    kind = type(error) if isinstance(error, NOT_ITS_OWN) else RoleUnavailable
    return kind(error.message)


def keep_quiet(_line: str) -> None:
    """Tell nobody what is in the way of a replica."""


class Fleet(Protocol):
    """Keeps replicas running. `LocalFleet` starts processes; in a cluster, Deployments are scaled."""

    @property
    def pool(self) -> ReplicaPool:
        """The replicas that are ready."""
        ...

    def role_of(self, extractor: str) -> Role:
        """Return the role whose replicas serve an extractor, by its name. Several extractors may share one."""
        ...

    def hold(
        self, role: Role, *, units: int = 1, tell: Callable[[str], None] = keep_quiet
    ) -> AbstractAsyncContextManager[None]:
        """Keep replicas of a role running while inside. Returns before they are ready: a lease waits for them.

        Parameters
        ----------
        role
            What the replicas are for.
        units
            How much there is to do, in units: what decides how many replicas are worth having.
        tell
            Called in the event loop with one line for a person when something is in the way of a replica, and with ""
            when it no longer is.
        """
        ...

    async def blames(self, replica: Replica) -> bool:
        """Tell whether the loss of a replica may be its work's fault. It is not when somebody took the replica away."""
        ...

    async def close(self) -> None:
        """Let go of everything: nothing is started, watched or told any more."""
        ...
