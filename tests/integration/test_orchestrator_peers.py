"""The orchestrator's calls to replicas: over real connections, which break, hang and are made anew."""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from typing import TYPE_CHECKING, Any

import pytest

from offshelf import certificates
from offshelf.errors import StoreUnavailable, Unavailable
from offshelf.logs import request_id
from offshelf.services.orchestrator.dispatch import channels as lines
from offshelf.services.orchestrator.dispatch import peers as calls
from offshelf.services.orchestrator.dispatch.channels import Channels
from offshelf.services.orchestrator.dispatch.failures import Unreached
from offshelf.services.orchestrator.dispatch.peers import GrpcPeers
from offshelf.services.orchestrator.dispatch.units import ExtractionOutcome, ExtractionUnit, FitUnit, ReportRequest
from offshelf.services.orchestrator.fleet.replicas import Replica, Role
from offshelf.settings import Settings
from offshelf.v1 import extractor_pb2, extractor_pb2_grpc, stats_pb2, stats_pb2_grpc
from tests.integration.conftest import TOKEN
from tests.integration.stand_ins import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    import grpc.aio

    from offshelf.rpc.server import RunningServer

    Serving = Callable[[Any], AbstractAsyncContextManager[RunningServer]]

ROLE = Role("extractor", "hog")


class Workers(extractor_pb2_grpc.ExtractorServiceServicer, stats_pb2_grpc.StatsServiceServicer):
    """An extractor that does what the extractor's name in the request says; and stats that hang."""

    name = "offshelf.v1.ExtractorService"

    def __init__(self) -> None:
        self.connections: list[str] = []
        self.requests: list[str] = []
        self.working = asyncio.Event()
        self.go_on = asyncio.Event()
        self.ended = asyncio.Event()

    def register(self, server: grpc.aio.Server) -> None:
        """Add both."""
        extractor_pb2_grpc.add_ExtractorServiceServicer_to_server(self, server)
        stats_pb2_grpc.add_StatsServiceServicer_to_server(self, server)

    async def warm_up(self) -> None:
        """Nothing needs to be warm."""

    async def close(self) -> None:
        """Nothing is open."""

    async def ExtractSegment(  # noqa: N802
        self, request: extractor_pb2.ExtractSegmentRequest, context: Any
    ) -> AsyncIterator[extractor_pb2.ExtractSegmentResponse]:
        """Work, or fail, or fall silent."""
        self.connections.append(context.peer())
        self.requests.append(request_id.get())
        logging.getLogger("worker").info("working")
        self.working.set()
        if request.extractor == "store":
            raise StoreUnavailable("no answer from the store")
        if request.extractor == "silent":
            await asyncio.Event().wait()
        if request.extractor == "slow":
            while not self.go_on.is_set():
                yield extractor_pb2.ExtractSegmentResponse(progress=extractor_pb2.ExtractionProgress())
                await asyncio.sleep(0.02)
        yield extractor_pb2.ExtractSegmentResponse(
            written=extractor_pb2.SegmentWritten(key="key", images_extracted=len(request.images))
        )
        if request.extractor == "tidy":
            await self.go_on.wait()
        self.ended.set()

    async def RenderReport(  # noqa: N802
        self, request: stats_pb2.RenderReportRequest, context: Any
    ) -> stats_pb2.RenderReportResponse:
        """Fall silent."""
        del request, context
        self.working.set()
        await asyncio.Event().wait()
        return stats_pb2.RenderReportResponse()


def some_workers() -> Workers:
    """Make the service."""
    return Workers()  # type: ignore[abstract]  # what is not there answers UNIMPLEMENTED


def unit(extractor: str = "hog") -> ExtractionUnit:
    """Make a unit of one image."""
    return ExtractionUnit(extractor, "f", "d", "folder:/d", ("00" * 32,))


async def extract(peers: GrpcPeers, replica: Replica, extractor: str = "hog") -> ExtractionOutcome:
    """Have a unit extracted."""
    return await peers.extract(replica, unit(extractor), lambda _: None)


async def test_a_connection_is_kept_while_it_is_used(serving: Serving) -> None:
    """A unit costs a call, and not a connection, a handshake and a certificate's verification."""
    workers, peers = some_workers(), GrpcPeers(TOKEN)
    async with serving(workers) as server:
        replica = Replica(ROLE, "one", server.address)
        outcomes = await asyncio.gather(*(extract(peers, replica) for _ in range(8)))
        await extract(peers, replica)
        await peers.close()
    assert {outcome.key for outcome in outcomes} == {"key"}
    assert len(workers.connections) == 9
    assert len(set(workers.connections)) == 1


async def test_a_unit_that_is_done_counts_as_done_where_it_was_done(serving: Serving) -> None:
    """The replica ends its call itself: its figures, and the alerts on them, know of no cancelled call."""
    workers, peers = some_workers(), GrpcPeers(TOKEN)
    async with serving(workers) as server:
        extracting = asyncio.ensure_future(extract(peers, Replica(ROLE, "one", server.address), "tidy"))
        await workers.working.wait()
        assert not (await asyncio.wait([extracting], timeout=0.3))[0]
        workers.go_on.set()
        assert (await extracting).extracted == 1
        assert workers.ended.is_set()
        await peers.close()


