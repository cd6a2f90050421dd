"""The fleet of embedded mode: replicas are child processes on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offshelf.errors import OffshelfError, Unavailable
from offshelf.services.orchestrator.fleet import Replica, ReplicaPool, Role

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)

START_SECONDS = 180.0
"""How long a replica may take to become ready. The first start of a network converts its weights."""

STARTS = 3
"""Starts in a row that may fail before a role is given up."""

LINGER_SECONDS: Mapping[str, float] = {"extractor": 0.0, "trainer": 30.0, "stats": 30.0, "predictor": float("inf")}
"""How long a replica outlives its last holder: an extractor holds a whole network in memory and goes at once."""


@dataclass(slots=True)
class _Member:
    """A role that is, or was lately, held."""

    role: Role
    holders: int = 0
    keeper: asyncio.Task[None] | None = None
    linger: asyncio.TimerHandle | None = None


class LocalFleet:
    """Starts one process a role, restarts it when it dies, and stops it when nobody needs it any more.

    A child watches its standard input: when this process is gone, however it went, the pipe closes and the child ends.

    Parameters
    ----------
    environment
        Environment of the children: the store, the token file and the like.
    logs
        Folder that receives one log file a role.
    slots
        Units at a time on the trainer; an extractor takes two, so that the next unit's images are read meanwhile.
    grace
        Seconds that a child gets between SIGTERM and SIGKILL.
    """

    def __init__(self, *, environment: Mapping[str, str], logs: Path, slots: int, grace: float) -> None:
        self._environment = dict(environment)
        self._logs = logs
        self._grace = grace
        self._members: dict[Role, _Member] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._pool = ReplicaPool(lambda role: 2 if role.service == "extractor" else slots)

    @property
    def pool(self) -> ReplicaPool:
        """The replicas that are ready."""
        return self._pool

    @asynccontextmanager
    async def hold(self, role: Role) -> AsyncIterator[None]:
        """Keep a replica of the role running while inside."""
        member = self._members.setdefault(role, _Member(role))
        member.holders += 1
        if member.linger:
            member.linger.cancel()
            member.linger = None
        if member.keeper is None or member.keeper.done():
            await self._pool.forgive(role)
            member.keeper = asyncio.create_task(self._keep(role), name=f"keep {role}")
        try:
            yield
        finally:
            member.holders -= 1
            if member.holders == 0:
                self._let_go(member)

    async def close(self) -> None:
        """Stop all children and wait until they are gone."""
        for member in self._members.values():
            if member.linger:
                member.linger.cancel()
            self._retire(member)
        await asyncio.gather(*self._retiring, return_exceptions=True)

    def _let_go(self, member: _Member) -> None:
        linger = LINGER_SECONDS[member.role.service]
        if linger != float("inf"):
            member.linger = asyncio.get_running_loop().call_later(linger, self._retire, member)

    def _retire(self, member: _Member) -> None:
        # The member forgets its keeper at once, so that a holder who comes while the old process ends gets a new one.
        if member.keeper:
            member.keeper.cancel()
            self._retiring.add(member.keeper)
            member.keeper.add_done_callback(self._retiring.discard)
            member.keeper = None

    async def _keep(self, role: Role) -> None:
        """Start the role's process, again and again when it dies, until cancelled."""
        failures = 0
        while True:
            try:
                ready = await self._live_once(role)
            except OffshelfError as error:
                # It said itself why it cannot start; another try would hear the same.
                await self._pool.refuse(role, error)
                return
            failures = 0 if ready else failures + 1
            if failures >= STARTS:
                log = self._logs / f"{role}.log"
                reason = f"{role} ended {STARTS} times before it was ready. Its log is {log}."
                await self._pool.refuse(role, Unavailable(reason))
                return
            _log.warning("replica ended", extra={"role": str(role), "was_ready": ready})

    async def _live_once(self, role: Role) -> bool:
        """Run one process of the role to its end and tell whether it had become ready."""
        with (self._logs / f"{role}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", f"offshelf.services.{role.service}"),
                env=self._environment | {"OFFSHELF_PARENT_PIPE": "1", "OFFSHELF_EXTRACTOR": role.extractor},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,  # Ctrl-C in a terminal is for the parent, which stops its children in order
            )
        replica: Replica | None = None
        try:
            replica = await self._await_ready(role, process)
            if replica is None:
                return False
            await self._pool.add(replica)
            await process.wait()
            return True
        finally:
            if replica:
                await asyncio.shield(self._pool.remove(replica))
            await asyncio.shield(self._stop(process))

    async def _await_ready(self, role: Role, process: asyncio.subprocess.Process) -> Replica | None:
        assert process.stdout is not None  # noqa: S101  (asked for above)
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_SECONDS)
        except TimeoutError:
            raise Unavailable(f"{role} was not ready after {START_SECONDS:.0f} s.") from None
        if not line:
            return None
        answer = json.loads(line)
        if not answer["ready"]:
            raise OffshelfError.named(answer["kind"])(answer["error"])
        return Replica(role, f"{role}-{process.pid}", answer["address"])

    async def _stop(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is not None:
            return
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), self._grace)
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
