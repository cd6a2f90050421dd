"""TLS between services and for users: who is believed, and what is said when somebody is not."""

from __future__ import annotations

import asyncio
import datetime as dt
import re
import shutil
import sys
from contextlib import asynccontextmanager
from socket import gethostname
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from offshelf import certificates, errors
from offshelf.access import Caller, Role
from offshelf.client import Client
from offshelf.rpc.access import connection_options
from offshelf.rpc.channel import open_channel, open_sync_channel
from offshelf.settings import Settings
from offshelf.tokens import add_user, write_users
from offshelf.v1 import trainer_pb2, trainer_pb2_grpc
from tests.integration.stand_ins import StandIn, call, served, service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

FIT = service("TrainerService").methods_by_name["Fit"]
LIST_RUNS = service("OrchestratorService").methods_by_name["ListRuns"]
DAY = dt.timedelta(days=1)


def now() -> dt.datetime:
    """Tell the time."""
    return dt.datetime.now(dt.UTC)


@pytest.fixture
def certs(tmp_path: Path) -> Path:
    """Make the certificates of an installation."""
    certificates.issue(tmp_path / "certs")
    return tmp_path / "certs"


@pytest.fixture
def internal(tmp_path: Path, certs: Path) -> Settings:
    """Configure a trainer as in a cluster."""
    return Settings(store=str(tmp_path / "store"), tls=certs / "trainer")


@pytest.fixture
def door(tmp_path: Path, certs: Path) -> tuple[Settings, str]:
    """Configure the orchestrator as in a cluster; with the token of a viewer."""
    users, token = add_user((), "ada", Role.VIEWER)
    write_users(tmp_path / "users.json", users)
    settings = Settings(store=str(tmp_path / "store"), tls=certs / "orchestrator", users=tmp_path / "users.json")
    return settings, token


async def test_the_orchestrator_reaches_a_service_by_its_certificate(internal: Settings, certs: Path) -> None:
    """Between services nothing is needed but their certificates, and the service knows who calls."""
    stand_in = StandIn("TrainerService")
    async with (
        served(stand_in, internal) as server,
        open_channel(server.address, tls=certs / "orchestrator", server_name="trainer") as channel,
    ):
        await call(channel, FIT)
    assert stand_in.callers == [Caller("orchestrator", frozenset({Role.SERVICE}))]


async def test_a_service_believes_no_other_certificate(internal: Settings, certs: Path, tmp_path: Path) -> None:
    """Without a certificate, with another service's, or with one of another authority, nobody gets to a service."""
    certificates.issue(tmp_path / "others")
    stand_in = StandIn("TrainerService")
    forged = tmp_path / "forged"
    shutil.copytree(tmp_path / "others" / "orchestrator", forged)
    shutil.copy(certs / "trainer" / "ca.crt", forged)
    ca = certs / "trainer" / "ca.crt"
    async with served(stand_in, internal) as server:
        for how, error, said in (
            ({"ca": ca, "token": "x" * 40}, errors.Unavailable, "may want a certificate from us"),
            ({"token": "x" * 40}, errors.Unavailable, "If it wants TLS, give its authority with --ca"),
            ({"tls": forged}, errors.Unavailable, "may not believe the certificate in .*forged"),
            ({"tls": certs / "predictor"}, errors.PermissionDenied, "for the orchestrator alone.* predictor,"),
            ({"tls": certs / "trainer"}, errors.PermissionDenied, "for the orchestrator alone.* trainer,"),
        ):
            async with open_channel(server.address, server_name="trainer", **how) as channel:
                with pytest.raises(error, match=said):
                    await call(channel, FIT)
    assert stand_in.callers == []


async def test_users_come_with_a_token_over_tls(door: tuple[Settings, str], certs: Path) -> None:
    """A user needs the authority's certificate and a token; the one without the other does not do."""
    settings, token = door
    stand_in = StandIn("OrchestratorService")
    ca = certs / "orchestrator" / "ca.crt"
    async with served(stand_in, settings) as server:
        async with open_channel(server.address, token=token, ca=ca) as channel:
            await call(channel, LIST_RUNS)
        async with open_channel(server.address, ca=ca) as channel:
            with pytest.raises(errors.Unauthenticated):
                await call(channel, LIST_RUNS)
        async with open_channel(server.address, tls=certs / "predictor") as channel:
            with pytest.raises(errors.Unauthenticated):  # a certificate is no token
                await call(channel, LIST_RUNS)
    assert [caller.name for caller in stand_in.callers] == ["ada"]


