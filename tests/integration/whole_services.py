"""The orchestrator and the predictor, put together from settings as their processes do it, and served in this one."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from offshelf.services.orchestrator.application import make_service
from offshelf.services.orchestrator.fleet.kubernetes_api import KubernetesApi
from offshelf.services.predictor.__main__ import compose
from offshelf.settings import Settings
from tests.integration.datasets_server import token_file
from tests.integration.stand_ins import served
from tests.unit.fake_cluster import FakeCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from offshelf.rpc.server import RunningServer


EXTRACTOR = "hsv444"


class Namespace(FakeCluster):
    """A namespace in which no pod ever becomes ready, so that runs wait in it."""

    def __init__(self) -> None:
        super().__init__(f"extractor-{EXTRACTOR}")
        self.comes_up = lambda pod: pod

    async def close(self) -> None:
        """Nothing is open."""


def settings_of(folder: Path, **settings: object) -> Settings:
    """Read settings as a process does, from variables of these names; the owner has `datasets_server.TOKEN`."""
    own = {"store": folder / "store", "token_file": token_file(folder), "cores": 1, "drain_seconds": 2}
    return Settings.from_environment(
        {f"OFFSHELF_{name.upper()}": str(value) for name, value in (own | settings).items()}
    )


@asynccontextmanager
async def orchestrator_of_cluster(
    folder: Path, cluster: FakeCluster | None = None, /, **settings: object
) -> AsyncIterator[RunningServer]:
    """Serve the orchestrator of a cluster of which the API alone is a fake."""
    own = settings_of(folder, fleet="kubernetes", pod="orchestrator-1", **settings)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KubernetesApi, "connect", lambda _: cluster or Namespace())
        service = await make_service(own)
    async with served(service, own) as server:
        yield server


@asynccontextmanager
async def orchestrator_of_machine(folder: Path, **settings: object) -> AsyncIterator[RunningServer]:
    """Serve the orchestrator of one machine, whose replicas are real processes. It makes up its own token."""
    own = settings_of(folder, embedded="up", **settings)
    service = await make_service(own)
    async with served(service, own) as server:
        yield server


@asynccontextmanager
async def predictor(folder: Path, **settings: object) -> AsyncIterator[RunningServer]:
    """Serve the predictor."""
    own = settings_of(folder, **settings)
    service = await compose(own)
    async with served(service, own) as server:
        yield server
