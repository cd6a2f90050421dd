"""Clients that ask for much and read nothing of it, or begin to send much and hardly go on."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from offshelf.access import Caller, Role
from offshelf.datasets import MAX_IMAGE_BYTES
from offshelf.digests import digest_of_bytes
from offshelf.errors import ResourceExhausted
from offshelf.rpc.auth import caller_of_call
from offshelf.rpc.channel import open_channel
from offshelf.rpc.offload import Offload
from offshelf.rpc.server import start
from offshelf.services.orchestrator.datasets_servicer import DatasetServicer
from offshelf.services.orchestrator.holdings.desk import QUEUE, THREADS, Desk
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.runs.specification import RunSpec
from offshelf.services.orchestrator.runs.status import RunStatus
from offshelf.services.orchestrator.servicer import (
    MOST_DOWNLOADS,
    MOST_DOWNLOADS_OF_USER,
    MOST_WATCHES_OF_USER,
    OrchestratorServicer,
)
from offshelf.settings import Settings
from offshelf.tokens import add_user, write_users
from offshelf.v1 import dataset_pb2
from offshelf.v1 import orchestrator_pb2 as pb
from offshelf.v1.dataset_pb2_grpc import DatasetServiceStub, add_DatasetServiceServicer_to_server
from offshelf.v1.orchestrator_pb2_grpc import OrchestratorServiceStub, add_OrchestratorServiceServicer_to_server
from tests.integration.datasets_server import TOKEN, token_file
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import grpc.aio

    from offshelf.services.orchestrator.runs.orchestration import Orchestrator
    from offshelf.v1.dataset_pb2_grpc import DatasetServiceAsyncStub
    from offshelf.v1.orchestrator_pb2_grpc import OrchestratorServiceAsyncStub

READERS = 40
MEBIBYTES = 64
CHUNK_BYTES = 256 << 10
SPEC = RunSpec("folder:/data/pets", ("hog",), ("LR",), "accuracy", 2, 0)
STATUS = RunStatus(SPEC, RunLog(MemoryStore(), 1).create("R1", SPEC.to_json()))


class LargeArtifact:
    """A service with one large artefact, which counts what is read of it."""

    name = "offshelf.v1.OrchestratorService"

    def __init__(self, *, unread_seconds: float = 60.0) -> None:
        self.store = MemoryStore()
        self.store.put("artifact", bytes(MEBIBYTES << 20))
        self.read = 0
        self._unread_seconds = unread_seconds
        self._threads = Offload(THREADS, QUEUE)
        self._desk = Desk(self.store, self._threads, in_use=frozenset)

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
        servicer = OrchestratorServicer(
            cast("Orchestrator", self), cast("Any", self), self.locate, unread_seconds=self._unread_seconds
        )
        add_OrchestratorServiceServicer_to_server(servicer, server)
        add_DatasetServiceServicer_to_server(DatasetServicer(self._desk.library, self._desk.uploads), server)

    async def warm_up(self) -> None:
        """Nothing to warm up."""

    async def close(self) -> None:
        """Stop the threads."""
        await self._threads.close()


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


@asynccontextmanager
async def door(tmp_path: Path, service: LargeArtifact, *names: str) -> AsyncIterator[list[grpc.aio.Channel]]:
    """Serve several users; gives a channel of each."""
    users: Any = ()
    tokens = []
    for name in names:
        users, token = add_user(users, name, Role.RUNNER)
        tokens.append(token)
    write_users(tmp_path / "users.json", users)
    settings = Settings(store=str(tmp_path / "store"), users=tmp_path / "users.json", drain_seconds=1.0)
    server = await start(service, settings)
    try:
        async with AsyncExitStack() as stack:
            yield [await stack.enter_async_context(open_channel(server.address, token=token)) for token in tokens]
    finally:
        hurry = asyncio.Event()
        hurry.set()
        await server.drain(hurry)


async def download(channel: grpc.aio.Channel) -> int:
    """Read all of the artefact; gives its bytes."""
    stub: OrchestratorServiceAsyncStub = OrchestratorServiceStub(channel)
    call = stub.ReadArtifact(pb.ReadArtifactRequest(run_id="1", name="large"))
    return sum([len(part.chunk) async for part in call])


async def upload(channel: grpc.aio.Channel, data: bytes) -> int:
    """Send an image; gives the number of images stored."""
    stub: DatasetServiceAsyncStub = DatasetServiceStub(channel)
    answer = await stub.UploadImages(iter([part_of(data, start) for start in range(0, len(data), 1 << 20)]))
    return answer.images_stored


def part_of(data: bytes, start: int, length: int = 1 << 20, size: int = 0) -> dataset_pb2.UploadImagesRequest:
    """Make the message with one part of an image."""
    part = data[start : start + length]
    image, digest = (bytes.fromhex(digest_of_bytes(content)) for content in (data, part))
    return dataset_pb2.UploadImagesRequest(
        parts=[dataset_pb2.ImagePart(image=image, size=size or len(data), offset=start, data=part, data_digest=digest)]
    )


async def test_one_user_who_is_slow_keeps_no_other_from_anything(tmp_path: Path) -> None:
    """While one user reads nothing of downloads and sends large images by the byte, another's go on as ever."""
    crumbs = bytes(20_000)  # for minutes
    large = bytes(range(256)) * 20_000

    async def dripping(number: int, begun: asyncio.Event) -> AsyncIterator[dataset_pb2.UploadImagesRequest]:
        image = b"%d" % number + crumbs
        for place in range(len(image)):
            yield part_of(image, place, 1, MAX_IMAGE_BYTES)
            begun.set()
            await asyncio.sleep(0.01)

    async with door(tmp_path, LargeArtifact(), "ada", "bob") as (ada, bob):
        reader: OrchestratorServiceAsyncStub = OrchestratorServiceStub(ada)
        sender: DatasetServiceAsyncStub = DatasetServiceStub(ada)
        calls: list[Any] = []
        for number in range(MOST_DOWNLOADS_OF_USER):
            calls.append(reader.ReadArtifact(pb.ReadArtifactRequest(run_id="1", name="large")))
            assert (await anext(aiter(calls[-1]))).chunk
            begun = asyncio.Event()
            calls.append(sender.UploadImages(dripping(number, begun)))
            await begun.wait()
        assert await upload(bob, large) == 1
        assert await download(bob) == MEBIBYTES << 20
        assert not any(call.done() for call in calls)
        for call in calls:
            call.cancel()


async def test_users_who_read_nothing_lose_their_places(tmp_path: Path) -> None:
    """Several users who stop reading fill all places for a while; then others download, and they still may read on."""
    names = [f"user-{number}" for number in range(MOST_DOWNLOADS // MOST_DOWNLOADS_OF_USER)]
    async with door(tmp_path, LargeArtifact(unread_seconds=0.5), *names, "bob") as (*slow, bob):
        calls = []
        for channel in slow:
            stub: OrchestratorServiceAsyncStub = OrchestratorServiceStub(channel)
            for _ in range(MOST_DOWNLOADS_OF_USER):
                calls.append(aiter(stub.ReadArtifact(pb.ReadArtifactRequest(run_id="1", name="large"))))
                assert (await anext(calls[-1])).chunk
        async with asyncio.timeout(60):
            while True:
                try:
                    assert await download(bob) == MEBIBYTES << 20
                except ResourceExhausted as error:
                    assert "32 downloads are going on" in error.message  # noqa: PT017  (at first)
                    continue
                break
        with pytest.raises(ResourceExhausted, match="8 downloads of yours are going on"):
            await download(slow[0])
        read = CHUNK_BYTES + sum([len(part.chunk) async for part in calls[0]])
        assert read == MEBIBYTES << 20


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
