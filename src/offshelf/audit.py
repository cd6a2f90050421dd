"""The audit log: who did what, when, and how it ended; never what was in an image.

Deeds are collected for a moment, equal ones together (a predictor answers thousands of equal calls), and written as
JSON lines into an object of their own: ``audit/<day>/<time>-<process>-<number>.jsonl``. Objects are only ever added.
Each deed also goes to the log at once, so that a process that is killed within that moment leaves a trace there; of
what strangers try, only the first of equal ones, or they could fill the log.
"""

from __future__ import annotations

import json
import logging
import secrets
import threading
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from offshelf.errors import OffshelfError
from offshelf.logs import request_id
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.store import ObjectStore

_log = logging.getLogger(__name__)

_MOST_WAITING: Final = 10_000
"""Different deeds kept while the store takes none; more are in the log alone."""

_LONGEST: Final = 200
"""Characters of a name or target that are kept: a caller chooses them."""


@dataclass(frozen=True, slots=True)
class Deed:
    """Something that somebody did, or tried to do."""

    who: str
    """Name of the user or service; empty for a caller who could not say who they are."""
    what: str
    """Name of the method."""
    target: str
    """What it was done to: a run, a dataset, a model."""
    outcome: str
    """gRPC's name of the status."""


@dataclass(slots=True)
class _Tally:
    first: datetime
    last: datetime
    request: str
    count: int = 0


class AuditTrail:
    """Collects deeds and writes them into the store. Safe to use from any number of threads.

    Parameters
    ----------
    now
        The clock, in UTC.
    """

    def __init__(self, store: ObjectStore, *, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._store = store
        self._now = now
        self._process = secrets.token_hex(4)
        self._written = 0
        self._waiting: dict[Deed, _Tally] = {}
        self._lock = threading.Lock()
        self._flushing = threading.Lock()

    def record(self, deed: Deed) -> None:
        """Take note of a deed."""
        # Cut first: a caller may send megabytes.
        parts = (deed.who, deed.what, deed.target, deed.outcome)
        deed = Deed(*(" ".join(part[:_LONGEST].split()) for part in parts))
        now = self._now()
        with self._lock:
            is_new = deed not in self._waiting
            if not is_new or len(self._waiting) < _MOST_WAITING:
                tally = self._waiting.setdefault(deed, _Tally(now, now, request_id.get()))
                tally.last = now
                tally.count += 1
        if deed.who or is_new:
            _log.info("audit", extra=asdict(deed))

    def flush(self) -> None:
        """Write what was recorded since the last time. What the store does not take is tried again the next time."""
        with self._flushing:
            with self._lock:
                taken, self._waiting = self._waiting, {}
            if not taken:
                return
            key = keys.audit(self._now(), self._process, self._written)
            try:
                self._store.put(key, _lines(taken))
            except Exception as error:  # noqa: BLE001  # whatever it is: what was done stays on record
                reason = error.message if isinstance(error, OffshelfError) else type(error).__name__
                _log.warning("the audit log cannot be written", extra={"reason": reason, "deeds": len(taken)})
                self._put_back(taken)
            else:
                self._written += 1

    def _put_back(self, taken: dict[Deed, _Tally]) -> None:
        with self._lock:
            for deed, tally in self._waiting.items():
                earlier = taken.get(deed)
                if earlier is None and len(taken) >= _MOST_WAITING:
                    continue
                earlier = taken.setdefault(deed, _Tally(tally.first, tally.last, tally.request))
                earlier.last = tally.last
                earlier.count += tally.count
            self._waiting = taken


def _lines(deeds: dict[Deed, _Tally]) -> bytes:
    rows = (
        {
            "first": tally.first.isoformat(timespec="milliseconds"),
            "last": tally.last.isoformat(timespec="milliseconds"),
            "count": tally.count,
            **asdict(deed),
            "request_id": tally.request,
        }
        for deed, tally in deeds.items()
    )
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
