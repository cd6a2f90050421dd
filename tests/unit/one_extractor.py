"""What stands around a run of one extractor on four pets: a fleet, services, a catalogue, and its tools."""

from __future__ import annotations

from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from offshelf import features
from offshelf.datasets import Dataset, Item
from offshelf.digests import digest_of
from offshelf.errors import Unavailable
from offshelf.features import SegmentRow
from offshelf.images import ImageStatus
from offshelf.services.orchestrator.dispatch.budget import CoreBudget
from offshelf.services.orchestrator.dispatch.dispatcher import Dispatcher
from offshelf.services.orchestrator.dispatch.units import ExtractionOutcome, FoldResult
from offshelf.services.orchestrator.figures import NoFigures
from offshelf.services.orchestrator.fleet.replicas import Replica, ReplicaPool, Role, keep_quiet
from offshelf.services.orchestrator.runs.journal import Journal, Workbench
from offshelf.services.orchestrator.runs.specification import RunSpec
from offshelf.services.orchestrator.runs.status import RunStatus

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from offshelf.services.orchestrator.dispatch.units import ExtractionUnit, ScoringUnit
    from offshelf.services.orchestrator.runs.runlog import RunLog
    from tests.unit.fakes import MemoryStore

FINGERPRINT = digest_of("hog")
MAX_PIXELS = 1000
PETS = Dataset.of(
    Item(f"{label}/{n}.png", label, "", digest_of([label, n])) for label in ("cat", "dog") for n in (0, 1)
)


class Fleet:
    """A fleet in which some roles cannot be started."""

    def __init__(self, *refused: str) -> None:
        self.pool = ReplicaPool(lambda _: 4)
        self._refused = refused
        self.held: list[tuple[Role, int]] = []

    def role_of(self, extractor: str) -> Role:
        """Have replicas for each."""
        return Role("extractor", extractor)

    @asynccontextmanager
    async def hold(
        self, role: Role, *, units: int = 1, tell: Callable[[str], None] = keep_quiet
    ) -> AsyncIterator[None]:
        """Have a replica ready, or a refusal."""
        self.held.append((role, units))
        tell(f"no room for {role}")
        if role.service in self._refused:
            self.pool.refuse(role, Unavailable(f"{role} ended 3 times"))
        else:
            self.pool.add(Replica(role, "only", "127.0.0.1:1"))
        yield

    async def blames(self, replica: Replica) -> bool:
        """Blame the work."""
        return replica in self.pool.ready(replica.role)

    async def close(self) -> None:
        """Stop nothing."""
        return


class Peers:
    """Services that lose their worker over every classifier."""

    async def cross_validate(self, replica: Replica, unit: ScoringUnit) -> AsyncIterator[FoldResult]:
        """Die."""
        if unit.classifiers:
            raise Unavailable(f"{replica.name} lost {unit}")
        yield FoldResult("none", "", unit.fold, {})


class Measuring(Peers):
    """Extracts vectors of three numbers, of all images but those that end it."""

    def __init__(self, store: MemoryStore, deadly: frozenset[str] = frozenset()) -> None:
        self._store = store
        self._deadly = deadly

    async def extract(self, replica: Replica, unit: ExtractionUnit, _: Callable[[int], None]) -> ExtractionOutcome:
        """Write a segment, or be lost."""
        if self._deadly & set(unit.images):
            raise Unavailable(f"{replica.name} lost {unit}")
        rows = [SegmentRow(image, ImageStatus.OK, "", np.ones(3, np.float32)) for image in unit.images]
        key = features.write_segment(self._store, FINGERPRINT, unit.images, rows, max_pixels=MAX_PIXELS, dimension=3)
        return ExtractionOutcome(key, len(rows), 0, dimension=3)


class Catalog:
    """Knows one extractor, of which everything is there."""

    dimension = 2

    def find(self, name: str) -> Any:
        """Find it."""
        return SimpleNamespace(name=name, cost_seconds=1.0, dimension=self.dimension)

    def fingerprint(self, _name: str) -> str:
        """Return its fingerprint."""
        return FINGERPRINT

    def availability(self, _name: str) -> str:
        """Say that it is available."""
        return ""


def workbench(store: MemoryStore, fleet: Fleet) -> Workbench:
    """Put the tools of a run together."""
    return Workbench(
        store=store,
        catalog=Catalog(),  # type: ignore[arg-type]
        fleet=fleet,
        dispatcher=Dispatcher(fleet=fleet, peers=Peers(), budget=CoreBudget(1), store=store, cores=1),  # type: ignore[arg-type]
        roots=None,
        unit_seconds=10.0,
        max_pixels=MAX_PIXELS,
    )


def journal(log: RunLog) -> Journal:
    """Begin a run of one extractor and two classifiers on three folds."""
    spec = RunSpec("folder:/pets", ("hog",), ("LR", "RF"), "accuracy", 3, 0)
    return Journal(RunStatus(spec, log.create("R1", spec.to_json())), log)


class Ledger(NoFigures):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.entries: list[tuple[object, ...]] = []

    def unit_retried(self, role: str, reason: str) -> None:
        """Keep it."""
        self.entries.append((role, reason))

    def images(self, extractor: str, outcome: str, count: int) -> None:
        """Keep it."""
        self.entries.append((extractor, outcome, count))

    def cache(self, what: str, *, hits: int, misses: int) -> None:
        """Keep it."""
        self.entries.append((what, hits, misses))
