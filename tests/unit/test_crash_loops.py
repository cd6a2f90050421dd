"""Work that ends its pod again and again, in a cluster that waits longer each time before it starts it anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from offshelf.errors import Unavailable
from offshelf.services.orchestrator.dispatch import trial
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.dispatcher import Dispatcher
from offshelf.services.orchestrator.dispatch.units import ExtractionOutcome, ExtractionUnit
from offshelf.services.orchestrator.fleet.replicas import Role, RoleUnavailable
from tests.unit.fake_cluster import FakeCluster, container, pod, ready, until
from tests.unit.fakes import MemoryStore
from tests.unit.test_kubernetes_fleet import HASTE, leased, running

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.services.orchestrator.fleet.replicas import Replica

HOG = Role("extractor", "hog")
KILLED = {"exitCode": 137, "reason": "OOMKilled"}


def crash(cluster: FakeCluster, replica: Replica) -> None:
    """End a replica's process; the container is started again at once the first time, and then never."""
    name, _, restarts = replica.name.rsplit("/", 2)
    if restarts == "0":
        cluster.put(ready(pod("extractor-hog", name), restarts=1))
    else:
        cluster.put(backing_off(pod("extractor-hog", name)))


def backing_off(manifest: dict[str, Any]) -> dict[str, Any]:
    """Have a pod's container wait for its next start."""
    manifest = container(ready(manifest), restarts=1, waiting={"reason": "CrashLoopBackOff"}, last=KILLED)
    manifest["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
    return manifest


class Poisoned:
    """Extractors whose process one image ends each time."""

    def __init__(self, cluster: FakeCluster, poison: str) -> None:
        self._cluster = cluster
        self._poison = poison

    async def extract(
        self, replica: Replica, unit: ExtractionUnit, on_progress: Callable[[int], None]
    ) -> ExtractionOutcome:
        """Extract, or crash."""
        del on_progress
        if self._poison in unit.images:
            crash(self._cluster, replica)
            raise Unavailable("The connection was lost.")
        return ExtractionOutcome(key="segment", extracted=len(unit.images), quarantined=0)


class Unhurried(FakeCluster):
    """A cluster whose controller looks at a Deployment a while after it was scaled."""

    async def scale(self, deployment: str, replicas: int) -> None:
        """Scale a Deployment; its pods follow later."""
        self.scaled.append((deployment, replicas))
        specification = self.deployments[deployment]["spec"]
        specification["replicas"] = replicas
        asyncio.get_running_loop().call_later(0.02, lambda: self._fill(deployment, specification["replicas"]))


@pytest.mark.parametrize("units", [1, 4], ids=["one replica", "two replicas"])
async def test_an_image_that_ends_its_pod_is_found_without_waiting_for_the_cluster(
    units: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One deadly image among a hundred costs itself, and not the extractor, though its pods crash a dozen times."""
    monkeypatch.setattr(trial, "_BACK_OFF_SECONDS", 0.001)
    monkeypatch.setattr(trial, "_LONGEST_BACK_OFF_SECONDS", 0.001)
    cluster = FakeCluster("extractor-hog")
    images = tuple(f"{number:064x}" for number in range(100))
    unit = ExtractionUnit("hog", "f" * 64, "d" * 64, "server:/photos", images)
    async with running(cluster, patience=replace(HASTE, start=5)) as fleet, fleet.hold(HOG, units=units):
        peers: Any = Poisoned(cluster, images[42])
        dispatcher = Dispatcher(fleet=fleet, peers=peers, budget=CoreBudget(None), store=MemoryStore(), cores=2)
        async with asyncio.timeout(20):
            outcomes = await dispatcher.extract(unit, lambda _: None)
    assert [outcome.deadly for outcome in outcomes if outcome.deadly] == [(images[42],)]
    assert sum(outcome.extracted for outcome in outcomes) == 99


async def test_the_other_replicas_are_left_alone() -> None:
    """A pod that is made anew costs no pod that works."""
    cluster = FakeCluster("extractor-hog")
    async with running(cluster) as fleet, fleet.hold(HOG, units=6):
        await until(lambda: len(fleet.pool.ready(HOG)) == 3)
        lost, *others = fleet.pool.ready(HOG)
        crash(cluster, replace(lost, name=lost.name[:-1] + "1"))
        assert await fleet.blames(replace(lost, name=lost.name[:-1] + "1"))
        await until(lambda: len(fleet.pool.ready(HOG)) == 3)
        assert {*others} < {*fleet.pool.ready(HOG)}
        assert cluster.scaled == [("extractor-hog", 3), ("extractor-hog", 2), ("extractor-hog", 3)]


async def test_a_pod_is_made_anew_by_a_slow_controller_too() -> None:
    """A controller that sees several changes of scale as one still makes the pod anew."""
    cluster = Unhurried("extractor-hog")
    async with running(cluster) as fleet, fleet.hold(HOG):
        first = await leased(fleet, HOG)
        cluster.put(backing_off(pod("extractor-hog", first.name.split("/")[0])))
        assert await fleet.blames(replace(first, name=first.name[:-1] + "1"))
        assert (await leased(fleet, HOG)).name != first.name


async def test_what_keeps_it_from_working_is_said_before_the_pod_is_made_anew() -> None:
    """A memory limit that is too low is named, instead of being lost in the coming and going of pods."""
    cluster = FakeCluster("extractor-hog")
    told: list[str] = []
    async with running(cluster, patience=replace(HASTE, trouble=0.1)) as fleet, fleet.hold(HOG, tell=told.append):
        first = await leased(fleet, HOG)
        cluster.put(backing_off(pod("extractor-hog", first.name.split("/")[0])))
        assert await fleet.blames(replace(first, name=first.name[:-1] + "1"))
        await leased(fleet, HOG)
    assert "ran out of memory (its limit is 1Gi)" in told[0]


async def test_a_pod_that_crashes_before_it_has_worked_is_not_made_anew() -> None:
    """An extractor that cannot start is given up, and the cluster is not flooded with new pods."""
    cluster = FakeCluster("extractor-hog")
    cluster.comes_up = backing_off
    async with running(cluster) as fleet, fleet.hold(HOG):
        with pytest.raises(RoleUnavailable):
            await leased(fleet, HOG)
        await asyncio.sleep(0.05)
    assert cluster.scaled == [("extractor-hog", 1)]
