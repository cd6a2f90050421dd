"""Sends units to replicas: again when a replica is lost, in halves when a unit seems to be what kills them."""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from contextlib import aclosing
from typing import TYPE_CHECKING, Protocol, TypeVar

from offshelf.errors import DataLoss, EngineUnavailable, StoreUnavailable, Unavailable
from offshelf.services.orchestrator.dispatch.failures import ResultRefused, UnitLost, Unreached
from offshelf.services.orchestrator.dispatch.trial import Outages, Trial
from offshelf.services.orchestrator.dispatch.units import ExtractionOutcome
from offshelf.services.orchestrator.figures import Figures, NoFigures
from offshelf.services.orchestrator.fleet.replicas import Replica, Role, RoleUnavailable, keep_quiet

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

DEADLY_IN_A_ROW = 3
"""So many images that each cost every replica, and none that did not: that is the extractor, not the images."""

TRAINER = Role("trainer")
STATS = Role("stats")


class Peers(Protocol):
    """The other services."""

    async def extract(
        self, replica: Replica, unit: ExtractionUnit, on_progress: Callable[[int], None]
    ) -> ExtractionOutcome:
        """Have one unit extracted."""
        ...

    def cross_validate(self, replica: Replica, unit: ScoringUnit) -> AsyncGenerator[FoldResult, None]:
        """Have classifiers evaluated on one fold."""
        ...

    async def fit(self, replica: Replica, unit: FitUnit) -> str:
        """Have a classifier fitted."""
        ...

    async def compare(
        self, replica: Replica, dataset: str, measure: str, scores: Mapping[Combination, str]
    ) -> ComparisonOutcome:
        """Have all combinations compared."""
        ...

    async def render_report(self, replica: Replica, request: ReportRequest) -> dict[str, str]:
        """Have the report written."""
        ...


