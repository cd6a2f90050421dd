"""One extractor's part of a run: its features, then the scores of every classifier on them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from offshelf import scores
from offshelf.errors import InvalidDataset
from offshelf.runs import Combination
from offshelf.services.orchestrator.concurrency import all_of
from offshelf.services.orchestrator.dispatch.dispatcher import TRAINER
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.board import ScoreBoard
from offshelf.services.orchestrator.runs.extraction import Extraction
from offshelf.services.orchestrator.runs.planning import plan_scoring

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from offshelf.datasets import Dataset
    from offshelf.features import FeatureTable
    from offshelf.services.orchestrator.dispatch.units import FoldResult, ScoringUnit
    from offshelf.services.orchestrator.runs.journal import Journal, Workbench


class Evaluation:
    """What one extractor contributes to a run.

    Parameters
    ----------
    turns
        As for `Extraction`.

    Attributes
    ----------
    features
        The features.
    scores
        What names the scores of each classifier that has all its folds.
    """

    def __init__(
        self,
        extractor: str,
        dataset: Dataset,
        bench: Workbench,
        journal: Journal,
        *,
        turns: AbstractAsyncContextManager[object] | None = None,
    ) -> None:
        self.extractor = extractor
        # What is extracted will be scored: a trainer gets ready meanwhile, and more once there is work for them.
        self.features = Extraction(extractor, dataset, bench, journal, next_=(TRAINER,), turns=turns)
        self.scores: dict[str, str] = {}
        self._dataset = dataset
        self._bench = bench
        self._journal = journal
        self._spec = journal.status.spec
        self._progress = journal.status.progress

    async def run(self) -> None:
        """Have features and scores made; an extractor that cannot be had is left out of the run, with the reason."""
        table = await self.features.run()
        if table is None:
            return
        try:
            await self._score(table)  # without a trainer there is no run
        except InvalidDataset as error:
            raise InvalidDataset(f"{error.message}{self.features.example()}") from error

    async def _score(self, table: FeatureTable) -> None:
        spec, progress = self._spec, self._progress
        plan = await self._journal.with_store(
            plan_scoring,
            self._bench.store,
            dataset=self._dataset.digest,
            table=table,
            plan=scores.ValidationPlan(spec.folds, spec.seed),
            classifiers=spec.classifiers,
            measure=spec.measure,
        )
        board = ScoreBoard(plan, measure=spec.measure, folds=spec.folds)
        missing = len(spec.classifiers) * spec.folds - board.folds_done
        progress.scores_reused += board.folds_done
        progress.scores_remaining += missing
        self._bench.figures.cache("scores", hits=board.folds_done, misses=missing)
        for classifier in spec.classifiers:
            if board.is_complete(classifier):
                await self._finish(classifier, board)

        async def on_result(result: FoldResult) -> None:
            board.add(result)
            progress.scores_computed += 1
            progress.scores_remaining -= 1
            progress.scores_rate.count()
            if board.is_complete(result.classifier):
                await self._finish(result.classifier, board)
            self._journal.status.touch()

        async def on_lost(classifier: str, reason: str) -> None:
            progress.scores_remaining -= 1
            if board.drop(classifier):
                reason = f"{Combination(self.extractor, classifier)} is left out: {reason}"
                await self._journal.append(runlog.LEFT_OUT, reason=reason)

        if plan.units:
            self._journal.say("scoring classifiers")
            async with self._journal.hold(self._bench.fleet, TRAINER, units=len(plan.units)):
                await all_of(self._score_unit(unit, on_result, on_lost) for unit in plan.units)

    async def _score_unit(
        self,
        unit: ScoringUnit,
        on_result: Callable[[FoldResult], Awaitable[None]],
        on_lost: Callable[[str, str], Awaitable[None]],
    ) -> None:
        with self._journal.status.notices.topic() as tell:
            await self._bench.dispatcher.score(unit, on_result, on_lost, tell)

    async def _finish(self, classifier: str, board: ScoreBoard) -> None:
        """Write the manifest over all folds, unless it is there, and let the watchers see the score."""
        digest = board.digest(classifier)
        if not board.is_written(classifier):
            await self._journal.with_store(
                scores.write_manifest, self._bench.store, digest, classes=self._dataset.classes, folds=self._spec.folds
            )
        self.scores[classifier] = digest
        self._progress.combinations_done += 1
        score = board.summary(Combination(self.extractor, classifier))
        if self._progress.best is None or score.mean > self._progress.best.mean:
            self._progress.best = score
