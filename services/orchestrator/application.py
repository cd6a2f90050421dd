"""The orchestrator as a service process: its parts put together, and its life in embedded mode."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf.errors import InvalidInput, OffshelfError
from offshelf.extraction.registry import EXTRACTORS
from offshelf.rpc.auth import read_token
from offshelf.services.orchestrator.catalog import ExtractorCatalog
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.dispatcher import Dispatcher
from offshelf.services.orchestrator.dispatch.peers import GrpcPeers
from offshelf.services.orchestrator.fleet.local import LocalFleet
from offshelf.services.orchestrator.predictor_door import PredictorDoor
from offshelf.services.orchestrator.runs.execution import Execution
from offshelf.services.orchestrator.runs.journal import Workbench
from offshelf.services.orchestrator.runs.orchestration import Orchestrator
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.servicer import OrchestratorServicer
from offshelf.store import open_store
from offshelf.store.ownership import StoreOwnership, claim_no_clients
from offshelf.v1.orchestrator_pb2_grpc import add_OrchestratorServiceServicer_to_server

if TYPE_CHECKING:
    import grpc.aio

    from offshelf.settings import Settings

_log = logging.getLogger(__name__)

_CLIENT_POLL_SECONDS = 0.5
"""How often an orchestrator that was started by a client looks whether any client is left."""

_CLIENT_POLL_FAILURES = 20
"""So many looks in a row that fail (the folder of the locks is gone): no client can hold a lease any more."""


class OrchestratorService:
    """The orchestrator over a directory store and child processes.

    It owns its store (a lock that the kernel releases however the process ends). Started by a client, it lives until
    no client is left; started by `offshelf up`, until it is told to stop.
    """

    name = "offshelf.v1.OrchestratorService"

    def __init__(self, settings: Settings, ownership: StoreOwnership) -> None:
        store = open_store(settings.store)
        token_file = ownership.token_file
        self._settings = settings
        self._ownership = ownership
        self._fleet = LocalFleet(
            environment=_children_environment(settings, token_file),
            logs=ownership.logs,
            slots=settings.cores,
            grace=settings.drain_seconds,
        )
        catalog = ExtractorCatalog(store, settings.weights, settings.fetch, EXTRACTORS)
        self._store = store
        bench = Workbench(
            store=store,
            catalog=catalog,
            fleet=self._fleet,
            dispatcher=Dispatcher(
                fleet=self._fleet,
                peers=GrpcPeers(read_token(token_file)),
                budget=CoreBudget(settings.cores),
                store=store,
                cores=settings.cores,
            ),
            roots=settings.data_roots,
            unit_seconds=settings.unit_seconds,
            max_pixels=settings.max_image_pixels,
        )
        self._orchestrator = Orchestrator(
            store=store,
            log=RunLog(store, ownership.epoch),
            catalog=catalog,
            execute=lambda journal: Execution(bench, journal),
            roots=settings.data_roots,
            take_up=settings.embedded != "attached",
        )
        self._door = PredictorDoor(self._fleet)
        self._watching: asyncio.Task[None] | None = None

    @property
    def token_file(self) -> Path:
        """The token of this store's server."""
        return self._ownership.token_file

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer to the server."""
        servicer = OrchestratorServicer(self._orchestrator, self._store, self._door.locate)
        add_OrchestratorServiceServicer_to_server(servicer, server)

    async def warm_up(self) -> None:
        """Learn of the runs in the store."""
        await self._orchestrator.start()

    async def serving(self, address: str) -> None:
        """Let clients of the same store find this server, and begin to look after them."""
        await asyncio.to_thread(self._ownership.publish, address)
        if self._settings.embedded == "attached":
            self._watching = asyncio.create_task(self._end_with_last_client())

    async def drain(self) -> None:
        """Let no further client find this server, and stop all runs in such a way that they can be taken up."""
        await asyncio.to_thread(self._ownership.withdraw)
        await self._orchestrator.drain()

    async def close(self) -> None:
        """Stop all children and give the store back."""
        if self._watching:
            self._watching.cancel()
        await self._door.close()
        await self._fleet.close()
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
    own = {"OFFSHELF_PORT", "OFFSHELF_HEALTH_PORT", "OFFSHELF_METRICS_PORT", "OFFSHELF_EMBEDDED", "OFFSHELF_TOKEN"}
    inherited = {name: value for name, value in os.environ.items() if name not in own}
    return inherited | {
        "OFFSHELF_STORE": settings.store,
        "OFFSHELF_HOST": "127.0.0.1",
        "OFFSHELF_TOKEN_FILE": str(token_file),
        "OFFSHELF_CORES": str(settings.cores),
    }


async def make_service(settings: Settings) -> OrchestratorService:
    """Take the store and put the orchestrator together.

    Raises
    ------
    Conflict
        If another orchestrator has the store, with its address.
    InvalidInput
        If the store is no directory: an S3 store needs the cluster's way of ownership.
    """
    if "://" in settings.store and not settings.store.startswith("file://"):
        raise InvalidInput("The orchestrator on one machine needs a directory as its store: set OFFSHELF_STORE to one.")
    root = Path(settings.store.removeprefix("file://"))
    await asyncio.to_thread(open_store, settings.store)  # a store of another version is refused before it is locked
    ownership = await asyncio.to_thread(StoreOwnership.acquire, root)
    return OrchestratorService(settings, ownership)
