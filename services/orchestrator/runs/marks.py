"""Marks beside the events of runs: which are open, which have ended, and what the newest epoch is.

``history/<id>/<epoch>-open`` is written before the first event that an orchestrator writes to a run, and
``history/<id>/<epoch>-ended.json`` after the last. The mark of the newest epoch counts, so the ending that an older
orchestrator wrote late, after it lost the store, is passed over. One list of ``history/`` says where all runs stand.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offshelf.store import keys
from offshelf.store.reading import read_each

if TYPE_CHECKING:
    from offshelf.store import ObjectStore

_MARK = re.compile(rf"{keys.HISTORY}([^/]+)/(\d+)-(open|ended\.json)")
_EVENT = re.compile(r"/events/(\d+)-\d+\.json\Z")


@dataclass(frozen=True, slots=True)
class KnownRuns:
    """The runs of a store."""

    ids: tuple[str, ...]
    """Of all, newest first."""
    ended: dict[str, int]
    """The epoch in which it ended, of each that has an ending that counts."""
    epoch: int
    """The newest that has written anything here; 0 before the first."""


class Marks:
    """Reads and writes marks."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    def read(self) -> KnownRuns:
        """Find out which runs there are and where each stands."""
        newest: dict[str, tuple[int, bool]] = {}
        for info in self._store.list(keys.HISTORY):
            if found := _MARK.fullmatch(info.key):
                mark = (int(found[2]), found[3] != "open")
                newest[found[1]] = max(newest.get(found[1], mark), mark)
        ids = sorted(self._store.children(keys.RUNS), reverse=True)
        unmarked = read_each(self._epoch_of_events, [run_id for run_id in ids if run_id not in newest])
        begun = [int(name) for name in self._store.children(keys.EPOCHS) if name.isdecimal()]
        return KnownRuns(
            ids=tuple(ids),
            ended={run_id: newest[run_id][0] for run_id in ids if run_id in newest and newest[run_id][1]},
            epoch=max([0, *unmarked, *begun, *(epoch for epoch, _ in newest.values())]),
        )

    def begin(self, epoch: int) -> None:
        """Say that an epoch has begun, so that nobody takes its number again though nothing was written in it."""
        self._store.put(keys.epoch(epoch), b"")
        for info in self._store.list(keys.EPOCHS):
            if info.key < keys.epoch(epoch):
                self._store.delete(info.key)

    def open(self, run_id: str, epoch: int) -> None:
        """Say that a run is open in an epoch."""
        self._store.put(keys.run_opening(run_id, epoch), b"")

    def end(self, run_id: str, epoch: int, ending: bytes) -> None:
        """Say that a run has ended in an epoch, and how."""
        self._store.put(keys.run_ending(run_id, epoch), ending)

    def _epoch_of_events(self, run_id: str) -> int:
        """The newest epoch of a run without marks: an older Offshelf's, or one whose creator died at once."""
        listed = self._store.list(keys.run_events(run_id))
        return max((int(found[1]) for info in listed if (found := _EVENT.search(info.key))), default=0)