def described(address: str, how: dict[str, Any]) -> str:
    """Connect, and give what is said when that fails."""
    with open_sync_channel(address, **how) as channel, pytest.raises(errors.Unavailable) as refused:
        list(trainer_pb2_grpc.TrainerServiceStub(channel).Fit(trainer_pb2.FitRequest()))
    return refused.value.message


async def test_what_is_wrong_with_a_certificate_is_said(certs: Path, tmp_path: Path) -> None:
    """Expired, not yet valid, of another name or authority, theirs or ours: each is one line that says what to do."""
    folders = {}
    for name, when in (("expired", now() - 400 * DAY), ("early", now() + 2 * DAY)):
        folder = tmp_path / name
        shutil.copytree(certs / "ca", folder / "ca")
        certificates.issue(folder, now=when)
        for each in certificates.SERVICES:
            shutil.copy(certs / "trainer" / "ca.crt", folder / each)
        folders[name] = folder
    certificates.issue(tmp_path / "others")

    @asynccontextmanager
    async def raw(folder: Path) -> AsyncIterator[str]:
        # gRPC's own server: ours does not start with a certificate that is not valid.
        server = grpc.aio.server()
        pair = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())
        credentials = grpc.ssl_server_credentials([pair], (folder / "ca.crt").read_bytes(), require_client_auth=True)
        port = server.add_secure_port("127.0.0.1:0", credentials)
        await server.start()
        yield f"127.0.0.1:{port}"
        await server.stop(None)

    ours, as_trainer = certs / "orchestrator", {"server_name": "trainer"}
    for theirs, how, said in (
        (
            folders["expired"] / "trainer",
            {"tls": ours, **as_trainer},
            "The certificate of the server at .* has expired",
        ),
        (
            folders["early"] / "trainer",
            {"tls": ours, **as_trainer},
            f"is not valid yet: set the clock of {gethostname()}, or",
        ),
        (certs / "stats", {"tls": ours, **as_trainer}, "is not for 'trainer': another service answers there"),
        (
            certs / "trainer",
            {"ca": certs / "trainer" / "ca.crt"},
            "add this one to it: offshelf certs FOLDER --host 127",
        ),
        (
            tmp_path / "others" / "trainer",
            {"tls": ours, **as_trainer},
            "not of the authority in .*/orchestrator/ca.crt",
        ),
        (
            certs / "trainer",
            {"tls": folders["expired"] / "orchestrator", **as_trainer},
            f"The certificate .*/tls.crt of {gethostname()} expired on ",
        ),
        (
            certs / "trainer",
            {"tls": folders["early"] / "orchestrator", **as_trainer},
            f"Set the clock of {gethostname()}, or",
        ),
    ):
        async with raw(theirs) as address:
            message = await asyncio.to_thread(described, address, how)
        assert re.search(said, message), message


@pytest.mark.parametrize("when", [-400, 2])
async def test_a_server_does_not_start_with_a_certificate_that_nobody_believes(tmp_path: Path, when: int) -> None:
    """An operator whose certificate is expired, or whose clock is wrong, reads that at once."""
    certificates.issue(tmp_path / "certs", now=now() + when * DAY)
    settings = Settings(store=str(tmp_path / "store"), tls=tmp_path / "certs" / "trainer")
    with pytest.raises(errors.InvalidInput, match=r"trainer/tls\.crt of \S+ (expired on|is not valid before) 20"):
        async with served(StandIn("TrainerService"), settings):
            pass


async def test_a_key_that_others_can_read_is_refused(internal: Settings, certs: Path) -> None:
    """A key that lies open is found at the start, with the command that mends it."""
    (certs / "trainer" / "tls.key").chmod(0o644)
    with pytest.raises(errors.InvalidInput, match=r"key file .*tls\.key can be read by others .* chmod 600"):
        async with served(StandIn("TrainerService"), internal):
            pass