async def test_the_id_of_the_request_goes_with_the_unit(serving: Serving) -> None:
    """The id that a user's call has is in the log lines of the services that work for it."""
    workers, peers = some_workers(), GrpcPeers(TOKEN)
    token = request_id.set("call-1234")
    try:
        async with serving(workers) as server:
            await extract(peers, Replica(ROLE, "one", server.address))
            await peers.close()
    finally:
        request_id.reset(token)
    assert workers.requests == ["call-1234"]


async def test_a_store_that_is_away_is_told_from_a_lost_replica(serving: Serving) -> None:
    """What a service says of its store is not taken for the service's own end."""
    peers = GrpcPeers(TOKEN)
    async with serving(some_workers()) as server:
        with pytest.raises(StoreUnavailable, match="no answer from the store"):
            await extract(peers, Replica(ROLE, "one", server.address), "store")
        await peers.close()


async def test_a_unit_that_was_never_sent_is_told_from_one_that_was_lost(serving: Serving) -> None:
    """An image is blamed for the end of a process only if it was being worked on."""
    workers, peers = some_workers(), GrpcPeers(TOKEN)
    async with serving(workers) as server:
        replica = Replica(ROLE, "one", server.address)
        lost = asyncio.create_task(extract(peers, replica, "silent"))
        await workers.working.wait()
    with pytest.raises(Unavailable) as caught:
        await lost
    assert not isinstance(caught.value, Unreached)
    with pytest.raises(Unreached):
        await extract(peers, replica)
    await peers.close()


async def test_something_else_that_answers_at_a_replicas_address_costs_no_run(serving: Serving) -> None:
    """In the middle of an update, or when a pod's address was given to another one, the unit goes to the right one."""
    peers = GrpcPeers(TOKEN)
    async with serving(some_workers()) as server:
        with pytest.raises(Unreached, match="does not know this request"):
            await peers.fit(
                Replica(Role("trainer"), "one", server.address), FitUnit("d", "t", "f", "hog", "LR", "f1", 0)
            )
        await peers.close()


async def test_a_replica_whose_node_is_gone_is_given_up(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that nobody closes, since the machine behind it has vanished, holds no unit for long."""
    monkeypatch.setattr(calls, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(calls, "GONE_SECONDS", 0.05)
    there = {"one"}
    workers = some_workers()
    peers = GrpcPeers(TOKEN, is_ready=lambda replica: replica.name in there)
    async with serving(workers) as server:
        replica = Replica(ROLE, "one", server.address)
        stuck = asyncio.create_task(extract(peers, replica, "silent"))
        report = asyncio.create_task(peers.render_report(replica, ReportRequest("c", "t", (), ())))
        await workers.working.wait()
        there.clear()
        for call in (stuck, report):
            with pytest.raises(Unavailable, match="has gone says nothing"):
                await call
        await peers.close()


async def test_a_replica_that_drains_may_finish(serving: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pod that is being replaced ends the unit it works on; nothing is computed twice for it."""
    monkeypatch.setattr(calls, "_LOOK_SECONDS", 0.01)
    monkeypatch.setattr(calls, "GONE_SECONDS", 0.5)
    workers, there = some_workers(), {"one"}
    signs = 0

    def on_progress(_: int) -> None:
        nonlocal signs
        there.clear()
        signs += 1
        if signs * 0.02 > 2 * calls.GONE_SECONDS:
            workers.go_on.set()

    peers = GrpcPeers(TOKEN, is_ready=lambda replica: replica.name in there)
    async with serving(workers) as server:
        outcome = await peers.extract(Replica(ROLE, "one", server.address), unit("slow"), on_progress)
        await peers.close()
    assert outcome.key == "key"


class Line:
    """A connection that knows whether it is closed."""

    def __init__(self) -> None:
        self.closed = asyncio.Event()

    async def close(self) -> None:
        """Take note."""
        self.closed.set()


async def test_new_certificates_are_used_without_a_failed_call(tmp_path: Path) -> None:
    """The authority itself is exchanged, and its old one given up, while the connection to a replica is kept."""
    certs, began = tmp_path / "certs", dt.datetime.now(dt.UTC) - 3 * certificates.HANDOVER
    certificates.issue(certs, now=began)
    settings = Settings(store=str(tmp_path / "store"), tls=certs / "extractor")
    async with served(some_workers(), settings) as server:
        peers = GrpcPeers(tls=certs / "orchestrator")
        replica = Replica(ROLE, "one", server.address, "extractor")
        for step, new_authority in enumerate((False, True, False)):
            certificates.issue(certs, new_authority=new_authority, now=began + step * certificates.HANDOVER)
            assert (await extract(peers, replica)).key == "key"
        await peers.close()


async def test_a_connection_that_nobody_uses_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pods come and go by the hundred; no connection to one that has gone stays open."""
    monkeypatch.setattr(lines, "IDLE_SECONDS", 0.01)
    line = Line()
    channels = Channels(lambda _: line)
    async with channels.to(Replica(ROLE, "one", "10.0.0.1:7000")):
        pass
    async with asyncio.timeout(5):
        await line.closed.wait()
