"""One run from its specification to its result."""

from __future__ import annotations

import asyncio
import logging
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from offshelf import models
from offshelf.errors import OffshelfError, RunFailed, StoreUnavailable
from offshelf.runs import Combination, RunGoal
from offshelf.services.orchestrator.concurrency import all_of
from offshelf.services.orchestrator.dispatch.dispatcher import STATS, TRAINER
from offshelf.services.orchestrator.dispatch.units import FitUnit, ReportRequest
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.artifacts import RunFindings, Selection, skipped_images, write_run_artifacts
from offshelf.services.orchestrator.runs.evaluation import Evaluation
from offshelf.services.orchestrator.runs.feature_file import FeatureFile
from offshelf.services.orchestrator.runs.inputs import read_inputs, title_of
from offshelf.services.orchestrator.runs.status import RunResult
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from offshelf.datasets import Dataset
    from offshelf.services.orchestrator.dispatch.units import ComparisonOutcome
    from offshelf.services.orchestrator.runs.inputs import Inputs
    from offshelf.services.orchestrator.runs.journal import Journal, Workbench

_log = logging.getLogger(__name__)


class Execution:
    """Carries one run out. What is already done it finds in the store, so it may begin anywhere."""

    def __init__(self, bench: Workbench, journal: Journal) -> None:
        self._bench = bench
        self._journal = journal
        self._status = journal.status
        self._spec = journal.status.spec
        self._stop = threading.Event()
        self._evaluations: dict[str, Evaluation] = {}

    async def run(self) -> None:
        """Carry the run out and write how it ended. Cancelling the task stops it; the canceller writes why."""
        try:
            result = await self._carry_out()
            await self._journal.append(runlog.SUCCEEDED, result=result.to_json())
        except asyncio.CancelledError:
            self._stop.set()
            raise
        except StoreUnavailable as error:
            await self._fail(error.message, wait=False)  # it was waited for long enough
        except OffshelfError as error:
            await self._fail(error.message)
        except Exception:  # noqa: BLE001  (a defect ends this run, not the server)
            _log.exception("run failed unexpectedly", extra={"run_id": self._status.run_id})
            await self._fail(f"Internal error; the orchestrator's log has more under run {self._status.run_id}.")

    async def _fail(self, reason: str, *, wait: bool = True) -> None:
        try:
            write = self._journal.append if wait else self._journal.append_at_once
            await write(runlog.FAILED, error=reason)
        except Exception:  # noqa: BLE001  (watchers must hear it)
            # The store may be the very reason (full, away): whoever watches still has to hear it. The log gets it as
            # soon as the store takes it (`endings.py`).
            _log.exception("the failure of a run could not be written", extra={"run_id": self._status.run_id})
            self._status.fail(reason)

    async def _carry_out(self) -> RunResult:
        inputs = await read_inputs(self._bench, self._journal, self._stop)
        dataset = inputs.dataset
        if self._spec.goal is RunGoal.FEATURES:
            return await FeatureFile(inputs, self._bench, self._journal).make()
        # From now on, so that it is ready when it is needed.
        async with self._journal.hold(self._bench.fleet, STATS, units=1):
            scores = await self._evaluate(dataset)
            self._journal.say("comparing")
            async with self._stats() as tell:
                comparison = await self._bench.dispatcher.compare(dataset.digest, self._spec.measure, scores, tell)
            await self._journal.append(runlog.COMPARED, comparison=comparison.comparison)
            fitted = self._spec.choice or comparison.scores[0].combination
            if fitted not in scores:
                raise RunFailed(" ".join([f"{fitted} could not be scored.", *self._status.left_out]))
            model = await self._fit(dataset, fitted)
            self._journal.say("writing the report")
            return await self._report(inputs, comparison, fitted, model)

    @asynccontextmanager
    async def _stats(self) -> AsyncIterator[Callable[[str], None]]:
        """Ask for stats anew: while nobody had work for it, it may have been given up."""
        with self._status.notices.topic() as tell:
            async with self._journal.hold(self._bench.fleet, STATS, units=1):
                yield tell

    async def _evaluate(self, dataset: Dataset) -> dict[Combination, str]:
        """Have every combination scored; returns what names the scores of each that could be."""
        spec = self._spec
        self._status.progress.combinations_total = len(spec.extractors) * len(spec.classifiers)
        turns = self._bench.extraction_turns()
        self._evaluations = {
            name: Evaluation(name, dataset, self._bench, self._journal, turns=turns) for name in spec.extractors
        }
        await all_of(evaluation.run() for evaluation in self._evaluations.values())
        scores = {
            Combination(name, classifier): digest
            for name, evaluation in self._evaluations.items()
            for classifier, digest in evaluation.scores.items()
        }
        if not scores:
            raise RunFailed(" ".join(["Nothing could be scored.", *self._status.left_out]))
        return scores

    async def _fit(self, dataset: Dataset, fitted: Combination) -> str:
        self._journal.say(f"fitting {fitted}")
        table = self._evaluations[fitted.extractor].features.table
        assert table is not None  # noqa: S101  (it has scores, so it has a table)
        unit = FitUnit(
            dataset=dataset.digest,
            table=table.digest,
            fingerprint=table.fingerprint,
            extractor=fitted.extractor,
            classifier=fitted.classifier,
            measure=self._spec.measure,
            seed=self._spec.seed,
        )
        model = models.model_digest(
            unit.dataset, unit.table, unit.fingerprint, unit.classifier, unit.measure, unit.seed
        )
        known = await self._journal.with_store(self._bench.store.stat, keys.model_card(model)) is not None
        self._bench.figures.cache("model", hits=int(known), misses=int(not known))
        if not known:
            with self._status.notices.topic() as tell:
                async with self._journal.hold(self._bench.fleet, TRAINER, units=1):
                    model = await self._bench.dispatcher.fit(unit, tell)
        await self._journal.append(runlog.FITTED, model=model, extractor=fitted.extractor, classifier=fitted.classifier)
        return model

    async def _report(
        self, inputs: Inputs, comparison: ComparisonOutcome, fitted: Combination, model: str
    ) -> RunResult:
        store, dataset = self._bench.store, inputs.dataset
        evaluated = {name: one.features for name, one in self._evaluations.items() if one.features.table is not None}
        skipped = skipped_images(dataset, inputs.unread, evaluated)
        # Until now this counted contents; what was not used are files, and several may have the same content.
        self._status.progress.images_skipped = len({image.path for image in skipped})
        request = ReportRequest(
            comparison=comparison.comparison,
            title=await self._journal.with_store(title_of, store, self._spec.source, dataset.digest),
            skipped=skipped,
            left_out=tuple(self._status.left_out),
        )
        async with self._stats() as tell:
            rendered = await self._bench.dispatcher.render_report(request, tell)
        findings = RunFindings(
            dataset=dataset,
            skipped=skipped,
            fingerprints={name: one.table.fingerprint for name, one in evaluated.items() if one.table},
            selection=Selection(comparison, fitted, model),
        )
        own = await self._journal.with_store(write_run_artifacts, store, self._status, findings)
        return RunResult(
            dataset=dataset.digest,
            classes=dataset.classes,
            scores=comparison.scores,
            verdict=comparison.verdict,
            model=model,
            fitted=fitted,
            artifacts={
                **rendered,
                **own,
                "model/model.json": keys.model_card(model),
                "model/model.skops": keys.model(model),
            },
        )
