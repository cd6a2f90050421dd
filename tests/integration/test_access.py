"""Who may call what: every method of the contract, with every kind of caller, through real servers."""

from __future__ import annotations

import datetime as dt
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from offshelf import errors
from offshelf.access import OWNER, Role
from offshelf.logs import JSONFormatter
from offshelf.rpc.auth import current_caller
from offshelf.rpc.channel import open_channel
from offshelf.rpc.permissions import is_internal, least_role
from offshelf.settings import Settings
from offshelf.tokens import add_user, write_users
from tests.integration.stand_ins import StandIn, call, methods, served, service, services

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.descriptor import MethodDescriptor

TOKEN = "a-token-for-tests"
WRONG = "offshelf_a-token-that-nobody-has-given-to-anybody"
DOORS = [found.name for found in services() if not is_internal(found.full_name)]
INTERNAL = [found.name for found in services() if is_internal(found.full_name)]
OF_DOORS = [method for name in DOORS for method in service(name).methods]
OF_INTERNAL = [method for name in INTERNAL for method in service(name).methods]
USERS = (Role.VIEWER, Role.RUNNER, Role.ADMIN)


def path_of(method: MethodDescriptor) -> str:
    """Give the method's name as gRPC writes it."""
    assert method.containing_service is not None
    return f"/{method.containing_service.full_name}/{method.name}"


def needed(method: MethodDescriptor) -> Role:
    """Give the role that the contract asks for."""
    least = least_role(path_of(method))
    assert least is not None
    return least


@pytest.fixture
def users_file(tmp_path: Path) -> Path:
    """Say where the users are kept."""
    return tmp_path / "users.json"


@pytest.fixture
def tokens(users_file: Path) -> dict[Role, str]:
    """Make a user of each role; gives their tokens."""
    users: Any = ()
    given = {}
    for role in USERS:
        users, given[role] = add_user(users, f"a-{role.name.lower()}", role)
    write_users(users_file, users)
    return given


@pytest.fixture
def door(tmp_path: Path, users_file: Path) -> Settings:
    """Configure a server for users."""
    return Settings(store=str(tmp_path / "store"), users=users_file)


def test_the_contract_says_who_may_call_each_method() -> None:
    """No method can be added without a decision who may call it."""
    assert [path_of(method) for method in methods() if least_role(path_of(method)) is None] == []
    assert set(INTERNAL) == {"ExtractorService", "StatsService", "TrainerService"}


@pytest.mark.parametrize("method", OF_DOORS, ids=path_of)
async def test_users_may_call_what_their_role_allows(
    door: Settings, tokens: dict[Role, str], method: MethodDescriptor
) -> None:
    """Each method of a door is closed without a token, with a wrong one and with too low a role, and open otherwise."""
    stand_in = StandIn(*DOORS)
    async with served(stand_in, door) as server:
        for token, said in ((None, "no token"), (WRONG, "wrong token")):
            async with open_channel(server.address, token=token) as channel:
                with pytest.raises(errors.Unauthenticated, match=said):
                    await call(channel, method)
        low = [role for role in USERS if role < needed(method)]
        for role in low:
            async with open_channel(server.address, token=tokens[role]) as channel:
                with pytest.raises(errors.PermissionDenied, match=f"a-{role.name.lower()} is {role.name.lower()} here"):
                    await call(channel, method)
        assert stand_in.callers == []
        for role in USERS[len(low) :]:
            async with open_channel(server.address, token=tokens[role]) as channel:
                await call(channel, method)
    assert [caller.name for caller in stand_in.callers] == [f"a-{role.name.lower()}" for role in USERS[len(low) :]]


async def test_what_a_stranger_sends_is_not_read(door: Settings, tokens: dict[Role, str]) -> None:
    """A request without a right token is refused before it is parsed, so that nobody can fill the memory with them."""
    parsed = []

    class Noting(StandIn):
        def _handler(self, method: MethodDescriptor) -> Any:
            handler = super()._handler(method)
            parse = handler.request_deserializer

            def note(data: bytes) -> Any:
                parsed.append(method.name)
                return parse(data)

            return handler._replace(request_deserializer=note)

    method = service("OrchestratorService").methods_by_name["ListRuns"]
    async with served(Noting(*DOORS), door) as server:
        for token in (None, WRONG):
            async with open_channel(server.address, token=token) as channel:
                with pytest.raises(errors.Unauthenticated):
                    await call(channel, method)
        assert parsed == []
        async with open_channel(server.address, token=tokens[Role.VIEWER]) as channel:
            await call(channel, method)
    assert parsed == ["ListRuns"]


@pytest.mark.parametrize("method", OF_INTERNAL, ids=path_of)
async def test_no_user_may_call_what_is_for_services(
    tmp_path: Path, door: Settings, tokens: dict[Role, str], token_file: Path, method: MethodDescriptor
) -> None:
    """Internal methods are closed to users of every role; behind a mesh, the token of the installation opens them."""
    stand_in = StandIn("OrchestratorService", *INTERNAL)
    async with served(stand_in, door) as server:
        for token, error in (
            (None, errors.Unauthenticated),
            (WRONG, errors.Unauthenticated),
            *((tokens[role], errors.PermissionDenied) for role in USERS),
        ):
            async with open_channel(server.address, token=token) as channel:
                with pytest.raises(error):
                    await call(channel, method)
    assert stand_in.callers == []
    assert method.containing_service is not None
    alone = StandIn(method.containing_service.name)
    settings = Settings(store=str(tmp_path / "store"), token_file=token_file, users=door.users)
    async with served(alone, settings) as server:
        for token in (None, WRONG, tokens[Role.ADMIN]):
            async with open_channel(server.address, token=token) as channel:
                with pytest.raises(errors.Unauthenticated):
                    await call(channel, method)
        async with open_channel(server.address, token=TOKEN) as channel:
            await call(channel, method)
    assert alone.callers == [OWNER]


