"""Work that ends its pod again and again, in a cluster that waits longer each time before it starts it anew."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from offshelf.errors import Conflict, NotFound, OffshelfError, PermissionDenied, Unavailable
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

    from offshelf.services.orchestrator.fleet.kubernetes import KubernetesFleet
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


def backing_off(manifest: dict[str, Any], restarts: int = 1) -> dict[str, Any]:
    """Have a pod's container wait for its next start."""
    manifest = container(ready(manifest), restarts=restarts, waiting={"reason": "CrashLoopBackOff"}, last=KILLED)
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


class Successor(FakeCluster):
    """A cluster in which another pod takes the name just before a pod is to be deleted."""

    async def delete_pod(self, name: str, uid: str) -> None:
        """Delete a pod, too late."""
        successor = ready(pod("extractor-hog", name))
        successor["metadata"]["uid"] = "another"
        self._remove(name)
        self.put(successor)
        await super().delete_pod(name, uid)


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


async def lose_twice(fleet: KubernetesFleet, cluster: FakeCluster, replica: Replica) -> str:
    """Have work end the process of a new replica's pod twice; returns the name of the pod."""
    for lost in (replica, replace(replica, name=replica.name[:-1] + "1")):
        crash(cluster, lost)
        assert await fleet.blames(lost)
    return replica.name.partition("/")[0]


async def test_the_other_pods_are_left_alone() -> None:
    """One that starts and one that is not ready but at work stay when a third is made anew, and so do their units."""
    cluster = FakeCluster("extractor-hog")
    async with running(cluster) as fleet, fleet.hold(HOG, units=6):
        await until(lambda: len(fleet.pool.ready(HOG)) == 3)
        async with fleet.pool.lease(HOG) as busy:
            lost, other = (replica for replica in fleet.pool.ready(HOG) if replica != busy)
            names = [replica.name.partition("/")[0] for replica in (busy, other)]
            at_work, starting = ready(pod("extractor-hog", names[0])), pod("extractor-hog", names[1])
            at_work["status"]["conditions"] = [{"type": "Ready", "status": "False"}]
            cluster.put(at_work)
            cluster.put(container(starting, waiting={"reason": "ContainerCreating"}))
            gone = await lose_twice(fleet, cluster, lost)
            await until(lambda: len(fleet.pool.ready(HOG)) == 1)
            await asyncio.sleep(0.05)
            assert {*names} < {*cluster.pods}
    assert cluster.deleted == [gone]
    assert cluster.scaled == [("extractor-hog", 3)]


@pytest.mark.parametrize("error", [PermissionDenied, NotFound, Conflict, Unavailable])
async def test_a_pod_that_cannot_be_made_anew_waits(
    error: type[OffshelfError], caplog: pytest.LogCaptureFixture
) -> None:
    """A cluster that refuses to delete is asked once, not again and again, and starts the container in its own time."""
    cluster = FakeCluster("extractor-hog")
    async with running(cluster) as fleet, fleet.hold(HOG):
        first = await leased(fleet, HOG)
        cluster.forbidden = error("The Kubernetes API refuses: pods is forbidden.")
        name = await lose_twice(fleet, cluster, first)
        await until(lambda: bool(cluster.deleted))
        await asyncio.sleep(0.05)
        cluster.put(ready(pod("extractor-hog", name), restarts=2))
        third = await leased(fleet, HOG)
        assert third.name == first.name[:-1] + "2"

        cluster.put(backing_off(pod("extractor-hog", name), restarts=2))
        assert await fleet.blames(third)
        await until(lambda: len(cluster.deleted) == 2)
        cluster.put(ready(pod("extractor-hog", name), restarts=3))
        await leased(fleet, HOG)
    assert cluster.deleted == [name, name], "one attempt for each loss"
    assert cluster.scaled == [("extractor-hog", 1)]
    is_told = error not in {NotFound, Conflict}
    assert [record.levelname for record in caplog.records].count("WARNING") == int(is_told), "once"


async def test_a_pod_that_has_taken_the_name_stays() -> None:
    """A pod is not deleted for what happened to another one of that name."""
    cluster = Successor("extractor-hog")
    async with running(cluster) as fleet, fleet.hold(HOG):
        first = await leased(fleet, HOG)
        name = await lose_twice(fleet, cluster, first)
        assert (await leased(fleet, HOG)).name == f"{name}/another/0"
    assert cluster.deleted == [name]
    assert [*cluster.pods] == [name]


async def test_what_keeps_it_from_working_is_said_before_the_pod_is_made_anew() -> None:
    """A memory limit that is too low is named, instead of being lost in the coming and going of pods."""
    cluster = FakeCluster("extractor-hog")
    told: list[tuple[str, int]] = []

    def tell(line: str) -> None:
        told.append((line, len(cluster.deleted)))

    async with running(cluster, patience=replace(HASTE, trouble=0.1)) as fleet, fleet.hold(HOG, tell=tell):
        name = await lose_twice(fleet, cluster, await leased(fleet, HOG))
        assert name not in (await leased(fleet, HOG)).name
    line, deleted = told[0]
    assert "ran out of memory (its limit is 1Gi)" in line
    assert deleted == 0


async def test_a_pod_that_crashes_before_it_has_worked_is_not_made_anew() -> None:
    """An extractor that cannot start is given up, and the cluster is not flooded with new pods."""
    cluster = FakeCluster("extractor-hog")
    cluster.comes_up = backing_off
    async with running(cluster) as fleet, fleet.hold(HOG):
        with pytest.raises(RoleUnavailable):
            await leased(fleet, HOG)
        await asyncio.sleep(0.05)
    assert cluster.deleted == []
