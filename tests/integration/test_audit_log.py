"""The audit log as an auditor reads it: in the store, after calls to real servers."""

from __future__ import annotations

import asyncio
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from offshelf import Client, errors
from offshelf.access import Role
from offshelf.audit import AuditTrail
from offshelf.logs import JSONFormatter
from offshelf.rpc.channel import open_channel
from offshelf.rpc.permissions import is_internal
from offshelf.settings import Settings
from offshelf.store import keys, open_store
from offshelf.tokens import add_user, write_users
from offshelf.v1 import dataset_pb2, predictor_pb2
from offshelf.v1.dataset_pb2_grpc import DatasetServiceStub
from offshelf.v1.predictor_pb2_grpc import PredictorServiceStub
from tests.integration.stand_ins import StandIn, call, served, service, services
from tests.integration.whole_services import orchestrator_of_cluster, predictor
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from offshelf.store import ObjectStore
    from offshelf.v1.dataset_pb2_grpc import DatasetServiceAsyncStub
    from offshelf.v1.predictor_pb2_grpc import PredictorServiceAsyncStub

WRONG = "offshelf_a-token-that-nobody-has-given-to-anybody"
CONTENT = b"what is in the picture "
DOORS = [found.name for found in services() if not is_internal(found.full_name)]
NOWHERE = "0" * 64


class AuditedStandIn(StandIn):
    """Methods that do nothing, each of whose calls is to be on record."""

    def __init__(self, store: ObjectStore) -> None:
        super().__init__(*DOORS)
        self.audit = AuditTrail(store)


@pytest.fixture
def tokens(tmp_path: Path) -> dict[str, str]:
    """Make a user of each role, who is called like it; gives their tokens."""
    users: Any = ()
    given = {}
    for role in (Role.VIEWER, Role.RUNNER, Role.ADMIN):
        name = role.name.lower()
        users, given[name] = add_user(users, name, role)
    write_users(tmp_path / "users.json", users)
    return given


def lines(store: ObjectStore) -> list[dict[str, Any]]:
    """All lines of the audit log."""
    found = [info.key for info in store.list(keys.AUDIT)]
    return [json.loads(line) for key in found for line in store.get(key).splitlines()]


def deeds(store: ObjectStore) -> set[tuple[str, str, str, str]]:
    """Who did what to what, and how it ended."""
    return {(line["who"], line["what"], line["target"], line["outcome"]) for line in lines(store)}


def assert_secret(store: ObjectStore, records: Iterable[logging.LogRecord], *secrets: str | bytes) -> None:
    """Look for what must be neither in the audit log nor in the process's own."""
    formatter = JSONFormatter("test")
    written = [*map(json.dumps, lines(store)), *map(formatter.format, records)]
    assert any('"audit"' in line for line in written)
    for secret in secrets:
        text = secret.decode() if isinstance(secret, bytes) else secret
        assert not [line for line in written if text in line]


async def test_every_call_of_a_door_is_on_record(tmp_path: Path, tokens: dict[str, str]) -> None:
    """Whichever method is called, a line says by whom and how it ended, also of those who may not call it."""
    store = MemoryStore()
    methods = [method for name in DOORS for method in service(name).methods]
    refused = set()
    async with served(AuditedStandIn(store), Settings(users=tmp_path / "users.json")) as server:
        async with open_channel(server.address, token=tokens["admin"]) as channel:
            for method in methods:
                await call(channel, method)
        async with open_channel(server.address, token=tokens["viewer"]) as channel:
            for method in methods:
                try:
                    await call(channel, method)
                except errors.PermissionDenied:
                    refused.add(method.name)
        async with open_channel(server.address, token=WRONG) as channel:
            with pytest.raises(errors.Unauthenticated):
                await call(channel, methods[0])
    assert {"CreateRun", "UploadImages", "DeleteDataset"} <= refused
    assert deeds(store) == {
        *(("admin", method.name, "", "OK") for method in methods),
        *(("viewer", method.name, "", "PERMISSION_DENIED" if method.name in refused else "OK") for method in methods),
        ("", methods[0].name, "", "UNAUTHENTICATED"),
    }


async def test_the_orchestrators_calls_are_on_record(
    tmp_path: Path, tokens: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """An auditor finds who uploaded, ran and deleted what, who tried to, and nothing of what was in the images."""
    caplog.set_level(logging.DEBUG)
    for number in range(4):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(CONTENT + b"%d" % number)

    def use(address: str) -> tuple[str, str]:
        with Client(address, tokens["runner"]) as client:
            run = client.run(tmp_path / "photos", folds=2)
            (dataset,) = client.datasets()
            run.cancel()
        return dataset.digest, run.id

    async with orchestrator_of_cluster(tmp_path, users=tmp_path / "users.json") as server:
        digest, run = await asyncio.to_thread(use, server.address)
        request = dataset_pb2.DeleteDatasetRequest(digest=digest)
        for token, error in ((tokens["viewer"], errors.PermissionDenied), (WRONG, errors.Unauthenticated)):
            async with open_channel(server.address, token=token) as channel:
                stub: DatasetServiceAsyncStub = DatasetServiceStub(channel)
                with pytest.raises(error):
                    await stub.DeleteDataset(request)
        async with open_channel(server.address, token=tokens["admin"]) as channel:
            stub = DatasetServiceStub(channel)
            await stub.DeleteDataset(request)
    store = open_store(str(tmp_path / "store"))
    assert deeds(store) >= {
        ("runner", "UploadImages", "images: 4", "OK"),
        ("runner", "CreateDataset", digest, "OK"),
        ("runner", "CreateRun", run, "OK"),
        ("runner", "CancelRun", run, "OK"),
        ("viewer", "DeleteDataset", digest, "PERMISSION_DENIED"),
        ("", "DeleteDataset", "", "UNAUTHENTICATED"),
        ("admin", "DeleteDataset", digest, "OK"),
    }
    fields = {"first", "last", "count", "who", "what", "target", "outcome", "request_id"}
    assert {frozenset(line) for line in lines(store)} == {frozenset(fields)}
    assert_secret(store, caplog.records, CONTENT, WRONG, *tokens.values())


async def test_the_predictors_calls_are_on_record(
    tmp_path: Path, tokens: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    """An auditor finds who asked which model, and nothing of the images that were sent along."""
    caplog.set_level(logging.DEBUG)
    request = predictor_pb2.PredictRequest(model=NOWHERE, images=[CONTENT])
    async with predictor(tmp_path, users=tmp_path / "users.json") as server:
        for token, error in ((tokens["viewer"], errors.NotFound), (WRONG, errors.Unauthenticated)):
            async with open_channel(server.address, token=token) as channel:
                stub: PredictorServiceAsyncStub = PredictorServiceStub(channel)
                with pytest.raises(error):
                    await stub.Predict(request)
        async with open_channel(server.address, token=tokens["runner"]) as channel:
            stub = PredictorServiceStub(channel)
            await stub.ListModels(predictor_pb2.ListModelsRequest())
    store = open_store(str(tmp_path / "store"))
    assert deeds(store) == {
        ("viewer", "Predict", NOWHERE, "NOT_FOUND"),
        ("", "Predict", "", "UNAUTHENTICATED"),
        ("runner", "ListModels", "", "OK"),
    }
    assert_secret(store, caplog.records, CONTENT, WRONG, *tokens.values())
