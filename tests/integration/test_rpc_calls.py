"""Calls through a real server and a real channel: errors, tokens, request ids, cancellation, figures, health."""

from __future__ import annotations

import asyncio
import logging
import re
import urllib.request
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import (
    reflection_pb2,
    reflection_pb2_grpc,
)
from prometheus_client import CollectorRegistry

from offshelf import errors
from offshelf.logs import request_id
from offshelf.rpc.channel import UNARY_SECONDS, open_channel, open_sync_channel
from offshelf.rpc.metrics import MetricsServer
from offshelf.v1 import extractor_pb2 as pb
from offshelf.v1 import extractor_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from offshelf.rpc.server import RunningServer

    Serving = Callable[[Any], AbstractAsyncContextManager[RunningServer]]

TOKEN = "a-token-for-tests"
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING


async def test_our_errors_arrive_as_what_they_were(serving: Serving, echo: Any) -> None:
    """A user who misspells a name gets the same error, with the same words, through a server as without one."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        stub = pb_grpc.ExtractorServiceStub(channel)
        with pytest.raises(errors.UnknownName, match=r"Did you mean 'vgg16'\?"):
            await stub.ExtractImages(pb.ExtractImagesRequest(images=[b"unknown name"]))
        stream = aiter(stub.ExtractSegment(pb.ExtractSegmentRequest(extractor="unknown name")))
        assert (await anext(stream)).WhichOneof("event") == "progress"
        with pytest.raises(errors.UnknownName, match=r"Did you mean 'vgg16'\?"):
            await anext(stream)


async def test_a_blocking_client_gets_the_same_errors(serving: Serving, echo: Any) -> None:
    """The blocking client's calls and streams fail with the same errors, and work when nothing is wrong."""
    async with serving(echo) as server:

        def use() -> list[str]:
            with open_sync_channel(server.address, token=TOKEN) as channel:
                stub = pb_grpc.ExtractorServiceStub(channel)
                with pytest.raises(errors.UnknownName):
                    stub.ExtractImages(pb.ExtractImagesRequest(images=[b"unknown name"]))
                failing = stub.ExtractImages.future(pb.ExtractImagesRequest(images=[b"unknown name"]))
                assert isinstance(failing.exception(), errors.UnknownName)
                with pytest.raises(errors.UnknownName):
                    list(stub.ExtractSegment(pb.ExtractSegmentRequest(extractor="unknown name")))
                stream = stub.ExtractSegment(pb.ExtractSegmentRequest(extractor="fine"))
                return [stub.Describe(pb.DescribeRequest()).extractor, *(str(m.WhichOneof("event")) for m in stream)]

        assert await asyncio.to_thread(use) == ["echo", "progress", "written"]


