"""Units are sent again when a replica is lost, and cut in two when they are what kills it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import DataLoss, EngineMismatch, EngineUnavailable, StoreUnavailable, Unavailable
from offshelf.services.orchestrator.dispatch import patience, trial
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.dispatcher import Dispatcher
from offshelf.services.orchestrator.dispatch.failures import Unreached
from offshelf.services.orchestrator.dispatch.units import ExtractionOutcome, ExtractionUnit, FoldResult, ScoringUnit
from offshelf.services.orchestrator.fleet.replicas import Replica, ReplicaPool, Role, RoleUnavailable, keep_quiet
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from offshelf.services.orchestrator.figures import Figures
    from offshelf.store import ObjectInfo


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "_BACK_OFF_SECONDS", 0.0)
    monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.0)


class SteadyFleet:
    """A fleet whose one replica of each role always comes back.

    Parameters
    ----------
    blames
        Whether a lost replica may have been its work's fault.
    """

    def __init__(self, *, blames: bool = True) -> None:
        self.pool = ReplicaPool(lambda _: 4)
        self.holds = 0
        self._blames = blames

    def role_of(self, extractor: str) -> Role:
        """Have replicas for each."""
        return Role("extractor", extractor)

    @asynccontextmanager
    async def hold(
        self, role: Role, *, units: int = 1, tell: Callable[[str], None] = keep_quiet
    ) -> AsyncIterator[None]:
        """Have one replica ready."""
        del units, tell
        self.holds += 1
        self.pool.add(Replica(role, "only", "127.0.0.1:1"))
        yield

    async def blames(self, replica: Replica) -> bool:
        """Say what the test wants."""
        del replica
        return self._blames

    async def close(self) -> None:
        """Stop nothing."""
        return


class FrailPeers:
    """Services that lose their process over certain images or classifiers, or by chance."""

    def __init__(self, *, deadly: set[str], accidents: int = 0, accident: Exception | None = None) -> None:
        self.deadly = deadly
        self.accidents = accidents
        self.accident = accident or Unavailable("gone")
        self.sent: list[tuple[str, ...]] = []

    async def extract(
        self, replica: Replica, unit: ExtractionUnit, on_progress: Callable[[int], None]
    ) -> ExtractionOutcome:
        """Die over deadly images."""
        del replica
        self.sent.append(unit.images)
        on_progress(1)
        if self.accidents:
            self.accidents -= 1
            raise self.accident
        if self.deadly & set(unit.images):
            raise Unavailable("gone")
        return ExtractionOutcome(key="-".join(unit.images), extracted=len(unit.images), quarantined=0)

    async def cross_validate(self, replica: Replica, unit: ScoringUnit) -> AsyncIterator[FoldResult]:
        """Die over deadly classifiers, after the results before them."""
        del replica
        self.sent.append(unit.classifiers)
        for classifier in unit.classifiers:
            if classifier in self.deadly:
                raise Unavailable("gone")
            yield FoldResult(classifier, "digest", unit.fold, {"accuracy": 1.0})


def dispatcher(
    peers: FrailPeers, fleet: SteadyFleet, store: MemoryStore | None = None, figures: Figures | None = None
) -> Dispatcher:
    """Make a dispatcher over these fakes."""
    return Dispatcher(
        fleet=fleet,
        peers=peers,  # type: ignore[arg-type]
        budget=CoreBudget(2),
        store=store or MemoryStore(),
        cores=2,
        figures=figures,
    )


def extraction(*images: str) -> ExtractionUnit:
    """Make a unit of these images."""
    return ExtractionUnit("hog", "fp", "dataset", "folder:/data", images)


async def test_a_unit_survives_a_lost_replica() -> None:
    """A crashed extractor costs the units it was working on, once."""
    peers, fleet = FrailPeers(deadly=set(), accidents=1), SteadyFleet()
    counted: list[int] = []
    async with fleet.hold(Role("extractor", "hog")):
        outcomes = await dispatcher(peers, fleet).extract(extraction("a", "b", "c"), counted.append)
    assert [outcome.key for outcome in outcomes] == ["a-b-c"]
    assert sum(counted) == 3


async def test_one_deadly_image_is_found_and_the_rest_is_extracted() -> None:
    """A single image that crashes the extractor is named; all others get their features."""
    peers, fleet = FrailPeers(deadly={"c"}), SteadyFleet()
    counted: list[int] = []
    async with fleet.hold(Role("extractor", "hog")):
        outcomes = await dispatcher(peers, fleet).extract(extraction("a", "b", "c", "d"), counted.append)
    assert [outcome.key for outcome in outcomes if outcome.key] == ["a-b", "d"]
    assert [outcome.deadly for outcome in outcomes if outcome.deadly] == [("c",)]
    assert sum(counted) == 4


async def test_a_deadly_classifier_is_reported_and_the_others_are_scored_once() -> None:
    """A classifier that needs too much memory does not take the others with it."""
    peers, fleet = FrailPeers(deadly={"MLP"}), SteadyFleet()
    results: list[str] = []
    lost: list[str] = []

    async def on_result(result: FoldResult) -> None:
        results.append(result.classifier)

    async def on_lost(classifier: str, reason: str) -> None:
        assert "ended without an answer 2 times. The last time: " in reason
        lost.append(classifier)

    unit = ScoringUnit("d", "t", "fp", 5, 0, 0, ("RF", "SVM", "MLP", "LR"), "accuracy")
    async with fleet.hold(Role("trainer")):
        await dispatcher(peers, fleet).score(unit, on_result, on_lost)
    assert sorted(results) == ["LR", "RF", "SVM"]
    assert lost == ["MLP"]


async def test_a_store_that_is_away_is_not_blamed_on_the_unit() -> None:
    """While the store is down no good image is put on record as one that crashes the extractor."""

    class AwayStore(MemoryStore):
        def __init__(self) -> None:
            super().__init__()
            self.asked = 0

        def stat(self, key: str) -> ObjectInfo | None:
            self.asked += 1
            if self.asked <= 5:
                raise StoreUnavailable(f"no answer for {key}")
            return super().stat(key)

    peers, fleet = FrailPeers(deadly=set(), accidents=5), SteadyFleet()
    async with fleet.hold(Role("extractor", "hog")):
        (outcome,) = await dispatcher(peers, fleet, AwayStore()).extract(extraction("a", "b"), lambda _: None)
    assert outcome.key == "a-b"
    assert peers.sent == [("a", "b")] * 6


async def test_a_run_goes_on_when_the_store_is_back_and_says_what_it_waits_for() -> None:
    """A store that restarts costs no run; its users see meanwhile why nothing happens."""
    away = StoreUnavailable("no answer from 127.0.0.1")
    peers, fleet = FrailPeers(deadly=set(), accidents=3, accident=away), SteadyFleet()
    told: list[str] = []
    async with fleet.hold(Role("extractor", "hog")):
        (outcome,) = await dispatcher(peers, fleet).extract(extraction("a", "b"), lambda _: None, told.append)
    assert outcome.key == "a-b"
    assert told == ["The store does not answer: no answer from 127.0.0.1"] * 3 + [""]


async def test_a_store_that_stays_away_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for ever: after some minutes the run ends with the store's reason."""
    monkeypatch.setattr(patience, "AWAY_SECONDS", 0.0)
    peers = FrailPeers(deadly=set(), accidents=9, accident=StoreUnavailable("no answer"))
    fleet = SteadyFleet()
    told: list[str] = []
    async with fleet.hold(Role("extractor", "hog")):
        with pytest.raises(StoreUnavailable, match="no answer"):
            await dispatcher(peers, fleet).extract(extraction("a"), lambda _: None, told.append)
    assert len(peers.sent) == 1


