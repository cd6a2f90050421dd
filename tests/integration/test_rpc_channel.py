"""Channels: addresses, retries, servers that are not there, TLS."""

from __future__ import annotations

import asyncio
import shutil
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from offshelf import certificates, errors
from offshelf.rpc.channel import is_loopback, open_channel, open_sync_channel
from offshelf.v1 import extractor_pb2 as pb
from offshelf.v1 import extractor_pb2_grpc as pb_grpc

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from offshelf.rpc.server import RunningServer

    Serving = Callable[[Any], AbstractAsyncContextManager[RunningServer]]

TOKEN = "a-token-for-tests"


def unused_address() -> str:
    """Find a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


async def test_a_server_that_is_not_there_is_a_clear_error() -> None:
    """A user whose server is not running reads its address and how to start one, for calls and for streams."""
    address = unused_address()
    said = f"^No server answers at {address}. Start one with `offshelf up`, or check --server or OFFSHELF_SERVER.$"
    async with open_channel(address, token=TOKEN) as channel:
        stub = pb_grpc.ExtractorServiceStub(channel)
        with pytest.raises(errors.Unavailable, match=said):
            await stub.Describe(pb.DescribeRequest())
        with pytest.raises(errors.Unavailable, match=said):
            [_ async for _ in stub.ExtractSegment(pb.ExtractSegmentRequest())]


def test_a_blocking_client_without_a_server_gets_the_same_error() -> None:
    """The blocking client says the same of a server that is not running."""
    with open_sync_channel(unused_address(), token=TOKEN) as channel:
        with pytest.raises(errors.Unavailable, match="No server answers at"):
            pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())
        with pytest.raises(errors.Unavailable, match="No server answers at"):
            list(pb_grpc.ExtractorServiceStub(channel).ExtractSegment(pb.ExtractSegmentRequest()))


def test_a_server_of_a_cluster_that_is_not_there_has_its_reason_elsewhere(tmp_path: Path) -> None:
    """A user whose server in a cluster is down is told what says why, and not to start one here."""
    certificates.issue(tmp_path)
    said = r"^No server answers at \S+ Check --server or OFFSHELF_SERVER\. .*: kubectl describe pods .*orchestrator.*'$"
    ca = tmp_path / "orchestrator" / "ca.crt"
    with (
        open_sync_channel(unused_address(), token=TOKEN, ca=ca) as channel,
        pytest.raises(errors.Unavailable, match=said),
    ):
        pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())


def test_a_host_that_does_not_exist_is_no_server() -> None:
    """A misspelt host name is reported as such, not as a connection that was lost."""
    with (
        open_sync_channel("no-such-host.invalid:1", token=TOKEN) as channel,
        pytest.raises(errors.Unavailable, match=r"No server answers at no-such-host\.invalid:1"),
    ):
        pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())


async def test_an_address_that_never_answers_is_given_up() -> None:
    """An address that takes connections and says nothing is reported as no server, long before any deadline."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        async with open_channel(address, token=TOKEN) as channel:
            with pytest.raises(errors.Unavailable, match="No server answers at"):
                await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())


async def test_a_channel_finds_a_server_that_starts_later(serving: Serving, echo: Any) -> None:
    """A client that lost its server finds it again at the same address without being restarted."""
    async with serving(echo) as server:
        address = server.address
        channel = open_channel(address, token=TOKEN)
        await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())
    with pytest.raises(errors.Unavailable):
        await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())
    later = grpc.aio.server()
    echo.register(later)
    later.add_insecure_port(address)
    await later.start()
    answer = await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest(), wait_for_ready=True)
    assert answer.extractor == "echo"
    await channel.close()
    await later.stop(None)


async def test_a_call_is_repeated_while_the_server_is_unavailable(serving: Serving, echo: Any) -> None:
    """A service that is away for a moment costs the user nothing but that moment."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        await pb_grpc.ExtractorServiceStub(channel).ExtractImages(
            pb.ExtractImagesRequest(images=[b"unavailable twice"])
        )
    assert echo.attempts == 3


async def test_a_stream_is_never_repeated_behind_the_back_of_its_owner(serving: Serving, echo: Any) -> None:
    """A unit of work that fails is counted by the scheduler, since nobody else sends it again."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        stub = pb_grpc.ExtractorServiceStub(channel)
        with pytest.raises(errors.Unavailable, match="not yet"):
            [_ async for _ in stub.ExtractSegment(pb.ExtractSegmentRequest(extractor="unavailable"))]
    assert echo.attempts == 1