async def test_a_defect_shows_a_request_id_and_nothing_else(
    serving: Serving, echo: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """A defect tells the user an id to report, and the operator, under that id, the traceback."""
    request_id.set("the-id-of-this-test")
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        stub = pb_grpc.ExtractorServiceStub(channel)
        with pytest.raises(errors.Internal, match="internal error, request id the-id-of-this-test") as unary:
            await stub.ExtractImages(pb.ExtractImagesRequest(images=[b"defect"]))
        with pytest.raises(errors.Internal, match="internal error, request id the-id-of-this-test"):
            [_ async for _ in stub.ExtractSegment(pb.ExtractSegmentRequest(extractor="defect"))]
    assert "business" not in unary.value.message
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(logged) == 2
    assert all(record.exc_text and "nobody's business" in record.exc_text for record in logged)


async def test_a_status_set_by_the_servicer_stays(serving: Serving, echo: Any) -> None:
    """What a servicer says by aborting reaches the client unchanged."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        with pytest.raises(errors.NotFound, match="aborted by the servicer"):
            await pb_grpc.ExtractorServiceStub(channel).ExtractImages(pb.ExtractImagesRequest(images=[b"abort"]))


async def test_what_a_call_asks_of_others_is_due_when_the_call_is(serving: Serving, echo: Any) -> None:
    """Nobody computes for a user who has given up: deadlines go with a request, though not with what outlives it."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        images = pb_grpc.ExtractorServiceStub(channel).ExtractImages
        here = server.address.encode()
        await images(pb.ExtractImagesRequest(images=[b"ask", here]), timeout=9)
        await images(pb.ExtractImagesRequest(images=[b"ask", here]), timeout=300)
        await images(pb.ExtractImagesRequest(images=[b"start", here]), timeout=9)
        await echo.started
    bound, usual, free = echo.time_given
    assert bound < 10 < usual < UNARY_SECONDS + 1  # gRPC rounds up what it sends
    assert free > 10


async def test_request_ids_travel_and_strange_ones_are_replaced(serving: Serving, echo: Any) -> None:
    """A client's request id is used in the service and sent back; one that could forge a log line is not."""
    async with serving(echo) as server, grpc.aio.insecure_channel(server.address) as channel:
        describe = pb_grpc.ExtractorServiceStub(channel).Describe
        authorization = ("authorization", f"Bearer {TOKEN}")
        call = describe(pb.DescribeRequest(), metadata=(authorization, ("x-request-id", "run-7.cell_2")))
        assert (await call).fingerprint == "run-7.cell_2"
        assert ("x-request-id", "run-7.cell_2") in tuple(await call.trailing_metadata())
        for strange in ('"},{"level":"error"', "x" * 65, ""):
            answer = await describe(pb.DescribeRequest(), metadata=(authorization, ("x-request-id", strange)))
            assert re.fullmatch("[0-9a-f]{16}", answer.fingerprint)


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ((), "no token"),
        ((("authorization", "Bearer wrong"),), "wrong token"),
        ((("authorization", f"Basic {TOKEN}"),), "wrong token"),
        ((("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer wrong")), "wrong token"),
        ((("authorization", ""),), "wrong token"),
    ],
)
async def test_nothing_is_reachable_without_the_token(
    serving: Serving, echo: Any, sent: tuple[tuple[str, str], ...], said: str
) -> None:
    """Without the server's token, every method is refused: calls, streams, reflection, and those that do not exist."""
    async with serving(echo) as server, grpc.aio.insecure_channel(server.address) as channel:
        stub = pb_grpc.ExtractorServiceStub(channel)
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        unknown: Any = channel.unary_unary("/offshelf.v1.No/Such")
        calls: list[Any] = [
            stub.Describe(pb.DescribeRequest(), metadata=sent),
            stub.ExtractSegment(pb.ExtractSegmentRequest(), metadata=sent),
            reflection.ServerReflectionInfo(asked, metadata=sent),
            unknown(b"", metadata=sent),
        ]
        for call in calls:
            assert await call.code() is grpc.StatusCode.UNAUTHENTICATED
            assert said in await call.details()
    assert echo.attempts == 0


async def test_a_wrong_token_is_a_clear_error(serving: Serving, echo: Any) -> None:
    """A user with a wrong token reads where to check it."""
    async with serving(echo) as server, open_channel(server.address, token="wrong") as channel:
        with pytest.raises(errors.Unauthenticated, match="wrong token: check --token or OFFSHELF_TOKEN"):
            await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())


async def test_reflection_is_there_for_those_with_the_token(serving: Serving, echo: Any) -> None:
    """Somebody with the token can list the services with an ordinary gRPC tool."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
        answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked)
        names = [service.name async for answer in answers for service in answer.list_services_response.service]
        assert "offshelf.v1.ExtractorService" in names


async def test_a_method_that_is_not_there_points_to_versions(serving: Serving, echo: Any) -> None:
    """A client newer than its server is told to bring both to one version."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        not_yet: Any = channel.unary_unary("/offshelf.v1.ExtractorService/NotYet")
        with pytest.raises(errors.Conflict, match="same version of Offshelf on both sides"):
            await not_yet(b"")


