"""The fleet of embedded mode: replicas are child processes on loopback."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offshelf.errors import Internal, OffshelfError, Unavailable
from offshelf.services.orchestrator.fleet.replicas import Replica, ReplicaPool, Role, keep_quiet
from offshelf.store.durable import store_errors

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

_log = logging.getLogger(__name__)

START_SECONDS = 180.0
"""How long a replica may take to become ready. The first start of a network converts its weights."""

STARTS = 3
"""Starts in a row that may fail before a role is given up."""

STEADY_SECONDS = 5.0
"""A replica that nobody used and that ends sooner after it became ready counts as one that failed to start."""

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
        Units at a time on the trainer; an extractor takes two, of which one waits for its cores and follows at once.
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

    def role_of(self, extractor: str) -> Role:
        """Return the role of an extractor: each has a process of its own, whatever its parameters."""
        return Role("extractor", extractor)

    @asynccontextmanager
    async def hold(
        self,
        role: Role,
        *,
        units: int = 1,  # noqa: ARG002  (one process a role, which has all cores: more of them would share these)
        tell: Callable[[str], None] = keep_quiet,  # noqa: ARG002  (a process starts at once, or is refused)
    ) -> AsyncIterator[None]:
        """Keep a replica of the role running while inside."""
        member = self._members.setdefault(role, _Member(role))
        member.holders += 1
        if member.linger:
            member.linger.cancel()
            member.linger = None
        # No pause from here to the keeper: of two holders that come at once, one starts it.
        if member.keeper is None or member.keeper.done():
            self._pool.forgive(role)
            member.keeper = asyncio.create_task(self._keep(role), name=f"keep {role}")
        try:
            yield
        finally:
            member.holders -= 1
            if member.holders == 0:
                self._let_go(member)

    async def blames(self, replica: Replica) -> bool:  # noqa: ARG002  (part of the protocol)
        """Tell that a lost process may have been its work's fault: nothing else ends one here."""
        return True

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
        while failures < STARTS:
            try:
                was_of_use = await self._live_once(role)
            except OffshelfError as error:
                # It said itself why it cannot start; another try would hear the same.
                self._pool.refuse(role, error)
                return
            except Exception as error:  # noqa: BLE001  (whoever waits for the role would wait for ever)
                _log.exception("replica cannot be started", extra={"role": str(role)})
                self._pool.refuse(role, Internal(f"{role} cannot be started ({error})."))
                return
            failures = 0 if was_of_use else failures + 1
            _log.warning("replica ended", extra={"role": str(role), "was_of_use": was_of_use})
        reason = f"{role} ended {STARTS} times before it could be used. Its log is {self._log_file(role)}."
        self._pool.refuse(role, Unavailable(reason))

    async def _live_once(self, role: Role) -> bool:
        """Run one process of the role to its end and tell whether it was of use: ready, and not just to die at once."""
        with store_errors(str(self._logs)):
            log = self._log_file(role).open("ab")
        with log:
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
            self._pool.add(replica)
            began = time.monotonic()
            await process.wait()
            return self._pool.was_leased(replica) or time.monotonic() - began >= STEADY_SECONDS
        finally:
            if replica:
                self._pool.remove(replica)
            await asyncio.shield(self._stop(process))

    def _log_file(self, role: Role) -> Path:
        return self._logs / f"{role}.log"

    async def _await_ready(self, role: Role, process: asyncio.subprocess.Process) -> Replica | None:
        assert process.stdout is not None  # noqa: S101  (asked for above)
        try:
            async with asyncio.timeout(START_SECONDS):
                line = await process.stdout.readline()
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
            async with asyncio.timeout(self._grace):
                await process.wait()
        except TimeoutError:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