async def test_other_errors_are_not_repeated(serving: Serving, echo: Any) -> None:
    """A request that is wrong is sent once."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        with pytest.raises(errors.UnknownName):
            await pb_grpc.ExtractorServiceStub(channel).ExtractImages(pb.ExtractImagesRequest(images=[b"unknown name"]))
    assert echo.attempts == 1


async def test_a_message_over_the_limit_says_so(serving: Serving, echo: Any) -> None:
    """Somebody who sends too much at once reads the limit."""
    async with serving(echo) as server, open_channel(server.address, token=TOKEN) as channel:
        with pytest.raises(errors.ResourceExhausted, match=r"limit of 32 MiB\. Send less at once"):
            await pb_grpc.ExtractorServiceStub(channel).ExtractImages(
                pb.ExtractImagesRequest(images=[bytes(33 * 2**20)])
            )


@pytest.mark.parametrize(
    "address", ["", "localhost", "localhost:", "localhost:0", "localhost:70000", "a b:80", "http://x:1"]
)
def test_an_address_of_another_form_is_refused(address: str) -> None:
    """A mistyped address is recognized before anything is sent."""
    with pytest.raises(errors.InvalidInput, match="expected HOST:PORT"):
        open_sync_channel(address, token=None)


@pytest.mark.parametrize("token", ["", "two words", "line\nbreak", "schlüssel"])
def test_a_token_that_cannot_travel_is_refused(token: str) -> None:
    """A token with characters that metadata cannot carry is refused with a hint, and never printed."""
    with pytest.raises(errors.InvalidInput, match="Check --token or OFFSHELF_TOKEN") as refused:
        open_sync_channel("localhost:1", token=token)
    assert not token or token not in refused.value.message


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("127.8.9.1", True),
        ("[::1]", True),
        ("192.168.0.1", False),
        ("localhost.example.org", False),
    ],
)
def test_plaintext_is_for_this_machine_alone(host: str, expected: bool) -> None:  # noqa: FBT001
    """A token never crosses a wire in clear."""
    assert is_loopback(host) is expected


def new_certificate(folder: Path, host: str) -> tuple[Path, Path]:
    """Make a certificate that signs itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    key, cert = folder / f"{host}.key", folder / f"{host}.pem"
    request = f"req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN={host}"
    names = ["-addext", f"subjectAltName=DNS:{host}", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([openssl, *request.split(), *names], check=True, capture_output=True)
    return key, cert


@pytest.fixture
def localhost(tmp_path: Path) -> tuple[Path, Path]:
    """Make the key and certificate of a server on this machine."""
    return new_certificate(tmp_path, "localhost")


@pytest.fixture
def stranger(tmp_path: Path) -> tuple[Path, Path]:
    """Make a key and certificate that have nothing to do with that server."""
    return new_certificate(tmp_path, "stranger")


async def test_tls_trusts_the_given_authority_and_no_other(
    echo: Any, localhost: tuple[Path, Path], stranger: tuple[Path, Path]
) -> None:
    """With --ca a TLS server is reached; with another authority the user reads that its certificate is not trusted."""
    key, cert = localhost
    server = grpc.aio.server()
    echo.register(server)
    credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])
    port = server.add_secure_port("localhost:0", credentials)
    await server.start()
    async with open_channel(f"localhost:{port}", token=TOKEN, ca=cert) as channel:
        assert (await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())).extractor == "echo"
    async with open_channel(f"localhost:{port}", token=TOKEN, ca=stranger[1]) as channel:
        with pytest.raises(errors.Unavailable, match=r"is not trusted\. Give its authority with --ca"):
            await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())
    await server.stop(None)


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_an_authority_that_cannot_be_read_is_refused(tmp_path: Path, content: str | None) -> None:
    """A wrong --ca is an error about that file, not about the connection."""
    ca = tmp_path / "ca.pem"
    if content is not None:
        ca.write_text(content)
    with pytest.raises(errors.InvalidInput, match=r"ca\.pem"):
        open_sync_channel("localhost:1", token=None, ca=ca)


def test_the_client_side_imports_nothing_of_the_servers() -> None:
    """Opening a channel needs the SDK's own dependencies and no more."""
    program = (
        "import sys, offshelf.rpc.channel as c; c.open_sync_channel('localhost:1', token=None);"
        # grpc itself imports the empty packages grpc_health and grpc_reflection where they are installed.
        "heavy = ('prometheus_client', 'grpc_health.v1', 'grpc_reflection.v1alpha', 'numpy');"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


async def test_cancelling_while_connecting_does_not_hang() -> None:
    """Ctrl-C while a client still connects ends it at once."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        silent.setblocking(False)
        async with open_channel(f"127.0.0.1:{silent.getsockname()[1]}", token=TOKEN) as channel:
            call = asyncio.ensure_future(_describe(channel))
            connected, _ = await asyncio.get_running_loop().sock_accept(silent)
            with connected:
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call


async def _describe(channel: grpc.aio.Channel) -> None:
    await pb_grpc.ExtractorServiceStub(channel).Describe(pb.DescribeRequest())
