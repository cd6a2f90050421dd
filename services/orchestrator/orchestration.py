"""All runs of an installation: created, taken up, watched, cancelled."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from ulid import ULID

from offshelf import datasets
from offshelf.errors import Conflict, NotFound, Unavailable
from offshelf.services.orchestrator import runlog
from offshelf.services.orchestrator.specification import RunSpec, make_spec
from offshelf.services.orchestrator.status import RunState, RunStatus

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Sequence
    from pathlib import Path

    from offshelf.services.orchestrator.catalog import ExtractorCatalog
    from offshelf.services.orchestrator.execution import Execution
    from offshelf.services.orchestrator.runlog import RunLog
    from offshelf.services.orchestrator.specification import Combination
    from offshelf.store import ObjectStore

_log = logging.getLogger(__name__)

SIGN_OF_LIFE_SECONDS = 2.0
"""How often a watcher hears of a run that does not change."""

LEAST_PAUSE_SECONDS = 0.1
"""Changes that come faster are told together."""


class Orchestrator:
    """The one owner of run state.

    Parameters
    ----------
    execute
        Makes the execution of a run.
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
        execute: Callable[[RunStatus], Execution],
        roots: tuple[Path, ...] | None,
        take_up: bool,
    ) -> None:
        self._store = store
        self._log = log
        self._catalog = catalog
        self._execute = execute
        self._roots = roots
        self._take_up = take_up
        self._statuses: dict[str, RunStatus] = {}
        self._requests: dict[str, str] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._ids: list[str] = []
        self._creating = asyncio.Lock()
        self._draining = False

    @property
    def catalog(self) -> ExtractorCatalog:
        """The extractors of this installation."""
        return self._catalog

    async def start(self) -> None:
        """Learn of the runs in the store, and take up the unfinished ones if asked to."""
        self._ids = await asyncio.to_thread(self._log.run_ids)
        for run_id in self._ids:
            status = await self._load(run_id)
            if status is not None and not status.state.ended:
                self._statuses[run_id] = status
                if self._take_up:
                    await self._resume(status)
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
        """Check what is asked for and start it; returns the run, and whether it is an unfinished one taken up.

        Raises
        ------
        InvalidInput
            If something in it cannot be used.
        PermissionDenied
            If the dataset lies outside the data roots.
        """
        if self._draining:
            raise Unavailable("This server is stopping.")
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
        await asyncio.to_thread(self._check_dataset, spec)
        async with self._creating:
            if run_id := self._requests.get(request_id):
                return await self.get(run_id), True
            status = self._unfinished(spec)
            if status is not None:
                self._requests[request_id] = status.run_id
                if status.run_id not in self._tasks:
                    await self._resume(status)
                return status, True
            run_id = str(ULID())
            history = await asyncio.to_thread(self._log.create, run_id, spec.to_json(), request_id=request_id)
            status = RunStatus(spec, history)
            self._ids.insert(0, run_id)
            self._statuses[run_id] = status
            self._requests[request_id] = run_id
            self._start(status)
            return status, False

    async def get(self, run_id: str) -> RunStatus:
        """Find a run. Raises `NotFound`."""
        status = self._statuses.get(run_id)
        if status is None and run_id in self._ids:
            status = await self._load(run_id)
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
            at_rest = status.state.ended or (status.state is RunState.INTERRUPTED and run_id not in self._tasks)
            yield status
            if at_rest:
                return
            if self._draining:
                raise Unavailable("This server is stopping; the run goes on when it is back.")
            await status.wait_for_change(SIGN_OF_LIFE_SECONDS)
            await asyncio.sleep(LEAST_PAUSE_SECONDS)

    async def list(self, *, limit: int, before: str) -> tuple[list[RunStatus], str]:
        """Return runs, newest first, and from where to go on; `before` is what the last call returned, or empty."""
        ids = [run_id for run_id in self._ids if not before or run_id < before]
        found = [await self.get(run_id) for run_id in ids[:limit]]
        return found, ids[limit - 1] if len(ids) > limit else ""

    async def cancel(self, run_id: str) -> RunStatus:
        """Stop a run; what is finished stays in the store.

        Raises
        ------
        Conflict
            If the run has ended otherwise.
        """
        status = await self.get(run_id)
        if status.state is RunState.CANCELLED:
            return status
        if status.state.ended:
            raise Conflict(f"Run {run_id} has {status.state} already.")
        await self._stop(run_id)
        if not status.state.ended:  # it may have ended by itself meanwhile
            await self._append(status, runlog.CANCELLED)
        return status

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
        for run_id in list(self._tasks):
            status = self._statuses[run_id]
            await self._stop(run_id)
            if not status.state.ended:
                await self._append(status, runlog.INTERRUPTED)
        for status in self._statuses.values():
            status.touch()

    def _check_dataset(self, spec: RunSpec) -> None:
        source = datasets.open_source(spec.source, roots=self._roots, store=self._store)
        datasets.check_classes(source.entries(), spec.folds)

    def _unfinished(self, spec: RunSpec) -> RunStatus | None:
        for status in self._statuses.values():
            if not status.state.ended and status.spec.digest == spec.digest:
                return status
        return None

    async def _load(self, run_id: str) -> RunStatus | None:
        history = await asyncio.to_thread(self._log.replay, run_id)
        if not history.events:
            return None  # its creator died between the specification and the first event
        return RunStatus(RunSpec.from_json(await asyncio.to_thread(self._log.spec, run_id)), history)

    async def _append(self, status: RunStatus, kind: str) -> None:
        status.apply(await asyncio.to_thread(self._log.append, status.history, kind))

    async def _resume(self, status: RunStatus) -> None:
        await self._append(status, runlog.TAKEN_OVER)
        self._start(status)

    def _start(self, status: RunStatus) -> None:
        run_id = status.run_id
        task = asyncio.create_task(self._execute(status).run(), name=f"run {run_id}")
        self._tasks[run_id] = task
        task.add_done_callback(lambda _: self._tasks.pop(run_id, None))

    async def _stop(self, run_id: str) -> None:
        task = self._tasks.get(run_id)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
