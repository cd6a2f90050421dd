"""An orchestrator whose replicas somebody else starts and stops, over their addresses.

Run as a program, this file is one in a process of its own, with the settings of its environment and replicas named
ROLE=HOST:PORT: ``python -m tests.integration.fixed_fleet extractor-hsv444=127.0.0.1:7001 trainer=127.0.0.1:7002``.
"""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from offshelf.rpc.auth import read_token
from offshelf.rpc.server import run
from offshelf.services.orchestrator.application import OrchestratorService
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.peers import GrpcPeers
from offshelf.services.orchestrator.fleet.replicas import Replica, ReplicaPool, Role, keep_quiet
from offshelf.store import open_store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping
    from pathlib import Path

    from offshelf.services.orchestrator.fleet.replicas import Fleet
    from offshelf.settings import Settings


class OpenTenure:
    """An office that nobody contends for; a `Tenure`."""

    epoch = 1
    takes_up = True
    scratch = None
    extractors_at_a_time = 0

    def __init__(self, fleet: Fleet, token_file: Path, tls: Path | None = None) -> None:
        self.fleet = fleet
        self.token_file = token_file
        self.peers = GrpcPeers(None if tls else read_token(token_file), tls)
        self.budget = CoreBudget(None)

    async def locate_predictor(self) -> str:
        """There is none."""
        raise NotImplementedError

    async def announce(self, address: str) -> None:
        """Whom it concerns knows."""

    async def withdraw(self) -> None:
        """Nobody was told."""

    async def end(self) -> None:
        """Stop the replicas."""
        await self.peers.close()
        await self.fleet.close()


class FixedFleet:
    """A fleet of one replica for each role, which is always ready.

    Parameters
    ----------
    addresses
        Where each is.
    """

    def __init__(self, addresses: Mapping[Role, str]) -> None:
        self.pool = ReplicaPool(lambda _: 2)
        for role, address in addresses.items():
            self.pool.add(Replica(role, "only", address, server_name=role.service))

    def role_of(self, extractor: str) -> Role:
        """Have replicas for each."""
        return Role("extractor", extractor)

    @asynccontextmanager
    async def hold(
        self, role: Role, *, units: int = 1, tell: Callable[[str], None] = keep_quiet
    ) -> AsyncIterator[None]:
        """Have what there is."""
        del role, units, tell
        yield

    async def blames(self, replica: Replica) -> bool:
        """Nothing is ever lost here."""
        raise AssertionError(replica)

    async def close(self) -> None:
        """Stop nothing."""


async def compose(settings: Settings) -> OrchestratorService:
    """Put the orchestrator of this process together."""
    assert settings.token_file is not None
    named = dict(replica.split("=") for replica in sys.argv[1:])
    fleet = FixedFleet({Role(*role.split("-")): address for role, address in named.items()})
    store = await asyncio.to_thread(open_store, settings.store)
    return OrchestratorService(settings, store, OpenTenure(fleet, settings.token_file, settings.tls))


if __name__ == "__main__":
    run(compose, "orchestrator")
