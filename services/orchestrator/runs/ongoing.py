"""The work on runs that is going on in this process: begun, stopped, and ended."""

from __future__ import annotations

import asyncio
import contextvars
import logging
from typing import TYPE_CHECKING

from offshelf.errors import OffshelfError
from offshelf.logs import request_id as current_request_id
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.endings import LateEndings

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.services.orchestrator.figures import Figures
    from offshelf.services.orchestrator.runs.execution import Execution
    from offshelf.services.orchestrator.runs.journal import Journal
    from offshelf.services.orchestrator.runs.roll import Roll

_log = logging.getLogger(__name__)


class OngoingRuns:
    """Knows who works on which run, and for whom. Belongs to one event loop.

    Parameters
    ----------
    roll
        Is told of runs that have ended.
    execute
        Makes the execution of a run from its journal.
    """

    def __init__(self, roll: Roll, execute: Callable[[Journal], Execution], figures: Figures) -> None:
        self._roll = roll
        self._execute = execute
        self._figures = figures
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._charged: dict[str, str] = {}
        """For each run, whose quota it counts for: that of who asked for it last."""
        self._late = LateEndings(self._settle)

    def __contains__(self, run_id: str) -> bool:
        task = self._tasks.get(run_id)
        return task is not None and not task.done()

    def count(self, user: str) -> int:
        """Count the runs that are charged to a user."""
        return list(self._charged.values()).count(user)

    def begin(self, journal: Journal, user: str, *, taken_over: bool = False) -> None:
        """Begin to work on a run for a user; `taken_over`: by this server on its own, which has to be written first."""
        run_id = journal.status.run_id
        context = contextvars.copy_context()
        context.run(current_request_id.set, journal.status.request_id)
        work = self._work(journal, taken_over=taken_over)
        task = asyncio.get_running_loop().create_task(work, name=f"run {run_id}", context=context)
        self._tasks[run_id], self._charged[run_id] = task, user

        def end(_: asyncio.Task[None]) -> None:
            if self._tasks.get(run_id) is task:  # else somebody has begun it anew already
                del self._tasks[run_id], self._charged[run_id]
            self._settle(journal)
            if journal.owes_failure:
                self._late.add(journal)

        task.add_done_callback(end)

    async def stop(self, run_id: str, kind: str) -> None:
        """Stop the work on a run and write why, unless it ends by itself meanwhile."""
        journal, task = self._roll.journal(run_id), self._tasks.get(run_id)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        if journal is None or journal.status.state.ended:
            return
        try:
            await journal.append_at_once(kind)
        except BaseException:
            journal.status.interrupt()  # its watchers must hear that nobody works on it any more
            raise
        self._settle(journal)

    async def stop_all(self) -> None:
        """Stop all runs so that the next orchestrator can take them up."""
        running = list(self._tasks)
        stops = (self.stop(run_id, runlog.INTERRUPTED) for run_id in running)
        outcomes = await asyncio.gather(*stops, self._late.close(), return_exceptions=True)
        for run_id, outcome in zip([*running, "late endings"], outcomes, strict=True):
            if isinstance(outcome, Exception):
                _log.error("the end of a run could not be written", extra={"run_id": run_id}, exc_info=outcome)

    async def abandon(self) -> None:
        """Leave all work as it is, as when this process is killed: nothing more is begun, nor written."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._late.abandon()

    async def _work(self, journal: Journal, *, taken_over: bool) -> None:
        if taken_over:
            try:
                await journal.append(runlog.TAKEN_OVER, asked=False)
            except OffshelfError as error:
                journal.status.fail(error.message)
                return
        await self._execute(journal).run()

    def _settle(self, journal: Journal) -> None:
        if self._roll.settle(journal):
            self._figures.run_ended(str(journal.status.state))
