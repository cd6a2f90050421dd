"""All runs of an installation: created, taken up, watched, cancelled."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TypeVar

from ulid import ULID

from offshelf import datasets
from offshelf.errors import Conflict, DataLoss, InvalidInput, NotFound, Unavailable
from offshelf.runs import RunState
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.journal import Journal
from offshelf.services.orchestrator.runs.specification import RunSpec, make_spec
from offshelf.services.orchestrator.runs.status import RunStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
    from pathlib import Path

    from offshelf.runs import Combination
    from offshelf.services.orchestrator.catalog import ExtractorCatalog
    from offshelf.services.orchestrator.runs.execution import Execution
    from offshelf.services.orchestrator.runs.runlog import RunLog
    from offshelf.store import ObjectStore

_log = logging.getLogger(__name__)

T = TypeVar("T")

SIGN_OF_LIFE_SECONDS = 2.0
"""How often a watcher hears of a run that does not change."""

LEAST_PAUSE_SECONDS = 0.1
"""Changes that come faster are told together."""


class Orchestrator:
    """The one owner of run state.

    Parameters
    ----------
    execute
        Makes the execution of a run from its journal.
    roots
        Folders that datasets may lie in; None for any.
    take_up
        Whether to go on with every unfinished run at the start (a service), or only when its user asks for the same
        again (embedded, where an old run must not keep the machine from a new one).
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        log: RunLog,
        catalog: ExtractorCatalog,
        execute: Callable[[Journal], Execution],
        roots: tuple[Path, ...] | None,
        take_up: bool,
    ) -> None:
        self._store = store
        self._log = log
        self._catalog = catalog
        self._execute = execute
        self._roots = roots
        self._take_up = take_up
        self._journals: dict[str, Journal] = {}
        """Of every run that has not ended, or has ended since `start`."""
        self._requests: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ids: list[str] = []
        """Of all runs, newest first."""
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._draining = False

    @property
    def catalog(self) -> ExtractorCatalog:
        """The extractors of this installation."""
        return self._catalog

    async def start(self) -> None:
        """Learn of the runs in the store, and take up the unfinished ones if asked to."""
        for run_id in await asyncio.to_thread(self._log.begin):
            try:
                status = await self._load(run_id)
            except DataLoss as error:
                # One damaged run must not keep the server from all others.
                _log.error("run cannot be read", extra={"run_id": run_id, "reason": error.message})
                self._ids.append(run_id)
                continue
            if status is None:
                continue
            self._ids.append(run_id)
            self._requests[status.request_id] = run_id
            if not status.state.ended:
                journal = self._journals[run_id] = Journal(status, self._log)
                if self._take_up:
                    await self._resume(journal)
                else:
                    status.interrupt()

    async def create(
        self,
        *,
        request_id: str,
        dataset: str,
        extractors: Sequence[str],
        classifiers: Sequence[str],
        measure: str,
        folds: int,
        seed: int,
        choice: Combination | None,
    ) -> tuple[RunStatus, bool]:
        """Check what is asked for and start it; returns the run, and whether it is one that was there.

        Raises
        ------
        InvalidInput
            If something in it cannot be used.
        PermissionDenied
            If the dataset lies outside the data roots.
        Unavailable
            If this orchestrator drains.
        """
        spec = make_spec(
            source=await asyncio.to_thread(datasets.source_uri, dataset, roots=self._roots),
            extractors=extractors,
            classifier_names=classifiers,
            measure=measure,
            folds=folds,
            seed=seed,
            choice=choice,
            catalog=self._catalog,
        )
        await asyncio.to_thread(self._check_feasible, spec)
        return await self._change(self._create(request_id, spec))

    async def get(self, run_id: str) -> RunStatus:
        """Find a run.

        Raises
        ------
        NotFound
            If there is none of this id.
        DataLoss
            If it cannot be read.
        """
        if run_id in self._journals:
            return self._journals[run_id].status
        status = await self._load(run_id) if run_id in self._ids else None
        if status is None:
            raise NotFound(f"There is no run {run_id!r}. `offshelf runs` lists all.")
        return status

    async def watch(self, run_id: str) -> AsyncGenerator[RunStatus, None]:
        """Yield a run as it changes, at least every `SIGN_OF_LIFE_SECONDS`, until it has ended.

        Raises
        ------
        Unavailable
            When this orchestrator drains.
        """
        status = await self.get(run_id)
        while True:
            seen = status.version
            at_rest = status.state.ended or (status.state is RunState.INTERRUPTED and run_id not in self._tasks)
            yield status
            if at_rest:
                return
            if self._draining:
                raise Unavailable("This server is stopping; the run goes on when it is back.")
            await status.wait_for_change(seen, SIGN_OF_LIFE_SECONDS)
            await asyncio.sleep(LEAST_PAUSE_SECONDS)

    async def list(self, *, limit: int, before: str) -> tuple[list[RunStatus], str]:
        """Return runs, newest first, and from where to go on; `before` is what the last call returned, or empty.

        A run that cannot be read is left out; `get` says why.
        """
        ids = [run_id for run_id in self._ids if not before or run_id < before]
        found = []
        for run_id in ids[:limit]:
            with suppress(DataLoss):
                found.append(await self.get(run_id))
        return found, ids[limit - 1] if len(ids) > limit else ""

    async def cancel(self, run_id: str) -> RunStatus:
        """Stop a run; what is finished stays in the store.

        Raises
        ------
        Conflict
            If the run has ended otherwise.
        """
        return await self._change(self._cancel(run_id))

    async def artifact(self, run_id: str, name: str) -> str:
        """Return the key of an artefact of a finished run. Raises `NotFound`."""
        status = await self.get(run_id)
        if status.result is None:
            raise NotFound(f"Run {run_id} has no {name}: it is {status.state}.")
        if name not in status.result.artifacts:
            raise NotFound(f"Run {run_id} has no {name!r}; it has {', '.join(sorted(status.result.artifacts))}.")
        return status.result.artifacts[name]

    async def drain(self) -> None:
        """Stop all runs so that the next orchestrator can take them up."""
        self._draining = True
        async with self._changing:  # a run that is being created is stopped too
            running = list(self._tasks)
            stopped = await asyncio.gather(
                *(self._stop(run_id, runlog.INTERRUPTED) for run_id in running), return_exceptions=True
            )
        for run_id, outcome in zip(running, stopped, strict=True):
            if isinstance(outcome, Exception):
                _log.error("the end of a run could not be written", extra={"run_id": run_id}, exc_info=outcome)
        for journal in self._journals.values():
            journal.status.touch()

    async def _change(self, change: Coroutine[Any, Any, T]) -> T:
        """Carry out a change of the runs: one at a time, and to its end, also if its caller leaves meanwhile."""

        async def alone() -> T:
            async with self._changing:
                return await change

        task = asyncio.create_task(alone())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _create(self, request_id: str, spec: RunSpec) -> tuple[RunStatus, bool]:
        if self._draining:
            raise Unavailable("This server is stopping.")
        run_id = self._requests.get(request_id) or self._unfinished(spec)
        if run_id:
            status = await self.get(run_id)
            if not status.history.ended and run_id not in self._tasks:
                await self._resume(self._journals[run_id])
            self._requests[request_id] = run_id
            return status, True
        run_id = str(ULID())
        history = await asyncio.to_thread(self._log.create, run_id, spec.to_json(), request_id=request_id)
        journal = self._journals[run_id] = Journal(RunStatus(spec, history), self._log)
        self._requests[request_id] = run_id
        self._ids.append(run_id)
        self._ids.sort(reverse=True)  # within a millisecond, ids come in any order
        self._start(journal)
        return journal.status, False

    async def _cancel(self, run_id: str) -> RunStatus:
        status = await self.get(run_id)
        if status.state is not RunState.CANCELLED:
            if status.state.ended:
                raise Conflict(f"Run {run_id} has {status.state} already.")
            await self._stop(run_id, runlog.CANCELLED)
        return status

    async def _stop(self, run_id: str, kind: str) -> None:
        """Stop the work on a run and write why, unless it ends by itself meanwhile."""
        task = self._tasks.get(run_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        journal = self._journals[run_id]
        if not journal.status.state.ended:
            try:
                await journal.append(kind)
            except BaseException:
                journal.status.interrupt()  # its watchers must hear that nobody works on it any more
                raise

    async def _resume(self, journal: Journal) -> None:
        await journal.append(runlog.TAKEN_OVER)
        self._start(journal)

    def _start(self, journal: Journal) -> None:
        run_id = journal.status.run_id
        task = asyncio.create_task(self._execute(journal).run(), name=f"run {run_id}")
        self._tasks[run_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run_id, None))

    def _check_feasible(self, spec: RunSpec) -> None:
        """Refuse at once what could only fail later."""
        reasons = [self._catalog.availability(name) for name in spec.extractors]
        if all(reasons):
            raise InvalidInput(" ".join(reasons))
        source = datasets.open_source(spec.source, roots=self._roots, store=self._store)
        datasets.check_classes(source.entries(), spec.folds)

    def _unfinished(self, spec: RunSpec) -> str | None:
        for run_id, journal in self._journals.items():
            # By the log: a run that failed because the store was full, so that this could not be written, goes on.
            if not journal.status.history.ended and journal.status.spec.digest == spec.digest:
                return run_id
        return None

    async def _load(self, run_id: str) -> RunStatus | None:
        history = await asyncio.to_thread(self._log.replay, run_id)
        if not history.events:
            return None  # its creator died between the specification and the first event
        spec = await asyncio.to_thread(self._log.spec, run_id)
        try:
            return RunStatus(RunSpec.from_json(spec), history)
        except (KeyError, TypeError, ValueError) as error:
            raise DataLoss(f"Run {run_id} in the store cannot be read ({error!r}).") from error
