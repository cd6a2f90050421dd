"""The orchestrator of one machine: a directory store, which it locks, and services that are its child processes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

from offshelf.errors import InvalidInput, OffshelfError
from offshelf.rpc.auth import read_token
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.peers import GrpcPeers
from offshelf.services.orchestrator.fleet.local import LocalFleet
from offshelf.services.orchestrator.predictor_door import PredictorDoor
from offshelf.store import open_store
from offshelf.store.ownership import StoreOwnership, claim_no_clients

if TYPE_CHECKING:
    from offshelf.settings import Settings

_log = logging.getLogger(__name__)

_CLIENT_POLL_SECONDS = 0.5
"""How often an orchestrator that was started by a client looks whether any client is left."""

_CLIENT_POLL_FAILURES = 20
"""So many looks in a row that fail (the folder of the locks is gone): no client can hold a lease any more."""

_NOT_INHERITED = frozenset(
    f"OFFSHELF_{name}"
    for name in ("EMBEDDED", "HEALTH_PORT", "METRICS_PORT", "PLAINTEXT", "PORT", "TLS", "TOKEN", "USERS")
)
"""What is for the orchestrator's own server. Its children are on loopback and know the one token."""


EXTRACTORS_AT_A_TIME: Final = 2
"""Of a run: one extracts with all cores while the next gets ready. Each is a process with a network in it, and those of
a whole catalogue would not fit into a laptop's memory."""


class EmbeddedTenure:
    """Holds the lock of a store, which the kernel releases however the process ends; a `Tenure`.

    Started by a client, it lives until no client is left; started by `offshelf up`, until it is told to stop.
    """

    def __init__(self, settings: Settings, ownership: StoreOwnership) -> None:
        self._ownership = ownership
        self._attached = settings.embedded == "attached"
        self._watching: asyncio.Task[None] | None = None
        self.epoch = ownership.epoch
        self.takes_up = not self._attached
        self.token_file = ownership.token_file
        self.scratch: Path | None = ownership.scratch  # the system's own may be in memory
        self.extractors_at_a_time = EXTRACTORS_AT_A_TIME
        self.fleet = LocalFleet(
            environment=_children_environment(settings, ownership.token_file),
            logs=ownership.logs,
            slots=settings.cores,
            grace=settings.drain_seconds,
        )
        pool = self.fleet.pool
        self.peers = GrpcPeers(
            read_token(ownership.token_file), is_ready=lambda replica: replica in pool.ready(replica.role)
        )
        self.budget = CoreBudget(settings.cores)
        self._door = PredictorDoor(self.fleet)

    @classmethod
    async def begin(cls, settings: Settings) -> Self:
        """Take the store.

        Raises
        ------
        Conflict
            If another orchestrator has it, with its address.
        InvalidInput
            If it is no directory.
        """
        if "://" in settings.store and not settings.store.startswith("file://"):
            raise InvalidInput(
                "The orchestrator on one machine needs a directory as its store: set OFFSHELF_STORE to one, or run it "
                "in a cluster with OFFSHELF_FLEET=kubernetes."
            )
        root = Path(settings.store.removeprefix("file://"))
        await asyncio.to_thread(open_store, settings.store)  # one of another version is refused before it is locked
        return cls(settings, await asyncio.to_thread(StoreOwnership.acquire, root))

    async def locate_predictor(self) -> str:
        """See `Tenure`; the predictor is started when it is first asked for."""
        return await self._door.locate()

    async def announce(self, address: str) -> None:
        """See `Tenure`. If a client started this process, begin to look whether any is left."""
        await asyncio.to_thread(self._ownership.publish, address)
        if self._attached:
            self._watching = asyncio.create_task(self._end_with_last_client())

    async def withdraw(self) -> None:
        """See `Tenure`."""
        await asyncio.to_thread(self._ownership.withdraw)

    async def end(self) -> None:
        """See `Tenure`; stops all children."""
        if self._watching:
            self._watching.cancel()
        await self._door.close()
        await self.peers.close()
        await self.fleet.close()
        self._ownership.release()

    async def _end_with_last_client(self) -> None:
        claim, failures = None, 0
        while claim is None and failures < _CLIENT_POLL_FAILURES:
            await asyncio.sleep(_CLIENT_POLL_SECONDS)
            try:
                claim = await asyncio.to_thread(claim_no_clients, self._ownership.root)
                failures = 0
            except OffshelfError as error:
                _log.warning("cannot look for clients", extra={"reason": error.message})
                failures += 1
        _log.info("no client is left")
        os.kill(os.getpid(), signal.SIGTERM)
        # The claim is kept: a client that comes now waits until this process is gone, then starts its own.
        await asyncio.Event().wait()


def _children_environment(settings: Settings, token_file: Path) -> dict[str, str]:
    """Environment of the other services: this process's own, less what is for it alone."""
    inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
    return inherited | {
        "OFFSHELF_STORE": settings.store,
        "OFFSHELF_HOST": "127.0.0.1",
        "OFFSHELF_TOKEN_FILE": str(token_file),
        "OFFSHELF_CORES": str(settings.cores),
    }
