"""One run from its specification to its result."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING

from offshelf import datasets, models
from offshelf.datasets.names import IMAGE_SUFFIXES
from offshelf.errors import OffshelfError, RunFailed
from offshelf.runs import Combination
from offshelf.services.orchestrator.concurrency import all_of
from offshelf.services.orchestrator.dispatch.dispatcher import STATS, TRAINER
from offshelf.services.orchestrator.dispatch.units import FitUnit, ReportRequest
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.artifacts import RunFindings, skipped_images, write_run_artifacts
from offshelf.services.orchestrator.runs.evaluation import Evaluation
from offshelf.services.orchestrator.runs.status import RunResult
from offshelf.store import keys

if TYPE_CHECKING:
    from offshelf.datasets import Dataset, Unread
    from offshelf.services.orchestrator.dispatch.units import ComparisonOutcome
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
        except OffshelfError as error:
            await self._fail(error.message)
        except Exception:  # noqa: BLE001  (a defect ends this run, not the server)
            _log.exception("run failed unexpectedly", extra={"run_id": self._status.run_id})
            await self._fail(f"Internal error; the orchestrator's log has more under run {self._status.run_id}.")

    async def _fail(self, reason: str) -> None:
        try:
            await self._journal.append(runlog.FAILED, error=reason)
        except Exception:  # noqa: BLE001  (watchers must hear it)
            # The store may be the very reason (full, away): whoever watches still has to hear it.
            _log.exception("the failure of a run could not be written", extra={"run_id": self._status.run_id})
            self._status.fail(reason)

    async def _carry_out(self) -> RunResult:
        dataset, unread = await self._read_dataset()
        async with self._bench.fleet.hold(STATS):  # from now on, so that it is ready when it is needed
            scores = await self._evaluate(dataset)
            self._journal.say("comparing")
            comparison = await self._bench.dispatcher.compare(dataset.digest, self._spec.measure, scores)
            await self._journal.append(runlog.COMPARED, comparison=comparison.comparison)
            fitted = self._spec.choice or comparison.scores[0].combination
            if fitted not in scores:
                raise RunFailed(" ".join([f"{fitted} could not be scored.", *self._status.left_out]))
            model = await self._fit(dataset, fitted)
            self._journal.say("writing the report")
            return await self._report(dataset, unread, comparison, fitted, model)

    async def _evaluate(self, dataset: Dataset) -> dict[Combination, str]:
        """Have every combination scored; returns what names the scores of each that could be."""
        spec = self._spec
        self._status.progress.combinations_total = len(spec.extractors) * len(spec.classifiers)
        self._evaluations = {name: Evaluation(name, dataset, self._bench, self._journal) for name in spec.extractors}
        await all_of(evaluation.run() for evaluation in self._evaluations.values())
        scores = {
            Combination(name, classifier): digest
            for name, evaluation in self._evaluations.items()
            for classifier, digest in evaluation.scores.items()
        }
        if not scores:
            raise RunFailed(" ".join(["Nothing could be scored.", *self._status.left_out]))
        return scores

    async def _read_dataset(self) -> tuple[Dataset, list[Unread]]:
        self._journal.say("reading the images")
        store, progress = self._bench.store, self._status.progress
        source = await asyncio.to_thread(datasets.open_source, self._spec.source, roots=self._bench.roots, store=store)

        def on_progress(done: int, total: int) -> None:
            # From another thread: plain assignments, which watchers see when they next look.
            progress.images_scanned, progress.images_total = done, total

        dataset, unread = await asyncio.to_thread(datasets.scan, source, on_progress=on_progress, stop=self._stop)
        if source.ignored:
            await self._journal.append(runlog.LEFT_OUT, reason=_ignored(source.ignored))
        datasets.check_classes(dataset.items, folds=2)  # what could be read may be less than what was listed
        await asyncio.to_thread(datasets.write_dataset, store, dataset)
        await self._journal.append(runlog.DATASET_READ, dataset=dataset.digest, images=len(dataset.items))
        return dataset, unread

    async def _fit(self, dataset: Dataset, fitted: Combination) -> str:
        self._journal.say(f"fitting {fitted}")
        table = self._evaluations[fitted.extractor].table
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
        if await asyncio.to_thread(self._bench.store.stat, keys.model_card(model)) is None:
            async with self._bench.fleet.hold(TRAINER):
                model = await self._bench.dispatcher.fit(unit)
        await self._journal.append(runlog.FITTED, model=model, extractor=fitted.extractor, classifier=fitted.classifier)
        return model

    async def _report(
        self, dataset: Dataset, unread: list[Unread], comparison: ComparisonOutcome, fitted: Combination, model: str
    ) -> RunResult:
        evaluated = {name: one for name, one in self._evaluations.items() if one.table is not None}
        skipped = skipped_images(dataset, unread, evaluated)
        # Until now this counted contents; what was not used are files, and several may have the same content.
        self._status.progress.images_skipped = len({image.path for image in skipped})
        rendered = await self._bench.dispatcher.render_report(
            ReportRequest(
                comparison=comparison.comparison,
                title=datasets.display_name(self._spec.source),
                skipped=skipped,
                left_out=tuple(self._status.left_out),
            )
        )
        findings = RunFindings(
            dataset=dataset,
            comparison=comparison,
            fitted=fitted,
            model=model,
            skipped=skipped,
            fingerprints={name: one.table.fingerprint for name, one in evaluated.items() if one.table},
        )
        own = await asyncio.to_thread(write_run_artifacts, self._bench.store, self._status, findings)
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


def _ignored(files: int) -> str:
    what = "One file" if files == 1 else f"{files} files"
    known = ", ".join(sorted(IMAGE_SUFFIXES))
    return f"{what} of the dataset not looked at: no image in a class folder by name ({known})."
