"""The fleet of a cluster: scaling, following pods, saying what is in the way."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from offshelf.errors import PermissionDenied, StoreDenied
from offshelf.services.orchestrator.fleet import pod_watch
from offshelf.services.orchestrator.fleet.cluster_api import Change, ClusterUnavailable
from offshelf.services.orchestrator.fleet.kubernetes import KubernetesFleet
from offshelf.services.orchestrator.fleet.outlook import Patience
from offshelf.services.orchestrator.fleet.replicas import Replica, Role, RoleUnavailable
from tests.unit.fake_cluster import FakeCluster, container, pod, ready, unschedulable, until

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator

HOG = Role("extractor", "hog")
TRAINER = Role("trainer")
STATS = Role("stats")

HASTE = Patience(
    trouble=0,
    creation=0,
    hopeless=0,
    start=60,
    relapse=0,
    room=0,
    tick=0.005,
    listing=0.01,
    verdict=0.05,
    verdict_alive=0.05,
    verdict_away=0.1,
    probation=60,
)
"""Waits for nothing."""


async def nobody(_address: str) -> bool:
    """Answer at no address."""
    return False


async def somebody(_address: str) -> bool:
    """Answer at every address."""
    return True


@asynccontextmanager
async def running(
    cluster: FakeCluster, *, patience: Patience = HASTE, idle_seconds: float = 60, **options: Any
) -> AsyncIterator[KubernetesFleet]:
    """Run a fleet on a cluster."""
    options = {"max_replicas": 3, "reachable": nobody, **options}
    fleet = KubernetesFleet(cluster, idle_seconds=idle_seconds, patience=patience, **options)
    fleet._watch._back_off = (0.001, 0.01)
    fleet.start()
    try:
        yield fleet
    finally:
        await fleet.close()


async def leased(fleet: KubernetesFleet, role: Role) -> Replica:
    """Lease a replica and give it back."""
    async with asyncio.timeout(5), fleet.pool.lease(role) as replica:
        return replica


# ------------------------------------------------------------------------------------------------------------- scaling


@pytest.mark.parametrize(("units", "replicas"), [(1, 1), (2, 1), (3, 2), (5, 3), (1000, 3)])
async def test_an_extractor_gets_as_many_replicas_as_the_work_needs(units: int, replicas: int) -> None:
    """Little work starts one pod, much work starts more, and never more than allowed."""
    cluster = FakeCluster("extractor-hog")
    async with running(cluster) as fleet, fleet.hold(HOG, units=units):
        await leased(fleet, HOG)
        assert cluster.scaled == [("extractor-hog", replicas)]


async def test_a_trainer_takes_as_many_units_as_it_has_cores() -> None:
    """Large pods take more work, so fewer are started."""
    cluster = FakeCluster("trainer", cores="2500m")
    async with running(cluster) as fleet, fleet.hold(TRAINER, units=6):
        await leased(fleet, TRAINER)
        assert cluster.scaled == [("trainer", 2)]


async def test_replicas_are_for_the_work_of_all_runs_together() -> None:
    """Two runs over the same extractor share its replicas, of which there are enough for both."""
    cluster = FakeCluster("extractor-hog")
    async with running(cluster) as fleet, fleet.hold(HOG, units=2):
        await leased(fleet, HOG)
        async with fleet.hold(HOG, units=3):
            await until(lambda: len(fleet.pool.ready(HOG)) == 3)
        await asyncio.sleep(0.02)
        assert cluster.scaled == [("extractor-hog", 1), ("extractor-hog", 3)]


async def test_extractors_with_parameters_share_one_deployment() -> None:
    """Nobody has to deploy anything for `lab:8,4,4` or a network of their own, and replicas are for all of them."""
    cluster = FakeCluster("extractor-custom", "extractor-hog")
    async with running(cluster) as fleet:
        names = ("lab:8,4,4", "resnet50:max", "onnx:net@0123456789ab", "hog")
        first, second, own, hog = (fleet.role_of(name) for name in names)
        assert first == second == own == Role("extractor", "custom")
        assert hog == HOG
        async with fleet.hold(first, units=2), fleet.hold(own, units=2):
            await until(lambda: len(fleet.pool.ready(own)) == 2)
    assert len(cluster.of("extractor-custom")) == 2
    assert not cluster.of("extractor-hog")


async def test_a_replica_is_reached_at_its_pod_under_the_name_of_its_service() -> None:
    """Each pod has a channel of its own, and its certificate is checked."""
    cluster = FakeCluster("extractor-hog")
    async with running(cluster) as fleet, fleet.hold(HOG):
        replica = await leased(fleet, HOG)
    assert (replica.role, replica.address, replica.server_name) == (HOG, "10.0.0.1:7000", "extractor")


async def test_idle_replicas_go_and_held_ones_stay() -> None:
    """A cluster is not paid for when nothing is to be done."""
    cluster = FakeCluster("extractor-hog", "trainer", "stats", replicas=1)
    async with running(cluster, idle_seconds=0.02) as fleet, fleet.hold(TRAINER):
        async with fleet.hold(HOG):
            await asyncio.sleep(0.05)
            assert cluster.scaled == []
        await until(lambda: not cluster.of("extractor-hog"))
        assert cluster.scaled == [("extractor-hog", 0)]
        assert cluster.of("stats"), "stats is not scaled by the fleet"


async def test_replicas_that_are_there_are_used_and_left_to_the_next_orchestrator() -> None:
    """A restarted orchestrator goes on with the pods of the last one, and starting it stops none."""
    cluster = FakeCluster("extractor-hog", replicas=2)
    async with running(cluster) as fleet, fleet.hold(HOG, units=1):
        await leased(fleet, HOG)
    assert len(cluster.of("extractor-hog")) == 2
    assert cluster.scaled == []


async def test_idle_replicas_make_room_at_once_for_a_role_without_any() -> None:
    """In a small cluster extractors take turns, instead of waiting for the idle time of the one before."""
    cluster = FakeCluster("extractor-hog", "extractor-lbp", replicas=1)
    cluster.comes_up = lambda manifest: ready(manifest) if len(cluster.pods) < 2 else unschedulable(manifest)
    lbp = Role("extractor", "lbp")
    cluster.put(unschedulable(pod("extractor-lbp", cluster.of("extractor-lbp")[0])))
    async with running(cluster) as fleet, fleet.hold(lbp):
        await until(lambda: ("extractor-hog", 0) in cluster.scaled)
        cluster.put(ready(pod("extractor-lbp", cluster.of("extractor-lbp")[0])))
        await leased(fleet, lbp)


async def test_a_role_that_is_held_again_soon_makes_no_room() -> None:
    """The trainer is not stopped between the extraction and the scoring of the same run."""
    cluster = FakeCluster("trainer", replicas=1)
    cluster.deploy("extractor-hog")
    cluster.comes_up = unschedulable
    async with running(cluster, patience=replace(HASTE, room=60)) as fleet, fleet.hold(HOG):
        async with fleet.hold(TRAINER):
            await until(fleet._is_waiting_for_room)
        await asyncio.sleep(0.05)
        async with fleet.hold(TRAINER):
            await leased(fleet, TRAINER)
    assert cluster.scaled == [("extractor-hog", 1)]


# --------------------------------------------------------------------------------------------------------------- pods


async def test_pods_come_and_go_and_come_back() -> None:
    """Work goes to pods that are ready, and to no others."""
    cluster = FakeCluster("extractor-hog", replicas=1)
    [name] = cluster.of("extractor-hog")
    async with running(cluster) as fleet:
        await until(lambda: len(fleet.pool.ready(HOG)) == 1)
        first = fleet.pool.ready(HOG)[0]
        cluster.put(container(pod("extractor-hog", name), running={}))
        await until(lambda: not fleet.pool.ready(HOG))
        cluster.put(ready(pod("extractor-hog", name)))
        await until(lambda: fleet.pool.ready(HOG) == (first,))
        cluster.put(ready(pod("extractor-hog", name), restarts=1))
        await until(lambda: len(fleet.pool.ready(HOG)) == 1 and fleet.pool.ready(HOG) != (first,))
        leaving = ready(pod("extractor-hog", name), restarts=1)
        leaving["metadata"]["deletionTimestamp"] = "now"
        cluster.put(leaving)
        await until(lambda: not fleet.pool.ready(HOG))


async def test_an_api_that_is_away_for_a_while_stops_no_work() -> None:
    """Work goes on with the pods that are known, and pods that came meanwhile are found afterwards."""
    cluster = FakeCluster("extractor-hog", replicas=1)
    async with running(cluster) as fleet, fleet.hold(HOG):
        first = await leased(fleet, HOG)
        cluster.go_away()
        await until(lambda: fleet._watch.away is not None)
        assert await leased(fleet, HOG) == first
        cluster.delete(cluster.of("extractor-hog")[0])
        cluster.come_back()
        await until(lambda: fleet.pool.ready(HOG) not in {(), (first,)})


async def test_a_watch_that_is_too_old_is_begun_anew() -> None:
    """A long pause, after which the API does not know any more what happened since, is survived."""
    cluster = FakeCluster("extractor-hog", replicas=1)
    async with running(cluster) as fleet:
        await until(lambda: len(fleet.pool.ready(HOG)) == 1)
        cluster.delete(cluster.of("extractor-hog")[0])
        cluster.forget_history()
        await until(lambda: cluster.lists == 2 and len(fleet.pool.ready(HOG)) == 1)


async def test_watches_that_all_fail_become_rarer_and_are_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """An API that answers, but whose watches break off each time, is neither overrun nor does it fill the log."""

    class Broken(FakeCluster):
        async def watch_pods(self, version: str) -> AsyncGenerator[Change, None]:
            self.watches += 1
            yield Change("BOOKMARK", version, {})
            raise ClusterUnavailable("The Kubernetes API sends what is no event of a watch.")

    failures: list[int] = []

    def at_once(count: int, **_: float) -> float:
        failures.append(count)
        return 0.0

    monkeypatch.setattr(pod_watch, "full_jitter", at_once)
    caplog.set_level("INFO")
    cluster = Broken("extractor-hog", replicas=1)
    watch = pod_watch.PodWatch(cluster, lambda _old, _new: None)
    watching = asyncio.create_task(watch.run())
    await until(lambda: len(failures) >= 5)
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert failures[:5] == [1, 2, 3, 4, 5]
    assert set(watch.pods) == set(cluster.pods)
    said = [record.message for record in caplog.records if record.name == pod_watch.__name__]
    assert said == [
        "the pods are watched",
        "the pods cannot be watched; going on with those that are known",
        "the pods are watched",
    ]


async def test_a_pod_that_cannot_be_understood_does_not_end_the_watch() -> None:
    """An odd pod with our labels does not stop the work of the others."""
    cluster = FakeCluster("extractor-hog", replicas=1)
    odd = pod("trainer")
    del odd["spec"]
    cluster.put(odd)
    async with running(cluster) as fleet, fleet.hold(HOG):
        await leased(fleet, HOG)


# -------------------------------------------------------------------------------------------------------------- losses


def taken_away(**status: Any) -> dict[str, Any]:
    """Make a pod that was ready and is being taken away."""
    manifest = ready(pod("extractor-hog"))
    manifest["status"] |= status
    return manifest


@pytest.mark.parametrize(
    ("becomes", "blamed"),
    [
        (None, False),
        (taken_away(phase="Failed", reason="Evicted"), False),
        (taken_away(reason="NodeLost"), False),
        (taken_away(conditions=[{"type": "DisruptionTarget", "status": "True"}]), False),
        (container(taken_away(), terminated={"exitCode": 137, "reason": "Error"}), True),
        (container(taken_away(), restarts=1, running={}, last={"exitCode": 137, "reason": "OOMKilled"}), True),
        (container(taken_away(), restarts=1, running={}, last={"exitCode": 255, "reason": "Unknown"}), False),
        (container(taken_away(), waiting={"reason": "CrashLoopBackOff"}), True),
    ],
    ids=["deleted", "evicted", "node lost", "preempted", "killed", "out of memory", "node restarted", "crashing"],
)
async def test_only_a_process_that_ended_by_itself_is_blamed_on_its_work(
    becomes: dict[str, Any] | None, *, blamed: bool
) -> None:
    """A unit is not suspected because somebody took its pod away; the API says so a little after the call was lost."""
    cluster = FakeCluster("extractor-hog")
    cluster.put(ready(pod("extractor-hog")))
    async with running(cluster, patience=Patience(tick=0.005)) as fleet:
        await until(lambda: len(fleet.pool.ready(HOG)) == 1)
        [replica] = fleet.pool.ready(HOG)
        asked = asyncio.create_task(fleet.blames(replica))
        await asyncio.sleep(0)
        assert fleet.pool.ready(HOG) == (), "nobody else is sent to a replica that was just lost"
        if becomes is None:
            cluster.delete("extractor-hog-1")
        else:
            cluster.put(becomes)
        async with asyncio.timeout(5):
            assert await asked is blamed
        assert replica not in fleet.pool.ready(HOG)


async def test_a_replica_that_lives_gets_work_again() -> None:
    """A trainer whose worker process died is not set aside for it."""
    cluster = FakeCluster("trainer", replicas=1)
    async with running(cluster, reachable=somebody) as fleet, fleet.hold(TRAINER):
        replica = await leased(fleet, TRAINER)
        assert await fleet.blames(replica)
        assert await leased(fleet, TRAINER) == replica


async def test_a_replica_that_does_not_answer_is_set_aside() -> None:
    """Work is not sent again and again to a node that is lost, of which the API does not know yet."""
    cluster = FakeCluster("extractor-hog", replicas=2)
    async with running(cluster) as fleet:
        await until(lambda: len(fleet.pool.ready(HOG)) == 2)
        lost, other = fleet.pool.ready(HOG)
        assert await fleet.blames(lost)
        assert fleet.pool.ready(HOG) == (other,)


async def test_a_loss_while_the_api_is_away_is_not_blamed() -> None:
    """Units are not cut in two because nobody could say what became of their pod."""
    cluster = FakeCluster("extractor-hog", replicas=1)
    async with running(cluster) as fleet, fleet.hold(HOG):
        replica = await leased(fleet, HOG)
        cluster.go_away()
        await until(lambda: fleet._watch.away is not None)
        assert not await fleet.blames(replica)


async def test_all_units_of_one_replica_hear_the_same() -> None:
    """Several units that were lost together cause one inquiry."""
    cluster = FakeCluster("extractor-hog", replicas=1)
    async with running(cluster, patience=Patience(tick=0.005)) as fleet, fleet.hold(HOG):
        replica = await leased(fleet, HOG)
        asked = asyncio.gather(*(fleet.blames(replica) for _ in range(3)))
        await asyncio.sleep(0)
        cluster.delete(cluster.of("extractor-hog")[0])
        assert await asked == [False, False, False]


# ------------------------------------------------------------------------------------------------------------ troubles


async def test_an_extractor_that_is_not_installed_is_refused_with_the_command_that_installs_it() -> None:
    """A run goes on without an extractor that the cluster does not have, and says how to get it."""
    cluster = FakeCluster("trainer")
    told: list[str] = []
    async with running(cluster) as fleet, fleet.hold(HOG, tell=told.append):
        with pytest.raises(RoleUnavailable, match=r"no Deployment extractor-hog in .*make deploy"):
            await leased(fleet, HOG)
    assert told[-1] == ""


async def test_a_refused_extractor_is_tried_again_when_somebody_asks_anew() -> None:
    """After the Deployment has been applied, the next run has it."""
    cluster = FakeCluster()
    async with running(cluster) as fleet:
        async with fleet.hold(HOG):
            with pytest.raises(RoleUnavailable):
                await leased(fleet, HOG)
        cluster.deploy("extractor-hog")
        async with fleet.hold(HOG):
            await leased(fleet, HOG)


async def test_no_room_is_said_and_unsaid_and_work_goes_on_with_what_fits() -> None:
    """A full cluster slows a run down, which says so until there is room."""
    cluster = FakeCluster("extractor-hog")
    cluster.comes_up = lambda manifest: unschedulable(manifest) if cluster.pods else ready(manifest)
    told: list[str] = []
    async with running(cluster) as fleet, fleet.hold(HOG, units=4, tell=told.append):
        await leased(fleet, HOG)
        await until(lambda: bool(told))
        assert told[-1].startswith("no room in the cluster for extractor-hog (0/1 nodes are available: 1 Insufficient")
        assert told[-1].endswith("Going on with 1 of 2 replicas.")
        cluster.put(ready(pod("extractor-hog", cluster.of("extractor-hog")[1])))
        await until(lambda: told[-1] == "")


async def test_an_image_that_cannot_be_pulled_ends_the_wait_for_it() -> None:
    """A run does not wait for minutes for an image that is not there."""
    cluster = FakeCluster("extractor-hog")
    message = "manifest unknown"
    cluster.comes_up = lambda manifest: container(manifest, waiting={"reason": "ErrImagePull", "message": message})
    async with running(cluster) as fleet, fleet.hold(HOG):
        expected = r"^extractor-hog: the image offshelf:1 cannot be pulled \(manifest unknown\); check the name"
        with pytest.raises(RoleUnavailable, match=expected):
            await leased(fleet, HOG)


async def test_a_store_that_keeps_pods_from_starting_is_the_reason_itself() -> None:
    """Wrong credentials end a run with that reason, instead of leaving out all extractors one by one."""
    cluster = FakeCluster("extractor-hog")
    words = 'some log line\n{"ready": false, "error": "The store refuses: wrong secret key.", "kind": "StoreDenied"}\n'
    ended = {"exitCode": 2, "reason": "Error", "message": words}
    cluster.comes_up = lambda pod: container(pod, restarts=2, waiting={"reason": "CrashLoopBackOff"}, last=ended)
    async with running(cluster) as fleet, fleet.hold(HOG):
        with pytest.raises(StoreDenied, match=r"^extractor-hog cannot start: The store refuses: wrong secret key"):
            await leased(fleet, HOG)


async def test_a_missing_permission_is_said_with_its_fix() -> None:
    """An orchestrator that may not scale says so, instead of waiting for pods that nobody starts."""
    cluster = FakeCluster("extractor-hog")
    cluster.forbidden = PermissionDenied("The Kubernetes API refuses: deployments/scale is forbidden.")
    async with running(cluster) as fleet, fleet.hold(HOG):
        with pytest.raises(RoleUnavailable, match=r"cannot be scaled: .*forbidden.*make deploy"):
            await leased(fleet, HOG)


async def test_an_api_that_may_not_be_asked_is_said_with_its_fix() -> None:
    """An orchestrator without its Role says so."""
    cluster = FakeCluster("extractor-hog")
    cluster.away = PermissionDenied('The Kubernetes API refuses: pods is forbidden: User "x" cannot list.')
    async with running(cluster) as fleet, fleet.hold(HOG):
        with pytest.raises(RoleUnavailable, match=r"pods is forbidden.*make deploy"):
            await leased(fleet, HOG)


async def test_a_run_that_starts_while_the_api_is_away_waits_for_it() -> None:
    """A short outage of the API costs time, and no extractor."""
    cluster = FakeCluster("extractor-hog")
    told: list[str] = []
    async with running(cluster) as fleet:
        cluster.go_away()
        async with fleet.hold(HOG, tell=told.append):
            await until(lambda: bool(told))
            assert "The Kubernetes API cannot be reached" in told[-1]
            cluster.come_back()
            await leased(fleet, HOG)


async def test_stats_that_is_scaled_to_zero_is_said() -> None:
    """What the fleet does not scale, it asks its user to."""
    cluster = FakeCluster("stats")
    async with running(cluster) as fleet, fleet.hold(STATS):
        with pytest.raises(RoleUnavailable, match="kubectl scale -n shelf deployment/stats --replicas=1"):
            await leased(fleet, STATS)
