"""Service processes: how they start, say that they are ready, drain and end."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from offshelf import errors
from offshelf.rpc.channel import open_channel
from offshelf.v1 import extractor_pb2 as pb
from offshelf.v1 import extractor_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TOKEN = "a-token-for-tests"
PROGRAM = Path(__file__).with_name("conftest.py")


@pytest.fixture
def starting(tmp_path: Path, token_file: Path) -> Any:
    """Start the service of conftest.py as a process with the given settings; it is killed if it outlives the test."""

    @contextlib.asynccontextmanager
    async def starting(**settings: str) -> AsyncIterator[asyncio.subprocess.Process]:
        given = {"store": str(tmp_path / "store"), "token_file": str(token_file), **settings}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(PROGRAM),
            env={**os.environ, **{f"OFFSHELF_{name.upper()}": value for name, value in given.items()}},
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.communicate()

    return starting


async def first_line(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """Read the one line on standard output."""
    assert process.stdout is not None
    line: dict[str, Any] = json.loads(await process.stdout.readline())
    return line


async def until_not_serving(health_address: str) -> None:
    """Wait until the process says that it is not ready any more."""
    async with grpc.aio.insecure_channel(health_address) as channel:
        async for answer in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service="")):
            if answer.status == health_pb2.HealthCheckResponse.NOT_SERVING:
                return


async def until_logged(process: asyncio.subprocess.Process, message: str) -> None:
    """Wait until the process has logged a message."""
    assert process.stderr is not None
    while json.loads(await process.stderr.readline())["message"] != message:
        pass


async def test_a_process_says_once_that_it_is_ready(starting: Any) -> None:
    """Whoever starts a service reads one line with its three addresses, whatever libraries print, and JSON logs."""
    async with starting() as process:
        ready = await first_line(process)
        assert ready["ready"] is True
        assert len({ready["address"], ready["health"], ready["metrics"]}) == 3
        async with open_channel(ready["address"], token=TOKEN) as channel:
            await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())
        process.send_signal(signal.SIGTERM)
        rest, logged = await process.communicate()
        assert rest == b""
        lines = [line for line in logged.decode().splitlines() if line != "a library that prints"]
        assert {json.loads(line)["service"] for line in lines} == {"echo"}
        assert process.returncode == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_drains(starting: Any, number: signal.Signals) -> None:
    """A stopped service finishes what it is doing, says meanwhile that it is not ready, and exits 0."""
    async with starting(drain_seconds="60") as process:
        ready = await first_line(process)
        async with open_channel(ready["address"], token=TOKEN) as channel:
            request = pb.ExtractSegmentRequest(extractor="until drained")
            events = []
            async for message in pb_grpc.ExtractorServiceStub(channel).ExtractSegment(request):
                events.append(message.WhichOneof("event"))
                if events == ["progress"]:
                    process.send_signal(number)
                    await until_not_serving(ready["health"])
            assert events == ["progress", "written"]
        assert await process.wait() == 0


async def test_what_outlives_the_grace_is_ended_and_may_be_tried_elsewhere(starting: Any) -> None:
    """A call that does not end in the grace fails as unavailable, so that it is tried elsewhere, and the exit is 0."""
    async with starting(drain_seconds="0.3") as process:
        ready = await first_line(process)
        async with open_channel(ready["address"], token=TOKEN) as channel:
            request = pb.ExtractSegmentRequest(extractor="for ever")
            stream = aiter(pb_grpc.ExtractorServiceStub(channel).ExtractSegment(request))
            await anext(stream)
            process.send_signal(signal.SIGTERM)
            with pytest.raises(errors.Unavailable, match="Try again"):
                await anext(stream)
        assert await process.wait() == 0


async def test_a_second_signal_hurries(starting: Any) -> None:
    """Somebody who asks twice does not wait for a call that would have ten more minutes."""
    async with starting(drain_seconds="600") as process:
        ready = await first_line(process)
        async with open_channel(ready["address"], token=TOKEN) as channel:
            request = pb.ExtractSegmentRequest(extractor="for ever")
            stream = aiter(pb_grpc.ExtractorServiceStub(channel).ExtractSegment(request))
            await anext(stream)
            process.send_signal(signal.SIGTERM)
            await until_not_serving(ready["health"])
            process.send_signal(signal.SIGTERM)
            with pytest.raises(errors.Unavailable):
                await anext(stream)
        assert await process.wait() == 0


async def test_a_service_ends_with_its_parent(starting: Any) -> None:
    """A service whose parent is gone, and with it the pipe to its standard input, drains and exits 0."""
    async with starting(parent_pipe="1") as process:
        await first_line(process)
        process.stdin.close()
        assert await process.wait() == 0


async def test_without_a_parent_pipe_the_end_of_input_means_nothing(starting: Any) -> None:
    """A service started by hand without an input goes on serving."""
    async with starting() as process:
        ready = await first_line(process)
        process.stdin.close()
        async with open_channel(ready["address"], token=TOKEN) as channel:
            await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())
        assert process.returncode is None


@pytest.mark.parametrize("how", ["signal", "parent"])
async def test_a_start_can_be_stopped(starting: Any, how: str) -> None:
    """A service that is still warming up, in a thread that cannot be interrupted, is stopped and exits 0."""
    async with starting(extractor="for ever", parent_pipe="1") as process:
        await until_logged(process, "warming up")
        if how == "signal":
            process.send_signal(signal.SIGTERM)
        else:
            process.stdin.close()
        out, _ = await process.communicate()
        assert out == b""
        assert process.returncode == 0


async def test_health_says_not_serving_until_warmed_up(starting: Any) -> None:
    """No call is sent to a service that is still warming up, and no probe takes it for dead."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    async with starting(extractor="for ever", health_port=str(port)) as process:
        await until_logged(process, "warming up")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            ready = await check(health_pb2.HealthCheckRequest(service=""))
            live = await check(health_pb2.HealthCheckRequest(service="live"))
        assert ready.status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert live.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    ("settings", "kind", "said"),
    [
        ({"extractor": "fails"}, "NotFound", "There are no weights. Set OFFSHELF_WEIGHTS."),
        ({"port": "no number"}, "InvalidInput", "OFFSHELF_PORT='no number' cannot be used"),
        ({"token_file": ""}, "InvalidInput", "A server needs a token"),
        ({"token_file": "/no/such/file"}, "InvalidInput", "The token file /no/such/file cannot be read"),
        ({"host": "0.0.0.0"}, "InvalidInput", "listen on 0.0.0.0 without encryption. Set OFFSHELF_TLS"),  # noqa: S104
        ({"tls": "/no/such/folder"}, "InvalidInput", "The key file /no/such/folder/tls.key cannot be read"),
    ],
)
async def test_a_start_that_fails_says_why(starting: Any, settings: dict[str, str], kind: str, said: str) -> None:
    """Whoever starts a service that cannot start reads one line with the reason, and sees exit code 2."""
    async with starting(**settings) as process:
        out, _ = await process.communicate()
        answer = json.loads(out)
        assert answer["ready"] is False
        assert answer["kind"] == kind
        assert said in answer["error"]
        assert process.returncode == 2


