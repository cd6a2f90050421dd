from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry

from offshelf.errors import DataLoss, StoreUnavailable, Unavailable
from offshelf.services.orchestrator.dispatch import patience, trial
from offshelf.services.orchestrator.dispatch.failures import Unreached
from offshelf.services.orchestrator.fleet.replicas import Replica, Role
from offshelf.services.orchestrator.metrics import OrchestratorMetrics
from tests.unit.test_dispatch import FrailPeers, SteadyFleet, dispatcher, extraction

if TYPE_CHECKING:
    from collections.abc import Callable

ROLE = Role("extractor", "hog")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(Unavailable("gone"), "lost"), (Unreached("not there"), "unreached"), (StoreUnavailable("away"), "store")],
)
async def test_what_is_sent_again_is_counted_with_the_reason(
    error: Exception, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An operator sees that work is done twice, and whether replicas, the network or the store is why."""
    monkeypatch.setattr(trial, "_BACK_OFF_SECONDS", 0.0)
    monkeypatch.setattr(patience, "_FIRST_SECONDS", 0.0)
    value = await counted(error)
    assert value("offshelf_units_total", outcome=outcome) == value("offshelf_units_total", outcome="done") == 1
    assert value("offshelf_units_retried_total", reason=outcome) == 1
    assert value("offshelf_unit_seconds_count") == 2


async def test_what_is_not_sent_again_is_counted_as_failed() -> None:
    """A defect is no reason to try again, and an operator sees that there was one."""
    value = await counted(DataLoss("garbled"))
    assert value("offshelf_units_total", outcome="failed") == 1
    assert value("offshelf_units_total", outcome="done") is None
    assert value("offshelf_unit_seconds_count") == 1


async def counted(accident: Exception) -> Callable[..., float | None]:
    """Have a unit extracted with one accident; gives what is counted, by name and labels."""
    peers, fleet = FrailPeers(deadly=set(), accidents=1, accident=accident), SteadyFleet(blames=False)
    registry = CollectorRegistry()
    figures = OrchestratorMetrics(fleet.pool)
    figures.register(registry)
    async with fleet.hold(ROLE):
        with suppress(DataLoss):
            await dispatcher(peers, fleet, figures=figures).extract(extraction("a"), lambda _: None)
    return lambda name, **labels: registry.get_sample_value(name, {"role": str(ROLE), **labels})


async def test_labels_do_not_grow_with_what_users_bring() -> None:
    """Extractors with parameters, and networks of users' own, are counted together: there is no end of their names."""
    registry, fleet = CollectorRegistry(), SteadyFleet(blames=False)
    figures = OrchestratorMetrics(fleet.pool)
    figures.register(registry)
    for name in ("onnx:net@0123456789ab", "onnx:other@ba9876543210", "lab:4,4,4", "hog"):
        figures.images(name, "extracted", 1)
        figures.unit_ended(f"extractor-{name}", "done", 1.0)
        fleet.pool.add(Replica(Role("extractor", name), name, "127.0.0.1:1"))
    for name, label in (
        ("offshelf_images_total", {"extractor": "onnx", "outcome": "extracted"}),
        ("offshelf_units_total", {"role": "extractor-onnx", "outcome": "done"}),
        ("offshelf_replicas_ready", {"role": "extractor-onnx"}),
    ):
        assert registry.get_sample_value(name, label) == 2
    assert registry.get_sample_value("offshelf_images_total", {"extractor": "lab", "outcome": "extracted"}) == 1
