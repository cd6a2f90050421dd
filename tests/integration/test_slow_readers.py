"""Clients that ask for much and read nothing of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

from offshelf.rpc.channel import open_channel
from offshelf.rpc.server import start
from offshelf.services.orchestrator.servicer import OrchestratorServicer
from offshelf.settings import Settings
from offshelf.v1 import orchestrator_pb2 as pb
from offshelf.v1.orchestrator_pb2_grpc import OrchestratorServiceStub, add_OrchestratorServiceServicer_to_server
from tests.integration.datasets_server import TOKEN, token_file
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    import grpc.aio

    from offshelf.services.orchestrator.runs.orchestration import Orchestrator
    from offshelf.v1.orchestrator_pb2_grpc import OrchestratorServiceAsyncStub

READERS = 40
MEBIBYTES = 64


class LargeArtifact:
    """A service with one large artefact, which counts what is read of it."""

    name = "offshelf.v1.OrchestratorService"

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.store.put("artifact", bytes(MEBIBYTES << 20))
        self.read = 0

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read from the store."""
        self.read += 1
        return self.store.get(key, offset=offset, length=length)

    async def artifact(self, run_id: str, name: str) -> str:
        """Name the artefact."""
        del run_id, name
        return "artifact"

    async def locate(self) -> str:
        """Name a predictor."""
        return "there"

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer."""
        servicer = OrchestratorServicer(cast("Orchestrator", self), cast("Any", self), self.locate)
        add_OrchestratorServiceServicer_to_server(servicer, server)

    async def warm_up(self) -> None:
        """Nothing to warm up."""

    async def close(self) -> None:
        """Nothing to close."""


async def test_who_reads_nothing_costs_no_one_else(tmp_path: Path) -> None:
    """Forty clients that stop reading hold no thread and little memory: others get all that they ask for."""
    service = LargeArtifact()
    settings = Settings(store=str(tmp_path / "store"), token_file=token_file(tmp_path), drain_seconds=1.0)
    server = await start(service, settings)
    request = pb.ReadArtifactRequest(run_id="1", name="large")
    async with AsyncExitStack() as stack:
        for _ in range(READERS):
            channel = await stack.enter_async_context(open_channel(server.address, token=TOKEN))
            stub: OrchestratorServiceAsyncStub = OrchestratorServiceStub(channel)
            answers = aiter(stub.ReadArtifact(request))
            assert len((await anext(answers)).chunk) == 1 << 20
        other: OrchestratorServiceAsyncStub = OrchestratorServiceStub(
            await stack.enter_async_context(open_channel(server.address, token=TOKEN))
        )
        for _ in range(50):
            answer = await other.LocatePredictor(pb.LocatePredictorRequest())
            assert answer.address == "there"
        assert sum([len(part.chunk) async for part in other.ReadArtifact(request)]) == MEBIBYTES << 20
        assert service.read < READERS * MEBIBYTES / 2
    hurry = asyncio.Event()
    hurry.set()
    await server.drain(hurry)