async def test_a_remote_engine_that_is_away_is_waited_for_and_blamed_on_nobody() -> None:
    """While an engine is away no good image is put on record as a crash, and users see why they wait."""
    away = EngineUnavailable("The remote engine at gpu:8500 (model hog) does not answer.")
    peers, told = FrailPeers(deadly=set(), accidents=5, accident=away), list[str]()
    fleet = SteadyFleet()
    async with fleet.hold(Role("extractor", "hog")):
        outcomes = await dispatcher(peers, fleet).extract(extraction("a", "b"), lambda _: None, told.append)
    assert [outcome.key for outcome in outcomes] == ["a-b"]
    assert peers.sent == [("a", "b")] * 6
    assert told == [away.message] * 5 + [""]


async def test_a_remote_engine_that_stays_away_costs_its_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for ever: after some minutes the extractor is left out with the reason, and the run goes on."""
    monkeypatch.setattr(patience, "AWAY_SECONDS", 0.0)
    peers = FrailPeers(deadly=set(), accidents=9, accident=EngineUnavailable("gpu:8500 does not answer"))
    fleet = SteadyFleet()
    async with fleet.hold(Role("extractor", "hog")):
        with pytest.raises(RoleUnavailable, match="gpu:8500 does not answer"):
            await dispatcher(peers, fleet).extract(extraction("a", "b"), lambda _: None)


async def test_a_remote_engine_with_another_network_is_not_tried_again() -> None:
    """What an engine serves wrongly is said at once, and costs neither images nor replicas."""
    peers = FrailPeers(deadly=set(), accidents=9, accident=EngineMismatch("another network"))
    fleet = SteadyFleet()
    async with fleet.hold(Role("extractor", "hog")):
        with pytest.raises(EngineMismatch):
            await dispatcher(peers, fleet).extract(extraction("a", "b"), lambda _: None)
    assert len(peers.sent) == 1


async def test_a_replica_that_could_not_start_without_its_engine_is_started_again() -> None:
    """An extractor that ended because its engine was away comes back with it."""
    fleet, role = SteadyFleet(), Role("extractor", "hog")
    fleet.pool.refuse(role, EngineUnavailable("no answer"))
    work = dispatcher(FrailPeers(deadly=set()), fleet)
    outcomes = await work.extract(extraction("a"), lambda _: None)
    assert [outcome.key for outcome in outcomes] == ["a"]
    assert fleet.holds == 1


async def test_a_replica_that_could_not_start_without_the_store_is_started_again() -> None:
    """A service that ended because the store was away comes back with it."""
    role, peers, fleet = Role("extractor", "hog"), FrailPeers(deadly=set()), SteadyFleet()
    fleet.pool.refuse(role, StoreUnavailable("no answer"))
    (outcome,) = await dispatcher(peers, fleet).extract(extraction("a"), lambda _: None)
    assert outcome.key == "a"
    assert fleet.holds == 1


async def test_a_replica_that_was_taken_away_is_no_failed_attempt() -> None:
    """However many pods are evicted or deleted under a unit, no image is blamed for it."""
    peers, fleet = FrailPeers(deadly=set(), accidents=20), SteadyFleet(blames=False)
    async with fleet.hold(Role("extractor", "hog")):
        (outcome,) = await dispatcher(peers, fleet).extract(extraction("a"), lambda _: None)
    assert outcome.key == "a"
    assert peers.sent == [("a",)] * 21


async def test_an_extractor_that_kills_shared_replicas_is_the_only_one_that_is_left_out() -> None:
    """A network of a user's own that ends every process is given up by its name; those beside it lose no image."""

    class Shared(SteadyFleet):
        def role_of(self, extractor: str) -> Role:
            del extractor
            return Role("extractor", "custom")

    class Picky(FrailPeers):
        async def extract(
            self, replica: Replica, unit: ExtractionUnit, on_progress: Callable[[int], None]
        ) -> ExtractionOutcome:
            await asyncio.sleep(0)  # both units are there when it ends
            if unit.extractor == "onnx:bad@0123456789ab":
                fleet.pool.remove(replica)
                fleet.pool.add(replica)
                self.ended.set()
                raise Unavailable("gone")
            if not self.ended.is_set():
                await self.ended.wait()
                raise Unavailable("gone with the other")
            return await super().extract(replica, unit, on_progress)

        ended = asyncio.Event()

    fleet = Shared()
    async with fleet.hold(Role("extractor", "custom")):
        work = dispatcher(Picky(deadly=set()), fleet)
        bad, good = await asyncio.gather(
            work.extract(replace(extraction(*"abcd"), extractor="onnx:bad@0123456789ab"), lambda _: None),
            work.extract(replace(extraction(*"abcd"), extractor="lab:8,4,4"), lambda _: None),
            return_exceptions=True,
        )
    assert isinstance(bad, RoleUnavailable)
    assert bad.message == "onnx:bad@0123456789ab: its process ends over every image."
    assert isinstance(good, list)
    assert [(outcome.key, outcome.deadly) for outcome in good] == [("a-b-c-d", ())]


