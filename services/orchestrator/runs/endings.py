"""Failures of runs that the store did not take when they happened."""

from __future__ import annotations

import asyncio
import logging
from contextvars import Context
from typing import TYPE_CHECKING

from offshelf.backoff import full_jitter
from offshelf.errors import OffshelfError, StoreUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.services.orchestrator.runs.journal import Journal

_log = logging.getLogger(__name__)

_FIRST_SECONDS = 1.0
_LONGEST_SECONDS = 30.0


class LateEndings:
    """Writes them when the store takes them again, for as long as this process lives.

    All of them in one line: hundreds of runs that fail with their store must not take every thread to wait for it.

    Parameters
    ----------
    written
        Called with each run that has its ending.
    """

    def __init__(self, written: Callable[[Journal], None]) -> None:
        self._written = written
        self._owing: dict[str, Journal] = {}
        self._work: asyncio.Task[None] | None = None
        self._closed = False

    def add(self, journal: Journal) -> None:
        """Take a run that has failed, which its log does not say."""
        self._owing[journal.status.run_id] = journal
        if not self._closed and (self._work is None or self._work.done()):
            # In a context of its own: this is not the work of the request that happened to be the first.
            self._work = asyncio.get_running_loop().create_task(
                self._write_all(), name="late endings", context=Context()
            )

    async def close(self) -> None:
        """Try once more, then give up: whoever reads the log next takes these runs for unfinished."""
        await self.abandon()
        await self._write_each()

    async def abandon(self) -> None:
        """Give up."""
        self._closed = True
        if self._work is not None:
            self._work.cancel()
            await asyncio.wait([self._work])

    async def _write_all(self) -> None:
        failures = 0
        while self._owing:
            failures += 1
            await asyncio.sleep(full_jitter(failures, first=_FIRST_SECONDS, longest=_LONGEST_SECONDS))
            await self._write_each()

    async def _write_each(self) -> None:
        for run_id, journal in list(self._owing.items()):
            try:
                written = await journal.write_failure()
            except StoreUnavailable:
                return  # for the others, too
            except OffshelfError:
                continue
            except Exception:  # noqa: BLE001  (a defect costs this run its ending, and not the others)
                _log.exception("the failure of a run cannot be written", extra={"run_id": run_id})
            else:
                if written:
                    _log.info("the failure of a run was written late", extra={"run_id": run_id})
            del self._owing[run_id]
            self._written(journal)
