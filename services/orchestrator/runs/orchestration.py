"""All runs of an installation: created, taken up, watched, cancelled."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

from ulid import ULID

from offshelf.access import Role
from offshelf.digests import digest_of
from offshelf.errors import Conflict, NotFound, PermissionDenied, ResourceExhausted, Unavailable
from offshelf.logs import request_id as current_request_id
from offshelf.runs import RunState
from offshelf.services.orchestrator.figures import Figures, NoFigures
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.ongoing import OngoingRuns
from offshelf.services.orchestrator.runs.roll import Roll
from offshelf.services.orchestrator.runs.status import RunStatus
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from offshelf.access import Caller
    from offshelf.services.orchestrator.catalog import ExtractorCatalog
    from offshelf.services.orchestrator.runs.execution import Execution
    from offshelf.services.orchestrator.runs.intake import Intake, Request
    from offshelf.services.orchestrator.runs.journal import Journal
    from offshelf.services.orchestrator.runs.roll import RunPage
    from offshelf.services.orchestrator.runs.runlog import RunLog
    from offshelf.services.orchestrator.runs.specification import RunSpec
    from offshelf.store import ObjectStore

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
    take_up
        Whether to go on with every unfinished run at the start (a service), or only when its user asks for the same
        again (embedded, where an old run must not keep the machine from a new one).
    quota_runs
        Most runs of one user that are going on at a time; 0 for any number.
    deleting
        Says which dataset is being deleted, by its digest, or "".
    """

    def __init__(
        self,
        *,
        store: ObjectStore,
        log: RunLog,
        intake: Intake,
        execute: Callable[[Journal], Execution],
        take_up: bool,
        quota_runs: int = 0,
        deleting: Callable[[], str] = lambda: "",
        figures: Figures | None = None,
    ) -> None:
        self._store = store
        self._log = log
        self._intake = intake
        self._take_up = take_up
        self._quota_runs = quota_runs
        self._deleting = deleting
        self._roll = Roll(log)
        self._ongoing = OngoingRuns(self._roll, execute, figures or NoFigures())
        self._changing = asyncio.Lock()
        self._changes: set[asyncio.Task[Any]] = set()
        self._draining = False

    @property
    def catalog(self) -> ExtractorCatalog:
        """The extractors of this installation."""
        return self._intake.catalog

    async def start(self) -> None:
        """Learn of the runs in the store, and take up the unfinished ones if asked to."""
        for journal in await self._roll.read():
            if self._take_up:
                self._ongoing.begin(journal, journal.status.user, taken_over=True)
            else:
                journal.status.interrupt()

    def datasets_in_use(self) -> frozenset[str]:
        """Digests of the datasets that unfinished runs work on, or are about to."""
        found = [each.status for each in self._roll.unfinished()]
        # One whose failure is not written yet is unfinished by the log, and nobody may ever ask for it again.
        return frozenset(status.dataset for status in found if status.dataset and not status.state.ended)

    async def create(self, request: Request, *, request_id: str, user: str) -> tuple[RunStatus, bool]:
        """Check what is asked for and start it; returns the run, and whether it is one that was there.

        A run that was there stays that of the user who was first to ask for it.

        Parameters
        ----------
        request_id
            By which the user's client recognizes its request when it has to send it again.
        user
            Who asks.

        Raises
        ------
        InvalidInput
            If something in it cannot be used.
        PermissionDenied
            If the dataset lies outside the data roots and buckets.
        Conflict
            If the dataset is being deleted.
        ResourceExhausted
            If the user has as many runs going on as one may have.
        Unavailable
            If this orchestrator drains.
        """
        spec = await self._intake.specify(request)
        equal = self._roll.equal(spec)
        begins = equal is None or equal.status.run_id not in self._ongoing
        if self._quota_runs and begins and await self._requested(request_id, user) is None:
            self._check_quota(user)  # once more than `_create` does: the next step lists all images, which costs
        await self._intake.check(spec)
        return await self._change(self._create(request_id, spec, user))

    async def get(self, run_id: str) -> RunStatus:
        """Find a run.

        Raises
        ------
        NotFound
            If there is none of this id.
        DataLoss
            If it cannot be read.
        """
        return await self._roll.get(run_id)

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
            at_rest = status.state.ended or (status.state is RunState.INTERRUPTED and run_id not in self._ongoing)
            yield status
            if at_rest:
                return
            if self._draining:
                raise Unavailable("This server is stopping; the run goes on when it is back.")
            await status.wait_for_change(seen, SIGN_OF_LIFE_SECONDS)
            await asyncio.sleep(LEAST_PAUSE_SECONDS)

    async def list(self, *, limit: int, before: str) -> RunPage:
        """Return runs, newest first; `before` is the `next` of the last page, or empty.

        A run that cannot be read is left out; `get` says why.
        """
        return await self._roll.page(limit=limit, before=before)

    async def cancel(self, run_id: str, caller: Caller) -> RunStatus:
        """Stop a run; what is finished stays in the store.

        Raises
        ------
        PermissionDenied
            If it is another user's, and the caller is no administrator.
        Conflict
            If the run has ended otherwise.
        """
        return await self._change(self._cancel(run_id, caller))

    async def artifact(self, run_id: str, name: str) -> str:
        """Return the key of an artefact of a finished run.

        Raises
        ------
        NotFound
            If there is none of this name, or it went with its dataset.
        """
        status = await self.get(run_id)
        if status.result is None:
            raise NotFound(f"Run {run_id} has no {name}: it is {status.state}.")
        if name not in status.result.artifacts:
            raise NotFound(f"Run {run_id} has no {name!r}; it has {', '.join(sorted(status.result.artifacts))}.")
        key = status.result.artifacts[name]
        if await asyncio.to_thread(self._store.stat, key) is None:
            deleted = await asyncio.to_thread(self._store.stat, keys.dataset(status.result.dataset)) is None
            why = "its dataset was deleted" if deleted else "it is missing in the store; the same run makes it anew"
            raise NotFound(f"Run {run_id} has no {name} any more: {why}.")
        return key

    async def drain(self) -> None:
        """Stop all runs so that the next orchestrator can take them up."""
        self._draining = True
        async with self._changing:  # a run that is being created is stopped too
            await self._ongoing.stop_all()
        for journal in self._roll.unfinished():
            journal.status.touch()

    async def close(self) -> None:
        """Leave what `drain` had no time for: the next orchestrator takes that up, too."""
        self._draining = True
        await self._ongoing.abandon()

    async def _change(self, change: Coroutine[Any, Any, T]) -> T:
        """Carry out a change of the runs: one at a time, and to its end, also if its caller leaves meanwhile."""

        async def alone() -> T:
            async with self._changing:
                return await change

        task = asyncio.create_task(alone())
        self._changes.add(task)
        task.add_done_callback(self._changes.discard)
        return await asyncio.shield(task)

    async def _create(self, request_id: str, spec: RunSpec, user: str) -> tuple[RunStatus, bool]:
        if self._draining:
            raise Unavailable("This server is stopping.")
        if spec.stored_dataset and spec.stored_dataset == self._deleting():
            raise Conflict(f"Dataset {spec.stored_dataset} is being deleted: upload it again when that has ended.")
        known = await self._requested(request_id, user)
        if known is not None and (status := await self._roll.find(known)):
            await self._go_on(status, user)
            return status, True
        name = _name_of(request_id, user)
        while equal := self._roll.equal(spec):
            await asyncio.to_thread(self._log.remember_request, name, equal.status.run_id)
            if await self._go_on(equal.status, user):
                return equal.status, True
        self._check_quota(user)
        run_id = str(ULID())
        await asyncio.to_thread(self._log.remember_request, name, run_id)
        # The id that this call has in the logs of all services, if there is one.
        trace = current_request_id.get() or request_id
        history = await asyncio.to_thread(self._log.create, run_id, spec.to_json(), request_id=trace, user=user)
        journal = self._roll.add(RunStatus(spec, history))
        self._ongoing.begin(journal, user)
        return journal.status, False

    async def _requested(self, request_id: str, user: str) -> str | None:
        """Find the id of the run that a request has made before."""
        return await asyncio.to_thread(self._log.requested, _name_of(request_id, user))

    async def _go_on(self, status: RunStatus, user: str) -> bool:
        """Go on with a run that a user asks for again, unless it is going on; False if it has ended.

        It stays its owner's.
        """
        journal = self._roll.journal(status.run_id)
        if journal is None:
            return False
        if status.run_id not in self._ongoing:
            self._check_quota(user)
            if not await journal.take_over():
                return False  # a failure that was owed has just been written
            self._ongoing.begin(journal, user)
        return True

    def _check_quota(self, user: str) -> None:
        going_on = self._ongoing.count(user)
        if self._quota_runs and going_on >= self._quota_runs:
            raise ResourceExhausted(
                f"{user} has {going_on} runs going on, and one user may have {self._quota_runs}: "
                "wait until one has ended, or stop one with `offshelf cancel`."
            )

    async def _cancel(self, run_id: str, caller: Caller) -> RunStatus:
        status = await self.get(run_id)
        if caller.name != status.user and not caller.may(Role.ADMIN):
            owner = status.user or "somebody else"
            raise PermissionDenied(f"Run {run_id} is {owner}'s: they, or an administrator, can stop it.")
        if status.state is not RunState.CANCELLED:
            if status.state.ended:
                raise Conflict(f"Run {run_id} has {status.state} already.")
            await self._ongoing.stop(run_id, runlog.CANCELLED)
        return status


def _name_of(request_id: str, user: str) -> str:
    """Name a request so that nobody gets another user's run by its id."""
    return digest_of([user, request_id])
