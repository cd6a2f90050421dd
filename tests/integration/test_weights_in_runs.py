"""Runs that need weights which are not here: downloaded for who names the network, and left out for who does not."""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest

from offshelf import access
from offshelf.errors import InvalidDataset, InvalidInput, NotFound
from offshelf.extraction import registry
from offshelf.extraction.extractors import Extractors
from offshelf.extraction.weights.fetching import NEVER, FetchPolicy
from offshelf.rpc.auth import caller_of_call
from offshelf.runs import Combination, RunFetch, RunGoal
from offshelf.services.orchestrator.catalog import ExtractorCatalog
from offshelf.services.orchestrator.downloads import Downloads
from offshelf.services.orchestrator.fleet.replicas import Role
from offshelf.services.orchestrator.runs.extraction import Extraction
from offshelf.services.orchestrator.runs.intake import Intake, Request
from offshelf.services.orchestrator.runs.journal import Journal
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.runs.specification import RunSpec, make_spec
from offshelf.services.orchestrator.runs.status import RunStatus
from offshelf.services.orchestrator.servicer import OrchestratorServicer
from offshelf.settings import Settings
from offshelf.v1 import orchestrator_pb2 as pb
from tests.integration import weights_server as web
from tests.integration.weights_server import WeightsServer
from tests.unit.fakes import MemoryStore
from tests.unit.one_extractor import PETS, Fleet, Measuring, workbench
from tests.unit.small_weights import CONTENT, RESTRICTION, small_networks

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf.services.orchestrator.runs.journal import Workbench
    from offshelf.services.orchestrator.runs.orchestration import Orchestrator


@pytest.fixture
def server() -> Iterator[WeightsServer]:
    """A mirror that has the files that are published."""
    with WeightsServer({f"/w/{name}": data for name, data in CONTENT.items() if name != "theirs"}) as server:
        yield server


class Installation:
    """An orchestrator's tools, whose weights come from a mirror and go to a folder."""

    def __init__(self, folder: Path, server: WeightsServer, **settings: Any) -> None:
        self.store = MemoryStore()
        self.fetch = FetchPolicy.of(Settings(store="/s", weights=server.url("/w"), **settings))
        self.fleet = Fleet()
        catalog = ExtractorCatalog(self.store, str(folder), self.fetch, Extractors(self.store, small_networks()))
        bench = replace(
            workbench(self.store, self.fleet), catalog=catalog, downloads=Downloads(str(folder), self.fetch)
        )
        bench.dispatcher._peers = Measuring(self.store)  # type: ignore[assignment]
        self.bench: Workbench = bench

    def run(self, name: str, *, named: bool, fetch: RunFetch = RunFetch.AUTO) -> tuple[Journal, Extraction]:
        """Begin a run of one extractor."""
        log = RunLog(self.store, 1)
        spec = RunSpec("folder:/pets", (name,), ("LR",), "accuracy", 3, 0, named=named, fetch=fetch)
        journal = Journal(RunStatus(spec, log.create("R1", spec.to_json())), log)
        return journal, Extraction(name, PETS, self.bench, journal)


def heard(journal: Journal) -> list[str]:
    """Collect what is told to who watches the run."""
    told: list[str] = []
    touch = journal.status.touch

    def listen() -> None:
        told.extend(line for line in journal.status.notices.lines if line not in told)
        touch()

    journal.status.notices._on_change = listen
    return told


async def test_a_network_that_is_named_is_downloaded_before_it_starts(server: WeightsServer, tmp_path: Path) -> None:
    """Who names a network gets its weights, sees how they come, and its extractor starts when they are there."""
    here = Installation(tmp_path, server)
    journal, extraction = here.run("one", named=True)
    told = heard(journal)
    table = await extraction.run()
    assert table is not None
    assert len(table.segments) == 1
    assert (tmp_path / "one.h5").read_bytes() == CONTENT["one.h5"]
    assert told[0] == "the weights of one are being downloaded: 0.1 MB from 127.0.0.1"
    downloaded = next(at for at, line in enumerate(told) if "100 % of 0.1 MB" in line)
    assert downloaded < told.index("no room for extractor-one")
    assert journal.status.notices.lines == ()
    assert journal.status.left_out == []