class Dispatcher:
    """Knows how to have a unit done, whatever happens to the replicas on the way."""

    def __init__(
        self,
        *,
        fleet: Fleet,
        peers: Peers,
        budget: CoreBudget,
        store: ObjectStore,
        cores: int,
        figures: Figures | None = None,
    ) -> None:
        self._fleet = fleet
        self._peers = peers
        self._budget = budget
        self._store = store
        self._cores = cores
        self._figures = figures or NoFigures()
        self._outages: defaultdict[Role, Outages] = defaultdict(Outages)

    async def extract(
        self,
        unit: ExtractionUnit,
        on_images: Callable[[int], None],
        tell: Callable[[str], None] = keep_quiet,
        *,
        suspect: bool = False,
    ) -> list[ExtractionOutcome]:
        """Have a unit extracted, in as many pieces as it takes.

        A unit that costs every replica is cut in two until the one image is found that does it.

        Parameters
        ----------
        on_images
            Counts images as they are dealt with.
        tell
            Called with a line that says what is in the way, and with "" when it no longer is.
        suspect
            Whether the unit may have cost a replica already.
        """
        counted = 0
        role = self._fleet.role_of(unit.extractor)

        def on_progress(done: int) -> None:
            nonlocal counted
            if done > counted:
                self._outages[role].are_over()
                on_images(done - counted)
                counted = done

        async def send(replica: Replica) -> ExtractionOutcome:
            outcome = await self._peers.extract(replica, unit, on_progress)
            on_progress(len(unit.images))
            return outcome

        try:
            return [await self._attempt(role, self._cores, send, str(unit), tell, suspect=suspect)]
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

            outcomes = [outcome for half in halves for outcome in await self.extract(half, beyond, tell, suspect=True)]
            if len(outcomes) >= DEADLY_IN_A_ROW and all(outcome.deadly for outcome in outcomes):
                raise RoleUnavailable(f"{unit.extractor}: its process ends over every image.") from None
            return outcomes

    async def score(
        self,
        unit: ScoringUnit,
        on_result: Callable[[FoldResult], Awaitable[None]],
        on_lost: Callable[[str, str], Awaitable[None]],
        tell: Callable[[str], None] = keep_quiet,
        *,
        suspect: bool = False,
    ) -> None:
        """Have a fold scored. Results arrive one by one; a classifier that costs every replica is reported as lost."""
        done: set[str] = set()

        async def send(replica: Replica) -> None:
            rest = unit.without(frozenset(done))
            if not rest.classifiers:
                return
            async with aclosing(self._peers.cross_validate(replica, rest)) as results:
                async for result in results:
                    self._outages[TRAINER].are_over()
                    done.add(result.classifier)
                    try:
                        await on_result(result)
                    except Unavailable as error:  # ours, and no reason to send the unit again
                        raise ResultRefused(error) from error
            if rest.without(frozenset(done)).classifiers:
                raise DataLoss("The trainer ended its answer early.")

        try:
            await self._attempt(TRAINER, 1, send, str(unit), tell, suspect=suspect)
        except ResultRefused as refused:
            raise refused.error from None
        except UnitLost as lost:
            rest = unit.without(frozenset(done))
            for half in rest.halves():
                await self.score(half, on_result, on_lost, tell, suspect=True)
            if len(rest.classifiers) == 1:
                await on_lost(rest.classifiers[0], lost.message)

    async def fit(self, unit: FitUnit, tell: Callable[[str], None] = keep_quiet) -> str:
        """Have a classifier fitted; returns the model's digest."""
        what = f"fitting {unit.extractor} + {unit.classifier}"
        return await self._attempt(TRAINER, 1, lambda replica: self._peers.fit(replica, unit), what, tell)

    async def compare(
        self,
        dataset: str,
        measure: str,
        scores: Mapping[Combination, str],
        tell: Callable[[str], None] = keep_quiet,
    ) -> ComparisonOutcome:
        """Have all combinations compared."""
        send = lambda replica: self._peers.compare(replica, dataset, measure, scores)  # noqa: E731
        return await self._attempt(STATS, 1, send, "the comparison", tell)

    async def render_report(self, request: ReportRequest, tell: Callable[[str], None] = keep_quiet) -> dict[str, str]:
        """Have the report written; returns keys by artefact name."""
        send = lambda replica: self._peers.render_report(replica, request)  # noqa: E731
        return await self._attempt(STATS, 1, send, "the report", tell)

    async def _attempt(
        self,
        role: Role,
        cores: int,
        send: Callable[[Replica], Awaitable[T]],
        what: str,
        tell: Callable[[str], None],
        *,
        suspect: bool = False,
    ) -> T:
        """Send work to replicas of a role until one answers; `Trial` says what may go wrong meanwhile.

        Raises
        ------
        UnitLost
            When it has cost too many replicas.
        RoleUnavailable
            When no replica can be started or reached, or each is taken away; or its remote engine is away for minutes.
        StoreFull, StoreDenied, StoreUnavailable
            When the store is what is wrong; the last only after some minutes.
        """
        outages = self._outages[role]
        trial = Trial(role, what, fleet=self._fleet, store=self._store, outages=outages, tell=tell, suspect=suspect)
        try:
            while True:
                replica: Replica | None = None
                try:
                    async with self._fleet.pool.lease(role, alone=trial.suspect) as replica, self._budget.take(cores):
                        if replica in self._fleet.pool.ready(role):
                            return await self._send(replica, send)
                    # Else it was lost over another unit, while this one waited for its cores.
                except StoreUnavailable as error:
                    self._figures.unit_retried(str(role), "store")
                    await trial.store_away(error, at_start=replica is None)
                except EngineUnavailable as error:
                    self._figures.unit_retried(str(role), "engine")
                    await trial.engine_away(error, at_start=replica is None)
                except Unavailable as error:
                    assert replica is not None  # noqa: S101  (leases raise nothing of this kind)
                    if isinstance(error, Unreached):
                        self._figures.unit_retried(str(role), "unreached")
                        trial.unreached(error, replica)
                    else:
                        self._figures.unit_retried(str(role), "lost")
                        await trial.lost(error, replica)
        finally:
            trial.over()

    async def _send(self, replica: Replica, send: Callable[[Replica], Awaitable[T]]) -> T:
        began = time.monotonic()
        outcome = "failed"
        try:
            result = await send(replica)
            outcome = "done"
            self._outages[replica.role].are_over()
        except StoreUnavailable:
            outcome = "store"
            raise
        except EngineUnavailable:
            outcome = "engine"
            raise
        except Unavailable as error:
            outcome = "unreached" if isinstance(error, Unreached) else "lost"
            raise
        finally:
            self._figures.unit_ended(str(replica.role), outcome, time.monotonic() - began)
        return result