async def test_a_method_that_the_contract_does_not_know_is_closed(tmp_path: Path, token_file: Path) -> None:
    """A method that somebody forgot to put under a role is open to nobody, the owner included."""
    settings = Settings(store=str(tmp_path / "store"), token_file=token_file)
    async with (
        served(StandIn("StatsService"), settings) as server,
        open_channel(server.address, token=TOKEN) as channel,
    ):
        forgotten: Any = channel.unary_unary("/offshelf.v1.StatsService/NotInTheContract")
        with pytest.raises(errors.PermissionDenied, match="open to nobody"):
            await forgotten(b"")


async def test_reflection_is_for_users(door: Settings, tokens: dict[Role, str]) -> None:
    """A viewer can list the services with an ordinary gRPC tool; a stranger cannot."""
    async with served(StandIn(*DOORS), door) as server:
        for token, expected in ((tokens[Role.VIEWER], True), (WRONG, False)):
            async with open_channel(server.address, token=token) as channel:
                asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
                answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked)
                if expected:
                    assert [answer async for answer in answers]
                else:
                    with pytest.raises(errors.Unauthenticated):
                        [answer async for answer in answers]


def test_outside_of_a_call_nobody_calls() -> None:
    """Code that asks who calls where nobody does is a defect, and never a caller with rights."""
    with pytest.raises(LookupError):
        current_caller()


async def test_users_come_and_go_without_a_restart(
    door: Settings, users_file: Path, tokens: dict[Role, str], caplog: pytest.LogCaptureFixture
) -> None:
    """A token that is added works at once, one that is removed stops; a broken file changes nothing and is logged."""
    method = service("OrchestratorService").methods_by_name["ListRuns"]
    async with served(StandIn(*DOORS), door) as server:
        users, new = add_user((), "new", Role.VIEWER)
        async with (
            open_channel(server.address, token=tokens[Role.VIEWER]) as before,
            open_channel(server.address, token=new) as after,
        ):
            await call(before, method)
            write_users(users_file, users)
            await call(after, method)
            with pytest.raises(errors.Unauthenticated):
                await call(before, method)
            users_file.write_text('{"users": "oops"}')  # noqa: ASYNC240  one call on a local file
            await call(after, method)
            await call(after, method)
            users_file.unlink()  # noqa: ASYNC240
            await call(after, method)
    kept = [record.getMessage() for record in caplog.records if "stay in force" in record.getMessage()]
    assert len(kept) == 2
    assert "is not JSON of the form" in kept[0]


async def test_an_expired_token_says_so(door: Settings, users_file: Path) -> None:
    """Somebody whose token has expired reads that, and when, instead of that it is wrong."""
    users, token = add_user((), "ada", Role.ADMIN, days=-2)
    write_users(users_file, users)
    day = f"{dt.datetime.now(dt.UTC) - dt.timedelta(days=2):%Y-%m-%d}"
    async with served(StandIn(*DOORS), door) as server, open_channel(server.address, token=token) as channel:
        with pytest.raises(errors.Unauthenticated, match=f"the token of ada expired on {day}"):
            await call(channel, service("OrchestratorService").methods_by_name["ListRuns"])


async def test_a_server_that_nobody_could_use_does_not_start(tmp_path: Path) -> None:
    """A door without users and without a token says what it needs."""
    settings = Settings(store=str(tmp_path / "store"))
    with pytest.raises(errors.InvalidInput, match="A server needs a token"):
        async with served(StandIn(*DOORS), settings):
            pass
    with pytest.raises(errors.InvalidInput, match=r"users file .*users\.json cannot be read"):
        async with served(StandIn(*DOORS), Settings(store=str(tmp_path / "store"), users=tmp_path / "users.json")):
            pass


async def test_too_many_wrong_tokens_are_told_to_wait_and_right_ones_still_work(
    door: Settings, tokens: dict[Role, str]
) -> None:
    """A program that tries on and on is told to stop, and a user behind the same router is not shut out by it."""
    method = service("OrchestratorService").methods_by_name["ListRuns"]
    async with served(StandIn(*DOORS), door) as server:
        async with open_channel(server.address, token=WRONG) as wrong, open_channel(server.address, token=None) as none:
            for _ in range(10):
                with pytest.raises(errors.Unauthenticated):
                    await call(wrong, method)
            for channel in (wrong, none):
                with pytest.raises(errors.ResourceExhausted, match=r"too many wrong tokens .* try again in \d+ s"):
                    await call(channel, method)
        async with open_channel(server.address, token=tokens[Role.VIEWER]) as right:
            await call(right, method)


async def test_tokens_are_in_no_log_and_no_error(
    door: Settings, tokens: dict[Role, str], caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is tried, neither right nor wrong tokens appear in logs or in what the caller reads."""
    caplog.set_level(logging.DEBUG)
    said = []
    async with served(StandIn(*DOORS), door) as server:
        for token in (WRONG, *tokens.values()):
            async with open_channel(server.address, token=token) as channel:
                for method in OF_DOORS:
                    try:
                        await call(channel, method)
                    except errors.OffshelfError as error:
                        said.append(error.message)
    formatter = JSONFormatter("test")
    lines = [formatter.format(record) for record in caplog.records] + said
    assert any("wrong token" in line for line in lines)
    secrets = [WRONG, *tokens.values()]
    assert not [line for line in lines if any(secret in line or json.dumps(secret) in line for secret in secrets)]
