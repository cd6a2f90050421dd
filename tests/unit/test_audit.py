from __future__ import annotations

import asyncio
import json
import logging
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from offshelf.access import Caller, Role
from offshelf.audit import AuditTrail, Deed
from offshelf.errors import InvalidInput, StoreUnavailable
from offshelf.rpc.audit import Auditor
from offshelf.rpc.auth import caller_of_call
from offshelf.rpc.interceptors import Call
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.runs.specification import RunSpec
from offshelf.services.orchestrator.runs.status import RunStatus
from offshelf.services.orchestrator.servicer import OrchestratorServicer
from offshelf.store.patience import Patience
from offshelf.store.patient import PatientStore
from offshelf.v1 import orchestrator_pb2 as pb
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from offshelf.services.orchestrator.runs.intake import Request
    from offshelf.services.orchestrator.runs.orchestration import Orchestrator

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


class AwayStore(MemoryStore):
    away = True

    def put(self, key: str, data: bytes) -> None:
        """Refuse while away."""
        if self.away:
            raise StoreUnavailable("The store does not answer.")
        super().put(key, data)


def lines(store: MemoryStore) -> list[dict[str, Any]]:
    """All lines of the audit log."""
    return [json.loads(line) for key in sorted(store.objects) for line in store.objects[key].splitlines()]


def test_a_deed_says_who_did_what_when_and_how_it_ended() -> None:
    """An auditor finds who deleted which dataset, when, and whether it worked."""
    store = MemoryStore()
    trail = AuditTrail(store, now=lambda: NOON)
    trail.record(Deed("ada", "DeleteDataset", "3f", "OK"))
    trail.flush()
    (key,) = store.objects
    assert key.startswith("audit/2026-03-01/120000-")
    assert lines(store) == [
        {
            "first": "2026-03-01T12:00:00.000+00:00",
            "last": "2026-03-01T12:00:00.000+00:00",
            "count": 1,
            "who": "ada",
            "what": "DeleteDataset",
            "target": "3f",
            "outcome": "OK",
            "request_id": "",
        }
    ]


def test_equal_deeds_of_a_moment_are_counted_in_one_line() -> None:
    """A thousand predictions in a second do not become a thousand lines."""
    store = MemoryStore()
    trail = AuditTrail(store)
    for _ in range(1000):
        trail.record(Deed("bob", "Predict", "model", "OK"))
    trail.record(Deed("bob", "Predict", "model", "NOT_FOUND"))
    trail.flush()
    assert [(line["outcome"], line["count"]) for line in lines(store)] == [("OK", 1000), ("NOT_FOUND", 1)]


def test_nothing_that_was_written_is_written_over() -> None:
    """Each flush is an object of its own, and an idle moment writes none."""
    store = MemoryStore()
    trail = AuditTrail(store, now=lambda: NOON)
    for user in ("ada", "bob"):
        trail.record(Deed(user, "CreateRun", "run", "OK"))
        trail.flush()
        trail.flush()
    assert [line["who"] for line in lines(store)] == ["ada", "bob"]
    assert len(store.objects) == 2


def test_deeds_wait_for_a_store_that_is_away() -> None:
    """A store that does not answer for a while leaves no gap in the log."""
    store = AwayStore()
    trail = AuditTrail(store)
    trail.record(Deed("ada", "CreateRun", "run", "OK"))
    trail.flush()
    trail.record(Deed("ada", "CreateRun", "run", "OK"))
    trail.record(Deed("bob", "CancelRun", "run", "OK"))
    store.away = False
    trail.flush()
    assert [(line["who"], line["count"]) for line in lines(store)] == [("ada", 2), ("bob", 1)]


def test_a_caller_cannot_forge_a_line_or_flood_it() -> None:
    """Line breaks and endless names in what a caller sends stay one short line."""
    store = MemoryStore()
    trail = AuditTrail(store)
    trail.record(Deed("eve\nroot", "CancelRun", "x" * 100_000, "NOT_FOUND"))
    trail.flush()
    (line,) = lines(store)
    assert line["who"] == "eve root"
    assert len(line["target"]) == 200


def test_strangers_cannot_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    """A thousand refused calls of somebody unknown are counted, and are one line in the log; a user's are all there."""
    caplog.set_level(logging.INFO)
    store = MemoryStore()
    trail = AuditTrail(store)
    for who in ("", "ada"):
        for _ in range(100):
            trail.record(Deed(who, "DeleteDataset", "", "UNAUTHENTICATED"))
    trail.flush()
    assert [(line["who"], line["count"]) for line in lines(store)] == [("", 100), ("ada", 100)]
    assert [getattr(record, "who", None) for record in caplog.records] == ["", *["ada"] * 100]


def test_a_defect_of_the_store_leaves_no_gap() -> None:
    """Also when the store fails in a way that nobody thought of, what was done is written the next time."""

    class BrokenStore(AwayStore):
        def put(self, key: str, data: bytes) -> None:
            if self.away:
                raise RuntimeError("a defect")
            super().put(key, data)

    store = BrokenStore()
    trail = AuditTrail(store)
    trail.record(Deed("ada", "CreateRun", "run", "OK"))
    trail.flush()
    store.away = False
    trail.flush()
    assert [line["who"] for line in lines(store)] == ["ada"]


async def test_a_store_that_is_away_does_not_keep_a_server_from_ending() -> None:
    """A server that ends while its store is away gives up soon, and what it could not write is in its log."""
    trail = AuditTrail(PatientStore(AwayStore(), Patience(3600.0)))
    auditor = Auditor(trail, close_seconds=0.01)
    trail.record(Deed("ada", "CreateRun", "run", "OK"))
    await auditor.close()


async def test_a_run_is_named_by_its_id() -> None:
    """An auditor finds which run somebody has started; of one that was refused, the request."""

    class Runs:
        async def create(self, request: Request, **_: str) -> tuple[RunStatus, bool]:
            if not request.dataset:
                raise InvalidInput("Name a dataset.")
            spec = RunSpec("folder:/data/pets", ("hog",), ("LR",), "accuracy", 2, 0)
            return RunStatus(spec, RunLog(MemoryStore(), 1).create("R1", spec.to_json())), False

    servicer = OrchestratorServicer(cast("Orchestrator", Runs()), cast("Any", None), cast("Any", None))
    store = MemoryStore()
    auditor = Auditor(AuditTrail(store))

    async def create(dataset: str) -> None:
        caller_of_call.set(Caller.user("ada", Role.RUNNER))
        request = pb.CreateRunRequest(request_id="asked", spec=pb.RunSpec(dataset=dataset))
        context = cast("Any", SimpleNamespace(code=lambda: None))
        async with auditor.around(Call("/offshelf.v1.OrchestratorService/CreateRun", True, context, request)):
            await servicer.CreateRun(request, context)

    await asyncio.create_task(create("/data/pets"))
    with pytest.raises(InvalidInput):
        await asyncio.create_task(create(""))
    await auditor.close()
    assert [(line["who"], line["what"], line["target"]) for line in lines(store)] == [
        ("ada", "CreateRun", "R1"),
        ("ada", "CreateRun", "asked"),
    ]
