"""The list of all runs: those that have not ended in memory, with their journals; the others when somebody asks."""

from __future__ import annotations

import asyncio
import bisect
import logging
from typing import TYPE_CHECKING, NamedTuple

from offshelf.errors import DataLoss, NotFound
from offshelf.services.orchestrator.runs.archive import Archive, status_of
from offshelf.services.orchestrator.runs.journal import Journal
from offshelf.store.objects import is_key
from offshelf.store.reading import read_each

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offshelf.services.orchestrator.runs.runlog import History, RunLog
    from offshelf.services.orchestrator.runs.specification import RunSpec
    from offshelf.services.orchestrator.runs.status import RunStatus

_log = logging.getLogger(__name__)


class RunPage(NamedTuple):
    """Some of the runs."""

    runs: list[RunStatus]
    """Newest first."""
    next: str
    """From where to go on; empty after the last."""
    trouble: str
    """Why runs that have ended are not among them, if the store lets none be read."""


class Roll:
    """Knows every run of a store. Belongs to one event loop."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._archive = Archive(log)
        self._journals: dict[str, Journal] = {}
        """Of every run that has not ended."""
        self._ids: list[str] = []
        """Of all runs, oldest first."""

    async def read(self) -> list[Journal]:
        """Begin this orchestrator's epoch and learn of the runs in the store; returns those that have not ended."""
        known = await asyncio.to_thread(self._log.begin)
        self._archive.know(known.ended)
        open_ids = [run_id for run_id in known.ids if run_id not in known.ended]
        histories = dict(zip(open_ids, await asyncio.to_thread(read_each, self._replay, open_ids), strict=True))
        for run_id in known.ids:
            history = histories.get(run_id)
            if history is not None and not history.events:
                continue  # its creator died between the specification and the first event
            self._ids.append(run_id)
            if history is not None:
                await self._learn(history)
        self._ids.reverse()
        return list(self._journals.values())

    def add(self, status: RunStatus) -> Journal:
        """Take in a new run."""
        journal = self._journals[status.run_id] = Journal(status, self._log)
        bisect.insort(self._ids, status.run_id)  # within a millisecond, ids come in any order
        return journal

    def settle(self, journal: Journal) -> bool:
        """Move a run out of memory if it has ended; tells whether this is news."""
        status = journal.status
        if not status.history.ended or self._journals.pop(status.run_id, None) is None:
            return False
        self._archive.add(status)
        return True

    def __contains__(self, run_id: str) -> bool:
        place = bisect.bisect_left(self._ids, run_id)
        return place < len(self._ids) and self._ids[place] == run_id

    def journal(self, run_id: str) -> Journal | None:
        """Find the journal of a run that has not ended."""
        return self._journals.get(run_id)

    def unfinished(self) -> Iterator[Journal]:
        """Yield the journals of the runs that have not ended.

        By the log: one that failed because the store was full or away is among them until that could be written.
        """
        yield from list(self._journals.values())

    def equal(self, spec: RunSpec) -> Journal | None:
        """Find the unfinished run of a specification."""
        unended = (each for each in self._journals.values() if not each.status.history.ended)
        return next((each for each in unended if each.status.spec.digest == spec.digest), None)

    async def get(self, run_id: str) -> RunStatus:
        """Find a run.

        Raises
        ------
        NotFound
            If there is none of this id.
        DataLoss
            If it cannot be read.
        """
        status = await self.find(run_id)
        if status is None:
            raise NotFound(f"There is no run {run_id!r}. `offshelf runs` lists all.")
        return status

    async def find(self, run_id: str) -> RunStatus | None:
        """Find a run as `get` does; None if there is none of this id."""
        if run_id not in self._journals and run_id not in self._archive:
            await self._look_for(run_id)
        if run_id in self._journals:
            return self._journals[run_id].status
        return await self._archive.get(run_id) if run_id in self._archive else None

    async def page(self, *, limit: int, before: str) -> RunPage:
        """Return runs, newest first; `before` is the `next` of the last page, or empty.

        A run that cannot be read is left out; `get` says why. If the store lets none be read, this page has all from
        here on that are in memory, and is the last: each further one would wait for the store anew.
        """
        end = bisect.bisect_left(self._ids, before) if before else len(self._ids)
        begin = max(end - limit, 0)
        page = self._ids[begin:end][::-1]
        ended, trouble = await self._archive.get_all([run_id for run_id in page if run_id in self._archive])
        if trouble:
            begin, page = 0, self._ids[:end][::-1]
            ended = self._archive.in_memory(page)
        found = ended | {run_id: self._journals[run_id].status for run_id in page if run_id in self._journals}
        return RunPage([found[run_id] for run_id in page if run_id in found], page[-1] if begin else "", trouble)

    def _replay(self, run_id: str) -> History | None:
        """Read a run without an ending; None, and a line in the log, if it is damaged."""
        try:
            return self._log.replay(run_id)
        except (DataLoss, NotFound) as error:
            # One damaged run must not keep the server from all others.
            _log.error("run cannot be read", extra={"run_id": run_id, "reason": error.message})
            return None

    async def _learn(self, history: History) -> None:
        """Take in a run without an ending; a damaged one is a line in the log."""
        try:
            status = status_of(history)
        except DataLoss as error:
            _log.error("run cannot be read", extra={"run_id": history.run_id, "reason": error.message})
            return
        await self._take_in(status)

    async def _look_for(self, run_id: str) -> None:
        """Take in a run that the log in the store may know.

        It could not be read at the start; or it came later. An older orchestrator that was cut off, and does not know
        yet that it has been replaced, may have created it, and so may we, with a write that seemed to have failed.
        """
        if "/" in run_id or not is_key(run_id):
            return
        try:
            history = await asyncio.to_thread(self._log.replay, run_id)
        except NotFound:
            return
        # Without an event, its creator died. And somebody else may have asked for it at the same moment.
        if not history.events or run_id in self._journals or run_id in self._archive:
            return
        status = status_of(history)
        if run_id not in self:
            bisect.insort(self._ids, run_id)
        if not status.state.ended:
            status.interrupt()  # nobody works on it here until somebody asks for it
        await self._take_in(status)

    async def _take_in(self, status: RunStatus) -> None:
        """Take in a run that has no ending among the marks."""
        if status.state.ended:
            self._archive.add(status)
            await asyncio.to_thread(self._log.conclude, status.history)  # its orchestrator died before it could
        else:
            self._journals[status.run_id] = Journal(status, self._log)