async def test_replicas_that_are_taken_away_for_ever_are_said() -> None:
    """A cluster that evicts every pod ends the extractor's part with that reason, not in a loop."""
    peers, fleet = FrailPeers(deadly={"a"}), SteadyFleet(blames=False)
    async with fleet.hold(Role("extractor", "hog")):
        with pytest.raises(RoleUnavailable, match="100 replicas went away while they worked on 1 images for hog"):
            await dispatcher(peers, fleet).extract(extraction("a"), lambda _: None)


async def test_a_replica_that_cannot_be_reached_is_said_and_waited_for() -> None:
    """An expired certificate, or a network that is cut, is shown, and costs no image its good name."""
    expired = Unreached("The certificate of the server at 10.0.0.1:7000 is not trusted.")
    peers, fleet = FrailPeers(deadly=set(), accidents=9, accident=expired), SteadyFleet()
    told: list[str] = []
    async with fleet.hold(Role("extractor", "hog")):
        (outcome,) = await dispatcher(peers, fleet).extract(extraction("a"), lambda _: None, told.append)
    assert outcome.key == "a"
    assert told[0] == f"extractor-hog cannot be reached: {expired.message}"
    assert told[-1] == ""


async def test_a_replica_that_cannot_be_reached_does_not_draw_all_work_to_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A pod with a broken network is idle, but units go to those that answer."""
    monkeypatch.setattr(patience, "full_jitter", lambda *_, **__: 3600.0)
    role, fleet = Role("extractor", "hog"), SteadyFleet()
    fleet.pool.add(Replica(role, "broken", "127.0.0.1:1"))
    fleet.pool.add(Replica(role, "sound", "127.0.0.1:2"))
    tried: list[str] = []

    class Partly(FrailPeers):
        async def extract(
            self, replica: Replica, unit: ExtractionUnit, on_progress: Callable[[int], None]
        ) -> ExtractionOutcome:
            tried.append(replica.name)
            if replica.name == "broken":
                raise Unreached("no route")
            return await super().extract(replica, unit, on_progress)

    work = dispatcher(Partly(deadly=set()), fleet)
    for image in "abc":
        (outcome,) = await work.extract(extraction(image), lambda _: None)
        assert outcome.key == image
    assert tried == ["broken", "sound", "sound", "sound"]
    fleet.pool.remove(Replica(role, "broken", "127.0.0.1:1"))


async def test_two_units_on_one_replica_are_never_blamed_for_each_other() -> None:
    """Of many units that share a pod, only the image that kills it is named, however often it is killed."""
    role = Role("extractor", "hog")
    fleet = SteadyFleet()
    deaths = 0

    class Shared(FrailPeers):
        """One process for all units on it: when it dies, all of them are lost."""

        def __init__(self) -> None:
            super().__init__(deadly={"c"})
            self.dying = asyncio.Event()

        async def extract(
            self, replica: Replica, unit: ExtractionUnit, on_progress: Callable[[int], None]
        ) -> ExtractionOutcome:
            nonlocal deaths
            process = self.dying
            await asyncio.sleep(0)  # all that share the process are on it now
            if self.deadly & set(unit.images):
                deaths += 1
                fleet.pool.remove(replica)
                self.dying = asyncio.Event()
                process.set()
                fleet.pool.add(Replica(role, str(deaths), f"127.0.0.1:{deaths + 1}"))
            else:
                await asyncio.sleep(0)
            if process.is_set():
                raise Unavailable("gone")
            return await super().extract(replica, unit, on_progress)

    async with fleet.hold(role):
        work = dispatcher(Shared(), fleet)
        work._budget = CoreBudget(None)
        units = [extraction(*pair) for pair in ("ab", "cd", "ef", "gh")]
        outcomes = await asyncio.gather(*(work.extract(unit, lambda _: None) for unit in units))
    assert [outcome.deadly for outcome in outcomes[1] if outcome.deadly] == [("c",)]
    assert [outcome.key for found in outcomes for outcome in found] == ["a-b", "", "d", "e-f", "g-h"]


async def test_an_extractor_that_dies_over_every_image_is_blamed_itself() -> None:
    """A broken extractor is left out; it does not put all images on record as ones that crash it."""
    images = [f"{n:02}" for n in range(64)]
    peers, fleet = FrailPeers(deadly=set(images)), SteadyFleet()
    async with fleet.hold(Role("extractor", "hog")):
        with pytest.raises(RoleUnavailable, match="hog: its process ends over every image"):
            await dispatcher(peers, fleet).extract(extraction(*images), lambda _: None)
    assert len(peers.sent) < len(images)


async def test_a_unit_that_waited_is_not_blamed_for_a_replica_that_another_had_killed() -> None:
    """Only the image that kills the extractor is named, also while innocent units wait for their turn."""
    role = Role("extractor", "hog")
    fleet = SteadyFleet()
    starts = 0

    class Mortal(FrailPeers):
        async def extract(
            self, replica: Replica, unit: ExtractionUnit, on_progress: Callable[[int], None]
        ) -> ExtractionOutcome:
            nonlocal starts
            await asyncio.sleep(0)
            if replica not in fleet.pool.ready(role):
                raise Unavailable("nobody there")
            try:
                return await super().extract(replica, unit, on_progress)
            except Unavailable:
                starts += 1
                fleet.pool.remove(replica)
                fleet.pool.add(Replica(role, str(starts), f"127.0.0.1:{starts + 1}"))
                raise

    peers = Mortal(deadly={"a"})
    async with fleet.hold(role):
        work = dispatcher(peers, fleet)
        units = (extraction("a"), extraction("b"), extraction("c"))
        outcomes = await asyncio.gather(*(work.extract(unit, lambda _: None) for unit in units))
    assert [outcome.deadly for (outcome,) in outcomes] == [("a",), (), ()]
    assert [unit for unit in peers.sent if unit != ("a",)] == [("b",), ("c",)]


async def test_a_store_that_fails_over_a_result_is_not_taken_for_a_lost_trainer() -> None:
    """A score that could not be kept ends the run with the store's reason; no classifier vanishes from the table."""
    peers, fleet = FrailPeers(deadly=set()), SteadyFleet()

    async def on_result(_: FoldResult) -> None:
        raise StoreUnavailable("no answer")

    async def on_lost(_classifier: str, _reason: str) -> None:
        raise AssertionError

    unit = ScoringUnit("d", "t", "fp", 5, 0, 0, ("RF", "SVM"), "accuracy")
    async with fleet.hold(Role("trainer")):
        with pytest.raises(StoreUnavailable):
            await dispatcher(peers, fleet).score(unit, on_result, on_lost)
    assert len(peers.sent) == 1