async def test_a_defect_at_the_start_is_logged_and_not_shown(starting: Any) -> None:
    """A defect while starting gives exit code 1, a line that points to the logs, and a traceback in them."""
    async with starting(extractor="defect") as process:
        out, logged = await process.communicate()
        answer = json.loads(out)
        assert (answer["ready"], answer["kind"]) == (False, "Internal")
        assert "a defect" not in answer["error"]
        assert b"RuntimeError: a defect" in logged
        assert process.returncode == 1


@pytest.mark.parametrize("variable", ["port", "health_port", "metrics_port"])
async def test_two_services_never_share_a_port(starting: Any, variable: str) -> None:
    """A port in use is an error that names the variable to change."""
    async with starting() as first:
        ready = await first_line(first)
        key = {"port": "address", "health_port": "health", "metrics_port": "metrics"}[variable]
        port = ready[key].rpartition(":")[2]
        async with starting(**{variable: port}) as second:
            answer = await first_line(second)
            assert answer["kind"] == "Conflict"
            assert f"OFFSHELF_{variable.upper()}" in answer["error"]
            assert await second.wait() == 2


async def test_a_token_that_others_can_read_is_refused(starting: Any, token_file: Path) -> None:
    """An installation whose token lies open is told so at the start, with the command that mends it."""
    token_file.chmod(0o644)  # noqa: ASYNC240  # one call on a local file
    async with starting() as process:
        answer = await first_line(process)
        assert f"chmod 600 {token_file}" in answer["error"]
        assert await process.wait() == 2
