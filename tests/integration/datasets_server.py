"""The service of datasets over a directory: alone in this process, or with all of an orchestrator in one of its own."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

from offshelf.access import Role
from offshelf.audit import AuditTrail
from offshelf.embedded import ORCHESTRATOR
from offshelf.rpc.offload import Offload
from offshelf.rpc.server import start
from offshelf.services.orchestrator.application import OrchestratorService
from offshelf.services.orchestrator.datasets_servicer import DatasetServicer
from offshelf.services.orchestrator.holdings.desk import QUEUE, THREADS, Desk
from offshelf.services.orchestrator.holdings.fetching import Fetcher
from offshelf.services.orchestrator.networks_servicer import NetworkServicer
from offshelf.settings import Settings
from offshelf.store import open_store
from offshelf.tokens import User, digest_of, write_users
from offshelf.v1.dataset_pb2_grpc import add_DatasetServiceServicer_to_server
from offshelf.v1.network_pb2_grpc import add_NetworkServiceServicer_to_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import grpc.aio

TOKEN = "a-token-for-tests-of-datasets-000"


class DatasetsService:
    """The part of the orchestrator that knows datasets and networks, alone."""

    name = "offshelf.v1.DatasetService"
    other_names = ("offshelf.v1.NetworkService",)
    largest_request = OrchestratorService.largest_request

    def __init__(self, settings: Settings, *, idle_seconds: float = 60.0) -> None:
        self.in_use: frozenset[str] = frozenset()
        self.store = open_store(settings.store)
        self.audit = AuditTrail(self.store)
        self._threads = Offload(THREADS, QUEUE)
        self.desk = Desk(
            self.store,
            self._threads,
            in_use=lambda: self.in_use,
            quota_images=settings.quota_images,
            quota_bytes=settings.quota_bytes,
            fetch=Fetcher(buckets=(), hosts=settings.fetch_hosts, beside=settings.store),
            idle_seconds=idle_seconds,
        )

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicers."""
        add_DatasetServiceServicer_to_server(DatasetServicer(self.desk.library, self.desk.uploads), server)
        add_NetworkServiceServicer_to_server(NetworkServicer(self.desk.networks), server)

    async def warm_up(self) -> None:
        """Nothing to warm up."""

    async def drain(self) -> None:
        """End uploads."""
        self.desk.close()

    async def close(self) -> None:
        """Stop the threads."""
        await self._threads.close()


def token_file(folder: Path) -> Path:
    """Write the token."""
    path = folder / "token"
    path.touch(mode=0o600)
    path.write_text(TOKEN)
    return path


@asynccontextmanager
async def serving(
    folder: Path, *, idle_seconds: float = 60.0, quota_images: int = 0, fetch_hosts: tuple[str, ...] = ()
) -> AsyncIterator[tuple[DatasetsService, str]]:
    """Serve in this process; gives the service and its address."""
    settings = Settings(
        store=str(folder / "store"),
        token_file=token_file(folder),
        drain_seconds=1.0,
        quota_images=quota_images,
        fetch_hosts=fetch_hosts,
    )
    service = DatasetsService(settings, idle_seconds=idle_seconds)
    server = await start(service, settings)
    try:
        yield service, server.address
    finally:
        hurry = asyncio.Event()
        hurry.set()
        await server.drain(hurry)


@contextmanager
def process(folder: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Run a whole orchestrator in a process of its own; gives the process and its address.

    It knows the owner of `TOKEN` also when it is started again, as one in a cluster does.
    """
    users = folder / "users.json"
    write_users(users, [User("owner", Role.ADMIN, digest_of(TOKEN), None)])
    environment = os.environ | {
        "OFFSHELF_STORE": str(folder / "store"),
        "OFFSHELF_USERS": str(users),
        "OFFSHELF_PORT": str(port),
        "OFFSHELF_EMBEDDED": "up",
        "OFFSHELF_DRAIN_SECONDS": "2",
    }
    started = subprocess.Popen(ORCHESTRATOR, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert started.stdout is not None
    try:
        yield started, json.loads(started.stdout.readline())["address"]
    finally:
        started.kill()
        started.wait()
        started.stdout.close()