async def test_a_trainer_that_ends_early_is_noticed() -> None:
    """A classifier that gets no score is an error, never an empty place in the table."""

    class Forgetful(FrailPeers):
        async def cross_validate(self, replica: Replica, unit: ScoringUnit) -> AsyncIterator[FoldResult]:
            async for result in super().cross_validate(replica, unit):
                yield result
                return

    async def on_result(_: FoldResult) -> None:
        return

    async def on_lost(_classifier: str, _reason: str) -> None:
        raise AssertionError

    fleet = SteadyFleet()
    unit = ScoringUnit("d", "t", "fp", 5, 0, 0, ("RF", "SVM"), "accuracy")
    async with fleet.hold(Role("trainer")):
        with pytest.raises(DataLoss, match="ended its answer early"):
            await dispatcher(Forgetful(deadly=set()), fleet).score(unit, on_result, on_lost)


async def test_a_unit_that_was_unlucky_twice_is_not_taken_for_an_outage() -> None:
    """Pods may die all day long: what could not be reached an hour ago, and once more now, ends no run."""
    now = [0.0]
    outage = patience.Outage(quiet_seconds=120.0, clock=lambda: now[0])
    told: list[str] = []
    unlucky = patience.Patience(told.append)
    unlucky.next_pause(Unreached("gone"), "gone", outage)
    now[0] = 3600.0  # in line behind others
    unlucky.next_pause(Unreached("gone"), "gone", outage)
    for now[0] in range(3610, 3900, 10):
        unlucky.next_pause(Unreached("gone"), "gone", outage)
    now[0] = 3900.0
    with pytest.raises(Unreached):
        unlucky.next_pause(Unreached("gone"), "gone", outage)
    unlucky.over()
    patience.Patience().next_pause(Unreached("gone"), "gone", outage)  # the next one begins anew


