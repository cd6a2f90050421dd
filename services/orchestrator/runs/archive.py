"""Runs that have ended: read when somebody asks, since there may be thousands."""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from offshelf.errors import DataLoss, NotFound, StoreDenied, StoreUnavailable
from offshelf.services.orchestrator.runs.specification import RunSpec
from offshelf.services.orchestrator.runs.status import RunStatus
from offshelf.store.patience import waits_end_with
from offshelf.store.reading import read_each

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offshelf.services.orchestrator.runs.runlog import History, RunLog

_KEPT = 32
"""Runs that stay in memory after they were asked for: watchers ask again and again for the same."""

_READ_SECONDS = 20.0
"""How long a list of runs waits for the store: whoever asked has to hear of a silent one before they give up."""


def status_of(history: History) -> RunStatus:
    """Build the status of a run from its history. Raises `DataLoss` if that is damaged."""
    if not history.events:
        raise DataLoss(f"Run {history.run_id} in the store has lost its events.")
    try:
        return RunStatus(RunSpec.from_json(history.spec), history)
    except (KeyError, TypeError, ValueError) as error:
        raise DataLoss(f"Run {history.run_id} in the store cannot be read ({error!r}).") from error


class Archive:
    """The runs that have ended. Belongs to one event loop."""

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self._epochs: dict[str, int] = {}
        self._kept: OrderedDict[str, RunStatus] = OrderedDict()

    def know(self, ended: Mapping[str, int]) -> None:
        """Take runs that have ended, by the epoch in which they did."""
        self._epochs.update(ended)

    def add(self, status: RunStatus) -> None:
        """Take a run that has just ended."""
        self._epochs[status.run_id] = status.history.last.position.epoch
        self._keep(status)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._epochs

    async def get(self, run_id: str) -> RunStatus:
        """Read a run that has ended. Raises `DataLoss` if it cannot be read."""
        if run_id in self._kept:
            self._kept.move_to_end(run_id)
            return self._kept[run_id]
        status = await asyncio.to_thread(self._read, run_id)
        self._keep(status)
        return status

    async def get_all(self, run_ids: Sequence[str]) -> tuple[dict[str, RunStatus], str]:
        """Read runs that have ended, without keeping them; those that cannot be read are left out.

        The second value says why the store lets none be read; then there are those alone that are in memory.
        """
        kept = self.in_memory(run_ids)
        missing = [run_id for run_id in run_ids if run_id not in kept]
        away = threading.Event()
        try:
            async with asyncio.timeout(_READ_SECONDS):
                read = await asyncio.to_thread(self._read_whole, missing, away)
        except (StoreDenied, StoreUnavailable) as error:
            return kept, error.message
        except TimeoutError:
            away.set()
            return kept, f"The store has not answered for {_READ_SECONDS:g} s: see whether it runs and can be reached."
        return kept | {status.run_id: status for status in read}, ""

    def in_memory(self, run_ids: Sequence[str]) -> dict[str, RunStatus]:
        """Return those runs that need not be read."""
        return {run_id: self._kept[run_id] for run_id in run_ids if run_id in self._kept}

    def _read(self, run_id: str) -> RunStatus:
        return status_of(self._log.ended(run_id, self._epochs[run_id]))

    def _read_whole(self, run_ids: Sequence[str], away: threading.Event) -> list[RunStatus]:
        """Read those that are whole. A store that is away is waited for once, and not by one reader after the other."""

        def read(run_id: str) -> RunStatus | None:
            if away.is_set():
                raise StoreUnavailable("The store is away.")  # which an earlier one has said in more words
            try:
                with waits_end_with(away):
                    return self._read(run_id)
            except (DataLoss, NotFound):
                return None
            except StoreUnavailable:
                away.set()
                raise

        return [status for status in read_each(read, run_ids) if status is not None]

    def _keep(self, status: RunStatus) -> None:
        self._kept[status.run_id] = status
        self._kept.move_to_end(status.run_id)
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