async def test_who_asks_for_all_waits_for_no_download(server: WeightsServer, tmp_path: Path) -> None:
    """A run of everything that there is does with what is here: what is missing is left out, with how to have it."""
    here = Installation(tmp_path, server)
    journal, extraction = here.run("one", named=False)
    await extraction.run()
    (reason,) = journal.status.left_out
    assert "one needs its weights, one.h5" in reason
    assert "`offshelf weights pull one`, or a run that names it (-e one), downloads it" in reason
    assert server.requests == []
    assert Role("extractor", "one") not in {role for role, _ in here.fleet.held}


async def test_a_run_that_is_to_download_nothing_leaves_out_what_is_missing(
    server: WeightsServer, tmp_path: Path
) -> None:
    """With fetch=never a network that is named is left out with the reason, used if it is here, and nobody is asked."""
    here = Installation(tmp_path, server)
    journal, extraction = here.run("one", named=True, fetch=RunFetch.NEVER)
    assert await extraction.run() is None
    (reason,) = journal.status.left_out
    assert "one needs its weights, one.h5" in reason
    assert reason.endswith("This run was to download nothing (fetch=never).")
    assert server.requests == []
    (tmp_path / "two.h5").write_bytes(CONTENT["two.h5"])
    _, other = here.run("two", named=True, fetch=RunFetch.NEVER)
    assert await other.run() is not None
    assert server.requests == []


@pytest.mark.parametrize("goal", RunGoal)
async def test_a_run_that_can_only_download_is_refused_at_once_if_it_is_not_to(
    server: WeightsServer, tmp_path: Path, goal: RunGoal
) -> None:
    """Who names only networks whose weights are missing, and forbids downloads, is told so instead of waiting."""
    here = Installation(tmp_path, server)
    desk = Intake(here.store, here.bench.catalog, roots=None)
    (tmp_path / "pets").mkdir()
    wanted = Request(str(tmp_path / "pets"), ["one"], goal=goal)
    with pytest.raises(InvalidInput, match=r"one needs its weights.*to download nothing \(fetch=never\)"):
        await desk.check(await desk.specify(replace(wanted, fetch=RunFetch.NEVER)))
    with pytest.raises(InvalidDataset):  # the weights of this one would come
        await desk.check(await desk.specify(wanted))
    assert server.requests == []


@pytest.mark.parametrize(
    ("behaviour", "reason"),
    [
        (web.status(404), "127.0.0.1 has no such file (status 404)."),
        (web.corrupt, "one.h5 is not the file it should be (SHA-256"),
        (web.redirect("https://elsewhere.example.org/one.h5"), "Nothing is fetched from elsewhere.example.org"),
    ],
)
async def test_weights_that_cannot_be_had_leave_their_network_out(
    server: WeightsServer, tmp_path: Path, behaviour: web.Behaviour, reason: str
) -> None:
    """A download that fails leaves one network out, with the reason; nothing of it is kept, and others go on."""
    server.otherwise = behaviour
    here = Installation(tmp_path, server)
    journal, extraction = here.run("one", named=True)
    await extraction.run()
    (told,) = journal.status.left_out
    assert told.startswith(f"one needs its weights. {reason}")
    assert os.listdir(tmp_path) == []  # noqa: PTH208  in an async function
    (tmp_path / "two.h5").write_bytes(CONTENT["two.h5"])
    _, other = here.run("two", named=True)
    assert await other.run() is not None


