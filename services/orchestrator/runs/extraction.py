"""One extractor's features in a run: what is missing is extracted, and a table says where they are."""

from __future__ import annotations

from contextlib import AsyncExitStack, nullcontext
from typing import TYPE_CHECKING

from offshelf import features
from offshelf.errors import DataLoss, EngineMismatch, InvalidDataset, InvalidInput, NotFound, OffshelfError
from offshelf.features import ImageOutcome, SegmentRow
from offshelf.images import ImageStatus
from offshelf.services.orchestrator.concurrency import all_of, both
from offshelf.services.orchestrator.fleet.replicas import RoleUnavailable
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.planning import ExtractionPlanner
from offshelf.services.orchestrator.runs.segment_shelf import SegmentShelf

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from offshelf.datasets import Dataset
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.features import FeatureTable
    from offshelf.services.orchestrator.dispatch.units import ExtractionUnit
    from offshelf.services.orchestrator.fleet.replicas import Role
    from offshelf.services.orchestrator.runs.journal import Journal, Workbench
    from offshelf.services.orchestrator.runs.planning import ExtractionPlan


class Extraction:
    """Has the features of one extractor made.

    Parameters
    ----------
    next_
        Roles that will have work when there are features: they get ready while some are extracted.
    turns
        Entered for as long as replicas are in use: see `Workbench.extraction_turns`.

    Attributes
    ----------
    table
        The feature table, once it is there.
    skipped
        What became of the images that have no features, by digest.
    unread
        Reasons, by digest, of images that had gone or changed when their turn came.
    """

    def __init__(
        self,
        extractor: str,
        dataset: Dataset,
        bench: Workbench,
        journal: Journal,
        *,
        next_: tuple[Role, ...] = (),
        turns: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        self.extractor = extractor
        self.table: FeatureTable | None = None
        self.skipped: dict[str, ImageOutcome] = {}
        self.unread: dict[str, str] = {}
        self._dataset = dataset
        self._bench = bench
        self._journal = journal
        self._next = next_
        self._turns = turns or nullcontext()
        self._spec = journal.status.spec
        self._progress = journal.status.progress
        self._fingerprint = ""
        self._dimension = 0
        """Length of the vectors; of a network of a user's own, 0 until it has told."""

    async def run(self) -> FeatureTable | None:
        """Have features made; None for an extractor that cannot be had, which is left out with the reason."""
        try:
            self.table = await self._make(await self._find())
        except InvalidDataset:
            raise
        except (RoleUnavailable, InvalidInput, EngineMismatch) as error:
            await self._journal.append(runlog.LEFT_OUT, reason=self._naming(error.message))
        return self.table

    def example(self) -> str:
        """Name one skipped image and why: a run that fails leaves no list of them."""
        reasons = {digest: outcome.reason for digest, outcome in self.skipped.items()} | self.unread
        skipped = (item for item in self._dataset.items if item.digest in reasons)
        return next((f" For example {item.path}: {reasons[item.digest]}." for item in skipped), "")

    def _naming(self, reason: str) -> str:
        """Say whom a reason is about, which may be the replicas of several extractors, or a file."""
        return reason if self.extractor in reason else f"{self.extractor} is left out: {reason}"

    async def _find(self) -> ExtractorSpec:
        """Look the extractor up, which may be a network that has gone since the run was asked for."""
        try:
            spec = await self._journal.with_store(self._bench.catalog.find, self.extractor)
            self._fingerprint = await self._journal.with_store(self._bench.catalog.fingerprint, self.extractor)
        except (NotFound, DataLoss) as error:
            raise RoleUnavailable(error.message) from error
        return spec

    async def _make(self, spec: ExtractorSpec) -> FeatureTable:
        bench, dataset = self._bench, self._dataset
        self._dimension = spec.dimension
        shelf = await self._journal.with_store(SegmentShelf, bench.store, self._fingerprint, bench.max_pixels)
        planner = ExtractionPlanner(
            shelf,
            spec=spec,
            fingerprint=self._fingerprint,
            dataset=dataset,
            source=self._spec.source,
            unit_seconds=bench.unit_seconds,
        )
        draft = await self._journal.with_store(planner.draft)
        # Work begins at once; what is believed to be there is read meanwhile, before a table names it.
        made, plan = await both(self._extract(draft.units, shelf), self._verify(planner))
        if plan.table is not None:
            return plan.table
        made |= await self._extract([unit for unit in plan.units if unit not in made], shelf)
        segments = tuple(
            segment for part in plan.parts for segment in ([part] if isinstance(part, str) else made[part])
        )
        if segments and not self._dimension:
            self._dimension = await self._journal.with_store(features.dimension_of, bench.store, segments[0])
        table = features.FeatureTable(
            dataset=dataset.digest,
            fingerprint=self._fingerprint,
            dimension=self._dimension,
            segments=segments,
        )
        await self._journal.with_store(features.write_table, bench.store, table)
        await self._journal.append(runlog.TABLE_WRITTEN, extractor=self.extractor, table=table.digest)
        return table

    async def _verify(self, planner: ExtractionPlanner) -> ExtractionPlan:
        """Read what is believed to be there; only now it counts as found."""
        plan = await self._journal.with_store(planner.plan)
        found, missing = len(plan.outcomes), sum(len(unit.images) for unit in plan.units)
        self._progress.images_reused += found
        self._bench.figures.images(self.extractor, "reused", found)
        self._bench.figures.cache("features", hits=found, misses=missing)
        self._note(plan.outcomes)
        return plan

    async def _extract(self, units: Sequence[ExtractionUnit], shelf: SegmentShelf) -> dict[ExtractionUnit, list[str]]:
        """Have units extracted; returns the segments of each."""
        if not units:
            return {}
        await self._have_weights()
        missing = sum(len(unit.images) for unit in units)
        counted = 0

        def count(images: int) -> None:
            nonlocal counted
            counted += images
            self._progress.images_extracted += images
            self._progress.images_remaining -= images
            self._progress.images_rate.count(images)
            self._journal.status.touch()

        self._progress.images_remaining += missing
        self._journal.say("extracting features")
        fleet = self._bench.fleet
        try:
            async with AsyncExitStack() as held:
                await held.enter_async_context(self._turns)
                own = fleet.role_of(self.extractor)
                await held.enter_async_context(self._journal.hold(fleet, own, units=len(units)))
                for role in self._next:
                    await held.enter_async_context(self._journal.hold(fleet, role, units=1))
                made = await all_of(self._extract_unit(unit, shelf, count) for unit in units)
        finally:
            self._progress.images_remaining -= missing - counted
        return dict(zip(units, made, strict=True))

    async def _have_weights(self) -> None:
        """See that the extractor can be used, and download its weights if they are missing and it was named.

        Raises
        ------
        RoleUnavailable
            If it cannot be used, with the reason.
        """
        catalog, extractor = self._bench.catalog, self.extractor
        if not await self._journal.with_store(catalog.availability, extractor):
            return
        if reason := await self._journal.with_store(self._spec.hindrance, extractor, catalog):
            raise RoleUnavailable(reason)
        if self._bench.downloads is None:
            return  # replicas elsewhere have folders of their own, and fill them themselves
        with self._journal.status.notices.topic() as tell:
            try:
                await self._bench.downloads.fetch(await self._journal.with_store(catalog.find, extractor), tell)
            except OffshelfError as error:
                raise RoleUnavailable(f"{extractor} needs its weights. {error.message}") from error

    async def _extract_unit(
        self, unit: ExtractionUnit, shelf: SegmentShelf, count: Callable[[int], None], *, again: bool = False
    ) -> list[str]:
        with self._journal.status.notices.topic() as tell:
            outcomes = await self._bench.dispatcher.extract(unit, count, tell)
        segments = [outcome.key for outcome in outcomes if outcome.key]
        self._dimension = max([self._dimension, *(outcome.dimension for outcome in outcomes)])
        if deadly := sorted(digest for outcome in outcomes for digest in outcome.deadly):
            segments += await self._journal.with_store(self._put_on_record, deadly)
        try:
            for segment in segments:
                self._note(await self._journal.with_store(shelf.read, segment))
        except DataLoss:
            if again:
                raise
            return await self._extract_unit(unit, shelf, lambda _: None, again=True)  # its images have been counted
        for outcome in outcomes:
            self.unread.update({image.image: image.reason for image in outcome.unread})
            self._progress.images_extracted -= len(outcome.unread)  # dealt with, but there was nothing to extract
            figures = self._bench.figures
            figures.images(self.extractor, "extracted", outcome.extracted)
            figures.images(self.extractor, "quarantined", outcome.quarantined + len(outcome.deadly))
            figures.images(self.extractor, "unread", len(outcome.unread))
        return segments

    def _put_on_record(self, images: list[str]) -> list[str]:
        """Write a segment for images that ended the extractor's process, so that no later run tries them again."""
        reason = "extracting its features ended the extractor's process"
        if not self._dimension:
            # A segment cannot be written before it is known how long its vectors would be.
            self.unread.update(dict.fromkeys(images, reason))
            return []
        segment = features.write_segment(
            self._bench.store,
            self._fingerprint,
            images,
            [SegmentRow(digest, ImageStatus.CRASHED, reason, None) for digest in images],
            dimension=self._dimension,
            max_pixels=self._bench.max_pixels,
        )
        return [segment]

    def _note(self, outcomes: Mapping[str, ImageOutcome]) -> None:
        self.skipped.update(
            {digest: outcome for digest, outcome in outcomes.items() if outcome.status is not ImageStatus.OK}
        )
        self._progress.images_skipped = max(self._progress.images_skipped, len(self.skipped))
