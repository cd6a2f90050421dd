"""The replicas that extractors with parameters share, as the orchestrator uses them: a real one behind a real fleet."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from offshelf.errors import InvalidInput
from offshelf.extraction.extractors import Extractors
from offshelf.extraction.spec import fingerprint
from offshelf.features import read_segment
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.dispatcher import Dispatcher
from offshelf.services.orchestrator.dispatch.peers import GrpcPeers
from offshelf.services.orchestrator.dispatch.units import ExtractionUnit
from tests.integration.extractor_process import TOKEN, make_sample, spawned
from tests.unit.fake_cluster import FakeCluster, ready
from tests.unit.own_networks import put_network
from tests.unit.test_kubernetes_fleet import running, somebody
from tests.unit.tiny_onnx import CHANNELS

if TYPE_CHECKING:
    from pathlib import Path


async def test_several_extractors_share_a_replica_and_one_that_fails_is_alone(tmp_path: Path) -> None:
    """Bins and networks of users' own are extracted side by side; a network that cannot be read costs only itself."""
    sample = make_sample(tmp_path)
    good, bad = put_network(sample.store), put_network(sample.store, b"no network", name="bad.onnx")
    names = ("lab:2,3,4", good.name, bad.name, "hsv:2,2,2")
    specs = {name: Extractors(sample.store).find(name) for name in names}
    images = tuple(sorted({item.digest for item in sample.dataset.items}))
    units = [
        ExtractionUnit(name, fingerprint(spec), sample.dataset.digest, sample.source, images)
        for name, spec in specs.items()
    ]
    with spawned(tmp_path, "custom") as process:
        assert process.stdout is not None
        line = await asyncio.to_thread(process.stdout.readline)
        host, _, port = json.loads(line)["address"].rpartition(":")

        def comes_up(manifest: dict[str, Any]) -> dict[str, Any]:
            manifest["spec"]["containers"][1]["ports"] = [{"name": "grpc", "containerPort": int(port)}]
            return ready(manifest, ip=host)

        cluster = FakeCluster("extractor-custom")
        cluster.comes_up = comes_up
        async with running(cluster, reachable=somebody, max_replicas=1) as fleet:
            peers = GrpcPeers(TOKEN, is_ready=lambda replica: replica in fleet.pool.ready(replica.role))
            work = Dispatcher(fleet=fleet, peers=peers, budget=CoreBudget(None), store=sample.store, cores=1)
            try:
                async with fleet.hold(fleet.role_of(names[0]), units=len(units)):
                    outcomes = await asyncio.gather(
                        *(work.extract(unit, lambda _: None) for unit in units), return_exceptions=True
                    )
            finally:
                await peers.close()
    found = dict(zip(names, outcomes, strict=True))
    failed = found.pop(bad.name)
    assert isinstance(failed, InvalidInput)
    assert "bad.onnx cannot be read" in failed.message
    for name, length in (("lab:2,3,4", 24), (good.name, CHANNELS), ("hsv:2,2,2", 8)):
        outcome = found[name]
        assert isinstance(outcome, list)
        (written,) = outcome
        assert (written.extracted, written.quarantined, written.dimension) == (12, 1, length)
        segment = read_segment(sample.store, written.key)
        assert (segment.fingerprint, segment.dimension) == (fingerprint(specs[name]), length)
    assert cluster.scaled == [("extractor-custom", 1)]