async def test_a_run_that_is_cancelled_ends_its_download(server: WeightsServer, tmp_path: Path) -> None:
    """Nobody's line is used for a run that is not wanted any more; what has come is kept for the next one."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin_and_stall(exchange: web.Exchange) -> None:
        loop.call_soon_threadsafe(asked.set)
        web.stall(70_000)(exchange)

    server.script.append(begin_and_stall)
    here = Installation(tmp_path, server)
    _, extraction = here.run("one", named=True)
    work = asyncio.create_task(extraction.run())
    await asked.wait()
    work.cancel()
    with pytest.raises(asyncio.CancelledError):
        await work
    server.released.set()
    await Downloads(str(tmp_path), here.fetch).fetch(small_networks()["one"], lambda _line: None)
    assert (tmp_path / "one.h5").read_bytes() == CONTENT["one.h5"]


async def test_a_mirror_that_has_none_is_followed_by_the_authors(server: WeightsServer, tmp_path: Path) -> None:
    """What a mirror lacks comes from where it is published, if authors may be asked."""
    server.files["/authors/one.h5"] = server.files.pop("/w/one.h5")
    here = FetchPolicy.of(Settings(store="/s", weights=server.url("/w"), fetch_hosts=("127.0.0.1",)))
    spec = small_networks(server.url("/authors"))["one"]
    await Downloads(str(tmp_path), here).fetch(spec, lambda _line: None)
    assert (tmp_path / "one.h5").read_bytes() == CONTENT["one.h5"]
    (tmp_path / "one.h5").unlink()
    with pytest.raises(NotFound):
        await Downloads(str(tmp_path), replace(here, allowed=False)).fetch(spec, lambda _line: None)


def test_only_what_was_named_is_downloaded(tmp_path: Path) -> None:
    """Extractors that were named are downloaded, and the one that a fit is asked for; a run of everything has none."""
    catalog = ExtractorCatalog(MemoryStore(), str(tmp_path), NEVER, Extractors(MemoryStore()))

    def spec(*names: str, choice: Combination | None = None, fetch: RunFetch = RunFetch.AUTO) -> RunSpec:
        return make_spec(
            source="folder:/pets",
            extractors=names,
            classifier_names=(),
            measure="",
            folds=0,
            seed=0,
            choice=choice,
            fetch=fetch,
            catalog=catalog,
        )

    assert spec("vgg16").fetches("vgg16")
    assert not spec().fetches("vgg16")
    chosen = spec(choice=Combination("vgg16", "LR"))
    assert chosen.fetches("vgg16")
    assert not chosen.fetches("vgg19")
    never = spec("vgg16", choice=Combination("vgg16", "LR"), fetch=RunFetch.NEVER)
    assert not never.fetches("vgg16")
    for each in (spec("vgg16"), never):
        assert RunSpec.from_json(json.loads(json.dumps(each.to_json()))) == each
    old = {name: value for name, value in spec().to_json().items() if name not in {"named", "fetch"}}
    assert RunSpec.from_json(old) == spec()


async def test_what_may_be_downloaded_is_said_in_the_contract() -> None:
    """A client's fetch reaches the run and comes back with it; a newer client's wish is refused, and not ignored."""
    asked: list[RunFetch] = []

    class Runs:
        async def create(self, request: Request, **_: str) -> tuple[RunStatus, bool]:
            asked.append(request.fetch)
            spec = RunSpec(request.dataset, ("hog",), ("LR",), "accuracy", 2, 0, fetch=request.fetch)
            return RunStatus(spec, RunLog(MemoryStore(), 1).create("R1", spec.to_json())), False

    servicer = OrchestratorServicer(cast("Orchestrator", Runs()), cast("Any", None), cast("Any", None))
    caller_of_call.set(access.Caller.user("ada", access.Role.RUNNER))

    async def create(fetch: int) -> pb.RunFetch.ValueType:
        spec = pb.RunSpec(dataset="folder:/pets", fetch=cast("pb.RunFetch.ValueType", fetch))
        answer = await servicer.CreateRun(pb.CreateRunRequest(request_id="asked", spec=spec), cast("Any", None))
        return answer.run.spec.fetch

    assert await create(pb.RUN_FETCH_UNSPECIFIED) == await create(pb.RUN_FETCH_AUTO) == pb.RUN_FETCH_AUTO
    assert await create(pb.RUN_FETCH_NEVER) == pb.RUN_FETCH_NEVER
    assert asked == [RunFetch.AUTO, RunFetch.AUTO, RunFetch.NEVER]
    with pytest.raises(InvalidInput, match="older than its client"):
        await create(7)


def test_a_licence_that_forbids_something_is_told_with_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who starts a run with a network for research alone reads so in its status, from its first moment."""
    monkeypatch.setattr(registry, "EXTRACTORS", small_networks())
    log = RunLog(MemoryStore(), 1)
    spec = RunSpec("folder:/pets", ("one", "restricted", "restricted:max", "unheard-of"), ("LR",), "accuracy", 3, 0)
    status = RunStatus(spec, log.create("R1", spec.to_json()))
    assert status.conditions == (RESTRICTION,)
