"""Units are sent again when a replica is lost, and cut in two when they are what kills it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import DataLoss, StoreUnavailable, Unavailable
from offshelf.services.orchestrator.dispatch import dispatcher as dispatch
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.dispatcher import Dispatcher
from offshelf.services.orchestrator.dispatch.units import ExtractionOutcome, ExtractionUnit, FoldResult, ScoringUnit
from offshelf.services.orchestrator.fleet.replicas import Replica, ReplicaPool, Role, RoleUnavailable
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from offshelf.store import ObjectInfo


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "_BACK_OFF_SECONDS", 0.0)


class SteadyFleet:
    """A fleet whose one replica of each role always comes back."""

    def __init__(self) -> None:
        self.pool = ReplicaPool(lambda _: 4)

    @asynccontextmanager
    async def hold(self, role: Role) -> AsyncIterator[None]:
        """Have one replica ready."""
        self.pool.add(Replica(role, "only", "127.0.0.1:1"))
        yield

    async def close(self) -> None:
        """Stop nothing."""
        return


class FrailPeers:
    """Services that lose their process over certain images or classifiers, or by chance."""

    def __init__(self, *, deadly: set[str], accidents: int = 0) -> None:
        self.deadly = deadly
        self.accidents = accidents
        self.sent: list[tuple[str, ...]] = []

    async def extract(
        self, address: str, unit: ExtractionUnit, on_progress: Callable[[int], None]
    ) -> ExtractionOutcome:
        """Die over deadly images."""
        del address
        self.sent.append(unit.images)
        on_progress(1)
        if self.accidents:
            self.accidents -= 1
            raise Unavailable("gone")
        if self.deadly & set(unit.images):
            raise Unavailable("gone")
        return ExtractionOutcome(key="-".join(unit.images), extracted=len(unit.images), quarantined=0)

    async def cross_validate(self, address: str, unit: ScoringUnit) -> AsyncIterator[FoldResult]:
        """Die over deadly classifiers, after the results before them."""
        del address
        self.sent.append(unit.classifiers)
        for classifier in unit.classifiers:
            if classifier in self.deadly:
                raise Unavailable("gone")
            yield FoldResult(classifier, "digest", unit.fold, {"accuracy": 1.0})


def dispatcher(peers: FrailPeers, fleet: SteadyFleet, store: MemoryStore | None = None) -> Dispatcher:
    """Make a dispatcher over these fakes."""
    return Dispatcher(fleet=fleet, peers=peers, budget=CoreBudget(2), store=store or MemoryStore(), cores=2)  # type: ignore[arg-type]


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
        assert "ended without an answer" in reason
        lost.append(classifier)

    unit = ScoringUnit("d", "t", "fp", 5, 0, 0, ("RF", "SVM", "MLP", "LR"), "accuracy")
    async with fleet.hold(Role("trainer")):
        await dispatcher(peers, fleet).score(unit, on_result, on_lost)
    assert sorted(results) == ["LR", "RF", "SVM"]
    assert lost == ["MLP"]


async def test_a_store_that_is_away_is_not_blamed_on_the_unit() -> None:
    """When the store is down the run says so, instead of quarantining good images one by one."""

    class AwayStore(MemoryStore):
        def stat(self, key: str) -> ObjectInfo | None:
            raise StoreUnavailable(f"no answer for {key}")

    peers, fleet = FrailPeers(deadly={"a"}), SteadyFleet()
    async with fleet.hold(Role("extractor", "hog")):
        with pytest.raises(StoreUnavailable):
            await dispatcher(peers, fleet, AwayStore()).extract(extraction("a", "b"), lambda _: None)
    assert len(peers.sent) == 1


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
            self, address: str, unit: ExtractionUnit, on_progress: Callable[[int], None]
        ) -> ExtractionOutcome:
            nonlocal starts
            await asyncio.sleep(0)
            if address not in {replica.address for replica in fleet.pool.ready(role)}:
                raise Unavailable("nobody there")
            try:
                return await super().extract(address, unit, on_progress)
            except Unavailable:
                starts += 1
                for replica in fleet.pool.ready(role):
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
        async def cross_validate(self, address: str, unit: ScoringUnit) -> AsyncIterator[FoldResult]:
            async for result in super().cross_validate(address, unit):
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
