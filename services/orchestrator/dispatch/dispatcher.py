"""Sends units to replicas: again when a replica is lost, in halves when a unit seems to be what kills them."""

from __future__ import annotations

import asyncio
import logging
import random
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol, TypeVar

from offshelf.errors import DataLoss, OffshelfError, StoreUnavailable, Unavailable
from offshelf.services.orchestrator.dispatch.units import ExtractionOutcome
from offshelf.services.orchestrator.fleet.replicas import Role, RoleUnavailable
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping

    from offshelf.runs import Combination
    from offshelf.services.orchestrator.dispatch.budget import CoreBudget
    from offshelf.services.orchestrator.dispatch.units import (
        ComparisonOutcome,
        ExtractionUnit,
        FitUnit,
        FoldResult,
        ReportRequest,
        ScoringUnit,
    )
    from offshelf.services.orchestrator.fleet.replicas import Fleet
    from offshelf.store import ObjectStore

_log = logging.getLogger(__name__)

T = TypeVar("T")

ATTEMPTS = 2
"""Replicas that a unit may cost before it is cut in two."""

DEADLY_IN_A_ROW = 3
"""So many images that each cost every replica, and none that did not: that is the extractor, not the images."""

_BACK_OFF_SECONDS = 0.2

TRAINER = Role("trainer")
STATS = Role("stats")


class UnitLost(OffshelfError):
    """A unit that cannot be cut any further has cost every replica that tried it."""


class Peers(Protocol):
    """The other services."""

    async def extract(
        self, address: str, unit: ExtractionUnit, on_progress: Callable[[int], None]
    ) -> ExtractionOutcome:
        """Have one unit extracted."""
        ...

    def cross_validate(self, address: str, unit: ScoringUnit) -> AsyncGenerator[FoldResult, None]:
        """Have classifiers evaluated on one fold."""
        ...

    async def fit(self, address: str, unit: FitUnit) -> str:
        """Have a classifier fitted."""
        ...

    async def compare(
        self, address: str, dataset: str, measure: str, scores: Mapping[Combination, str]
    ) -> ComparisonOutcome:
        """Have all combinations compared."""
        ...

    async def render_report(self, address: str, request: ReportRequest) -> dict[str, str]:
        """Have the report written."""
        ...


class Dispatcher:
    """Knows how to have a unit done, whatever happens to the replicas on the way."""

    def __init__(self, *, fleet: Fleet, peers: Peers, budget: CoreBudget, store: ObjectStore, cores: int) -> None:
        self._fleet = fleet
        self._peers = peers
        self._budget = budget
        self._store = store
        self._cores = cores

    async def extract(self, unit: ExtractionUnit, on_images: Callable[[int], None]) -> list[ExtractionOutcome]:
        """Have a unit extracted, in as many pieces as it takes; `on_images` counts images as they are dealt with.

        A unit that costs every replica is cut in two until the one image is found that does it.
        """
        counted = 0

        def on_progress(done: int) -> None:
            nonlocal counted
            if done > counted:
                on_images(done - counted)
                counted = done

        async def send(address: str) -> ExtractionOutcome:
            outcome = await self._peers.extract(address, unit, on_progress)
            on_progress(len(unit.images))
            return outcome

        try:
            return [await self._attempt(Role("extractor", unit.extractor), self._cores, send, str(unit))]
        except UnitLost:
            halves = unit.halves()
            if not halves:
                on_progress(len(unit.images))
                return [ExtractionOutcome(key="", extracted=0, quarantined=0, deadly=unit.images)]
            _log.warning("unit is cut in two", extra={"unit": str(unit)})
            # What the lost attempts had counted stays counted; the halves count only beyond it.
            skip = counted

            def beyond(images: int) -> None:
                nonlocal skip
                old, skip = skip, max(skip - images, 0)
                if images > old:
                    on_images(images - old)

            outcomes = [outcome for half in halves for outcome in await self.extract(half, beyond)]
            if len(outcomes) >= DEADLY_IN_A_ROW and all(outcome.deadly for outcome in outcomes):
                raise RoleUnavailable(f"{unit.extractor}: its process ends over every image.") from None
            return outcomes

    async def score(
        self,
        unit: ScoringUnit,
        on_result: Callable[[FoldResult], Awaitable[None]],
        on_lost: Callable[[str, str], Awaitable[None]],
    ) -> None:
        """Have a fold scored. Results arrive one by one; a classifier that costs every replica is reported as lost."""
        done: set[str] = set()

        async def send(address: str) -> None:
            rest = unit.without(frozenset(done))
            if not rest.classifiers:
                return
            async with aclosing(self._peers.cross_validate(address, rest)) as results:
                async for result in results:
                    done.add(result.classifier)
                    await on_result(result)
            if rest.without(frozenset(done)).classifiers:
                raise DataLoss("The trainer ended its answer early.")

        try:
            await self._attempt(TRAINER, 1, send, str(unit))
        except UnitLost as lost:
            rest = unit.without(frozenset(done))
            for half in rest.halves():
                await self.score(half, on_result, on_lost)
            if len(rest.classifiers) == 1:
                await on_lost(rest.classifiers[0], lost.message)

    async def fit(self, unit: FitUnit) -> str:
        """Have a classifier fitted; returns the model's digest."""
        what = f"fitting {unit.extractor} + {unit.classifier}"
        return await self._attempt(TRAINER, 1, lambda address: self._peers.fit(address, unit), what)

    async def compare(self, dataset: str, measure: str, scores: Mapping[Combination, str]) -> ComparisonOutcome:
        """Have all combinations compared."""
        send = lambda address: self._peers.compare(address, dataset, measure, scores)  # noqa: E731
        return await self._attempt(STATS, 1, send, "the comparison")

    async def render_report(self, request: ReportRequest) -> dict[str, str]:
        """Have the report written; returns keys by artefact name."""
        send = lambda address: self._peers.render_report(address, request)  # noqa: E731
        return await self._attempt(STATS, 1, send, "the report")

    async def _attempt(self, role: Role, cores: int, send: Callable[[str], Awaitable[T]], what: str) -> T:
        """Send work to replicas of a role until one answers.

        Raises
        ------
        UnitLost
            When `ATTEMPTS` replicas were lost over it while the store itself is there.
        RoleUnavailable
            When no replica can be started.
        StoreFull, StoreDenied, StoreUnavailable
            When the store is what is wrong.
        """
        attempt = 0
        while attempt < ATTEMPTS:
            try:
                async with self._fleet.pool.lease(role) as replica, self._budget.take(cores):
                    if replica not in self._fleet.pool.ready(role):
                        continue  # lost over another unit, while this one waited for its cores
                    return await send(replica.address)
            except StoreUnavailable:
                raise
            except Unavailable as error:
                attempt += 1
                # If it is the store that is away, more attempts would blame the unit for it.
                await asyncio.to_thread(self._store.stat, keys.FORMAT)
                _log.warning("replica lost", extra={"role": str(role), "unit": what, "reason": error.message})
                await asyncio.sleep(_BACK_OFF_SECONDS * attempt * (0.5 + random.random()))
        raise UnitLost(f"{what}: the process that worked on it ended without an answer {ATTEMPTS} times.")