async def test_a_deadline_stops_the_work_in_its_thread(serving: Serving, echo: Any) -> None:
    """A call whose deadline passes fails as such, and the thread that worked for it stops."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        stub = pb_grpc.ExtractorServiceStub(channel)
        with pytest.raises(errors.DeadlineExceeded, match="did not answer in time"):
            await stub.ExtractImages(pb.ExtractImagesRequest(images=[b"hang"]), timeout=0.05)
        await asyncio.to_thread(echo.stopped_in_thread.wait)


async def test_a_reader_that_leaves_ends_the_servicer(serving: Serving, echo: Any) -> None:
    """A client that stops watching frees what the server held for it, at once."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        call = pb_grpc.ExtractorServiceStub(channel).ExtractSegment(pb.ExtractSegmentRequest(extractor="for ever"))
        async for _ in call:
            break
        assert call.cancel()
        await echo.left_early.wait()


async def test_a_cancelled_caller_sees_its_own_cancellation(serving: Serving, echo: Any) -> None:
    """Cancelling a task that waits for an answer cancels it as asyncio promises."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        stub = pb_grpc.ExtractorServiceStub(channel)
        first = asyncio.Event()

        async def watch() -> None:
            async for _ in stub.ExtractSegment(pb.ExtractSegmentRequest(extractor="for ever")):
                first.set()

        task = asyncio.ensure_future(watch())
        await first.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await echo.left_early.wait()


async def test_figures_are_counted_by_method_and_status(serving: Serving, echo: Any) -> None:
    """Prometheus reads how many calls of each method ended how, and how long they took."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        stub = pb_grpc.ExtractorServiceStub(channel)
        await stub.Describe(pb.DescribeRequest())
        with pytest.raises(errors.InvalidInput):
            await stub.ExtractImages(pb.ExtractImagesRequest(images=[b"unknown name"]))
        unknown: Any = channel.unary_unary("/made.up/Name")
        with pytest.raises(errors.Conflict):
            await unknown(b"")
        url = f"http://{server.metrics}/metrics"
        service = "/offshelf.v1.ExtractorService"
        expected = {
            f'offshelf_rpc_requests_total{{code="OK",method="{service}/Describe"}} 1.0',
            f'offshelf_rpc_requests_total{{code="INVALID_ARGUMENT",method="{service}/ExtractImages"}} 1.0',
            'offshelf_rpc_requests_total{code="UNIMPLEMENTED",method="unknown"} 1.0',
            f'offshelf_rpc_seconds_count{{method="{service}/Describe"}} 1.0',
        }
        page = ""
        # A client may have its answer a moment before the server has counted it.
        while not expected <= set(page.splitlines()):
            page = (await asyncio.to_thread(lambda: urllib.request.urlopen(url).read())).decode()
        assert "made.up" not in page


async def test_health_needs_no_token_and_tells_ready_from_live(serving: Serving, echo: Any) -> None:
    """A probe without a token sees a service that is ready, and one that thinks it is stuck."""
    async with serving(echo) as server, grpc.aio.insecure_channel(server.health) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check
        assert (await check(health_pb2.HealthCheckRequest(service=""))).status == SERVING
        assert (await check(health_pb2.HealthCheckRequest(service="live"))).status == SERVING
        echo.live = False
        assert (await check(health_pb2.HealthCheckRequest(service="live"))).status == NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as nothing_else:
            await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())
        assert nothing_else.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_who_asks_for_no_metrics_is_sent_away() -> None:
    """A connection to the port of the metrics that is left open does not keep a thread."""
    metrics = MetricsServer(CollectorRegistry(), "127.0.0.1", 0, idle_seconds=0.05)
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", metrics.port)
        assert await asyncio.wait_for(reader.read(), 20) == b""
        writer.close()
    finally:
        await metrics.stop()