async def test_an_outage_is_over_for_all_when_one_unit_gets_on() -> None:
    """What a run waits for is not shown any more once it is there, though a unit that met it still waits its turn."""
    role, fleet = Role("extractor", "hog"), SteadyFleet()
    fleet.pool = ReplicaPool(lambda _: 1)
    notices = {"a": "", "b": ""}
    failed: list[str] = []

    class Flaky(FrailPeers):
        """The first unit finds the store away; the second one, which then goes first, does not."""

        async def extract(
            self, replica: Replica, unit: ExtractionUnit, on_progress: Callable[[int], None]
        ) -> ExtractionOutcome:
            if not failed:
                failed.extend(unit.images)
                raise StoreUnavailable("no answer")
            if unit.images == ("b",):
                assert "no answer" in notices["a"]
                on_progress(1)
                assert notices["a"] == ""
            return await super().extract(replica, unit, on_progress)

    async with fleet.hold(role):
        work = dispatcher(Flaky(deadly=set()), fleet)
        outcomes = await asyncio.gather(
            *(work.extract(extraction(name), lambda _: None, partial(notices.__setitem__, name)) for name in notices)
        )
    assert failed == ["a"]
    assert [outcome.key for (outcome,) in outcomes] == ["a", "b"]


async def test_a_store_that_is_there_for_all_others_is_given_up_at_last(monkeypatch: pytest.MonkeyPatch) -> None:
    """A unit whose images lie where only they cannot be read ends, also while everything else goes on."""
    monkeypatch.setattr(patience, "MOST_ABSENCES", 3)
    alone = patience.Patience()
    for _ in range(3):
        await alone.wait_for_store(StoreUnavailable("no answer"))
        alone.over()
    with pytest.raises(StoreUnavailable):
        await alone.wait_for_store(StoreUnavailable("no answer"))
