"""Clients that ask for much and read nothing of it."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, cast

import pytest

from offshelf.access import Caller, Role
from offshelf.errors import ResourceExhausted
from offshelf.rpc.auth import caller_of_call
from offshelf.rpc.channel import open_channel
from offshelf.rpc.server import start
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.runs.specification import RunSpec
from offshelf.services.orchestrator.runs.status import RunStatus
from offshelf.services.orchestrator.servicer import MOST_DOWNLOADS_OF_USER, MOST_WATCHES_OF_USER, OrchestratorServicer
from offshelf.settings import Settings
from offshelf.v1 import orchestrator_pb2 as pb
from offshelf.v1.orchestrator_pb2_grpc import OrchestratorServiceStub, add_OrchestratorServiceServicer_to_server
from tests.integration.datasets_server import TOKEN, token_file
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import grpc.aio

    from offshelf.services.orchestrator.runs.orchestration import Orchestrator
    from offshelf.v1.orchestrator_pb2_grpc import OrchestratorServiceAsyncStub

READERS = 40
MEBIBYTES = 64
CHUNK_BYTES = 256 << 10
SPEC = RunSpec("folder:/data/pets", ("hog",), ("LR",), "accuracy", 2, 0)
STATUS = RunStatus(SPEC, RunLog(MemoryStore(), 1).create("R1", SPEC.to_json()))


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
    """Forty clients that stop reading hold no thread and little memory: most have to wait, other calls do not."""
    service = LargeArtifact()
    settings = Settings(store=str(tmp_path / "store"), token_file=token_file(tmp_path), drain_seconds=1.0)
    server = await start(service, settings)
    request = pb.ReadArtifactRequest(run_id="1", name="large")
    async with AsyncExitStack() as stack:
        calls = []
        for number in range(READERS):
            channel = await stack.enter_async_context(open_channel(server.address, token=TOKEN))
            stub: OrchestratorServiceAsyncStub = OrchestratorServiceStub(channel)
            calls.append(stub.ReadArtifact(request))
            answers = aiter(calls[-1])
            if number < MOST_DOWNLOADS_OF_USER:
                assert len((await anext(answers)).chunk) == CHUNK_BYTES
            else:
                with pytest.raises(ResourceExhausted, match="8 downloads of yours are going on"):
                    await anext(answers)
        other: OrchestratorServiceAsyncStub = OrchestratorServiceStub(
            await stack.enter_async_context(open_channel(server.address, token=TOKEN))
        )
        for _ in range(50):
            answer = await other.LocatePredictor(pb.LocatePredictorRequest())
            assert answer.address == "there"
        assert service.read < MOST_DOWNLOADS_OF_USER * (MEBIBYTES << 20) / CHUNK_BYTES / 2
        calls[0].cancel()
        async with asyncio.timeout(10):
            while True:  # until the server has heard of it
                try:
                    assert sum([len(part.chunk) async for part in other.ReadArtifact(request)]) == MEBIBYTES << 20
                except ResourceExhausted:
                    continue
                break
    hurry = asyncio.Event()
    hurry.set()
    await server.drain(hurry)


async def test_one_user_watches_many_runs_and_not_all_there_are() -> None:
    """A program that opens watches and forgets them is told so, and others watch their runs."""

    class Quiet:
        async def watch(self, _run_id: str) -> AsyncIterator[RunStatus]:
            yield STATUS
            await asyncio.Event().wait()

    servicer = OrchestratorServicer(cast("Orchestrator", Quiet()), cast("Any", None), cast("Any", None))
    request = pb.WatchRunRequest(run_id="1")
    watches: list[Any] = []
    for name in ("ada", "bob"):
        caller_of_call.set(Caller.user(name, Role.VIEWER))
        for _ in range(MOST_WATCHES_OF_USER):
            watches.append(aiter(servicer.WatchRun(request, cast("Any", None))))
            assert (await anext(watches[-1])).run.id == "R1"
        with pytest.raises(ResourceExhausted, match="256 watched runs of yours are going on"):
            await anext(aiter(servicer.WatchRun(request, cast("Any", None))))
    for watch in watches:
        await watch.aclose()
    assert (await anext(aiter(servicer.WatchRun(request, cast("Any", None))))).run.id == "R1"