@pytest.mark.parametrize("missing", ["tls.crt", "tls.key", "ca.crt"])
async def test_a_missing_file_is_named(internal: Settings, certs: Path, missing: str) -> None:
    """A folder of certificates in which one is missing is an error about that file."""
    (certs / "trainer" / missing).unlink()
    with pytest.raises(errors.InvalidInput, match=missing):
        async with served(StandIn("TrainerService"), internal):
            pass


async def test_a_key_of_another_certificate_is_refused(internal: Settings, certs: Path) -> None:
    """Files that do not belong together are found at the start."""
    shutil.copy(certs / "stats" / "tls.key", certs / "trainer" / "tls.key")
    with pytest.raises(errors.InvalidInput, match=r"no certificate with its key .*offshelf certs"):
        async with served(StandIn("TrainerService"), internal):
            pass


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])  # noqa: S104  that is the point
async def test_no_server_listens_for_others_in_plaintext(tmp_path: Path, token_file: Path, host: str) -> None:
    """Nobody puts a server on the network without encryption by mistake; behind a mesh it has to be said."""
    settings = Settings(store=str(tmp_path / "store"), token_file=token_file, host=host)
    with pytest.raises(errors.InvalidInput, match=f"listen on {host} without encryption. Set OFFSHELF_TLS"):
        async with served(StandIn("TrainerService"), settings):
            pass


async def test_behind_a_mesh_plaintext_is_possible(tmp_path: Path, token_file: Path) -> None:
    """Where a mesh encrypts, services work without certificates, by the token of the installation."""
    settings = Settings(store=str(tmp_path / "store"), token_file=token_file, host="0.0.0.0", plaintext=True)  # noqa: S104
    stand_in = StandIn("TrainerService")
    async with served(stand_in, settings) as server:
        port = server.address.rpartition(":")[2]
        async with open_channel(f"127.0.0.1:{port}", token="a-token-for-tests", plaintext=True) as channel:
            await call(channel, FIT)
    assert len(stand_in.callers) == 1


async def test_clients_are_moved_on_without_a_failed_call() -> None:
    """A door may ask its clients to connect anew at any time: calls go on, and so does a watch that is open."""
    go_on = asyncio.Event()
    server = grpc.aio.server(options=connection_options(0.2, 60))

    async def peer(_request: bytes, context: Any) -> bytes:
        return str(context.peer()).encode()

    async def watch_run(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
        yield b"first"
        await go_on.wait()
        yield b"last"

    handlers: dict[str, Any] = {
        "Peer": grpc.unary_unary_rpc_method_handler(peer),
        "Watch": grpc.unary_stream_rpc_method_handler(watch_run),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Door", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        ask: Any = channel.unary_unary("/test.Door/Peer")
        look: Any = channel.unary_stream("/test.Door/Watch")
        watch = aiter(look(b""))
        assert await anext(watch) == b"first"
        peers: set[bytes] = set()
        # Until three connections have come to their end.
        while len(peers) < 4:
            peers.add(await ask(b""))
        go_on.set()
        assert [message async for message in watch] == [b"last"]
    await server.stop(None)


async def test_the_sdk_reaches_a_server_with_its_authority_and_a_token_file(
    door: tuple[Settings, str], certs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user sets three variables, and the SDK and every command go to the server by TLS, as that user."""
    settings, token = door
    token_file = tmp_path / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    stand_in = StandIn("OrchestratorService")
    async with served(stand_in, settings) as server:
        monkeypatch.setenv("OFFSHELF_SERVER", server.address)
        monkeypatch.setenv("OFFSHELF_CA", str(certs / "orchestrator" / "ca.crt"))
        monkeypatch.setenv("OFFSHELF_TOKEN_FILE", str(token_file))
        monkeypatch.delenv("OFFSHELF_TOKEN", raising=False)

        def use() -> None:
            with Client() as client:
                assert list(client.runs()) == []

        await asyncio.to_thread(use)
        command = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "offshelf.cli", "runs"), stderr=asyncio.subprocess.PIPE
        )
        assert b"There are no runs yet" in (await command.communicate())[1]
    assert {caller.name for caller in stand_in.callers} == {"ada"}
