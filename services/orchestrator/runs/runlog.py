"""The state of runs as an append-only list of events.

An event is one object, ``runs/<id>/events/<epoch>-<sequence>.json``, and says a change of state; progress lives in
memory. An epoch is the time of one orchestrator. It begins, in each run that it takes up, with an event that names the
last event it has read. Replay follows that chain backwards, so what an older orchestrator wrote late, after it lost the
store, is ignored; no conditional write is needed, which small S3 servers would not honour.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from offshelf.digests import canonical_json
from offshelf.errors import DataLoss
from offshelf.store import keys

if TYPE_CHECKING:
    from offshelf.store import ObjectStore

CREATED = "created"
TAKEN_OVER = "taken_over"
INTERRUPTED = "interrupted"
DATASET_READ = "dataset_read"
LEFT_OUT = "left_out"
TABLE_WRITTEN = "table_written"
COMPARED = "compared"
FITTED = "fitted"
SUCCEEDED = "succeeded"
FAILED = "failed"
CANCELLED = "cancelled"

ENDINGS = frozenset({SUCCEEDED, FAILED, CANCELLED})
"""Nothing follows these."""

_EVENT_KEY = re.compile(r"/events/(\d+)-\d+\.json\Z")


@dataclass(frozen=True, slots=True)
class Position:
    """Where an event stands: the orchestrator that wrote it, and its place among that one's events of the run."""

    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True)
class Event:
    """One change of a run's state."""

    position: Position
    previous: Position | None
    kind: str
    at: datetime
    data: dict[str, Any]

    def to_bytes(self) -> bytes:
        """Serialize."""
        return canonical_json(
            {
                "epoch": self.position.epoch,
                "sequence": self.position.sequence,
                "previous": [self.previous.epoch, self.previous.sequence] if self.previous else None,
                "kind": self.kind,
                "at": self.at.isoformat(),
                "data": self.data,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Event:
        """Rebuild an event that `to_bytes` made.

        Raises
        ------
        DataLoss
            If it is no such thing.
        """
        try:
            fields = json.loads(data)
            return cls(
                position=Position(fields["epoch"], fields["sequence"]),
                previous=Position(*fields["previous"]) if fields["previous"] else None,
                kind=fields["kind"],
                at=datetime.fromisoformat(fields["at"]),
                data=fields["data"],
            )
        except (ValueError, KeyError, TypeError) as error:
            raise DataLoss(f"An event of a run in the store cannot be read ({error}).") from error


@dataclass(slots=True)
class History:
    """The valid events of one run, oldest first."""

    run_id: str
    events: list[Event] = field(default_factory=list)

    @property
    def last(self) -> Event:
        """The newest event."""
        return self.events[-1]

    @property
    def ended(self) -> bool:
        """Whether nothing follows any more."""
        return bool(self.events) and self.last.kind in ENDINGS


class RunLog:
    """Writes and replays events. Exactly one process may write; its epoch is larger than every one before.

    Parameters
    ----------
    epoch
        As far as its owner can count; `begin` makes sure.
    """

    def __init__(self, store: ObjectStore, epoch: int) -> None:
        self._store = store
        self._epoch = epoch

    def begin(self) -> list[str]:
        """Begin this epoch; returns the ids of all runs, newest first.

        The epoch is raised above every one that has written here. Whoever counts epochs may have lost count (a deleted
        ``.embedded``), and no event may take the place of another.
        """
        listed = [info.key for info in self._store.list(keys.RUNS)]
        epochs = [int(found[1]) for key in listed if (found := _EVENT_KEY.search(key))]
        self._epoch = max([self._epoch, *(epoch + 1 for epoch in epochs)])
        return sorted({key.removeprefix(keys.RUNS).split("/")[0] for key in listed}, reverse=True)

    def create(self, run_id: str, spec: dict[str, Any], **data: Any) -> History:
        """Begin the history of a new run."""
        self._store.put(keys.run_spec(run_id), canonical_json(spec))
        history = History(run_id)
        self.append(history, CREATED, **data)
        return history

    def spec(self, run_id: str) -> dict[str, Any]:
        """Read a run's specification. Raises `NotFound`, or `DataLoss` if it is none."""
        try:
            spec: dict[str, Any] = json.loads(self._store.get(keys.run_spec(run_id)))
        except ValueError as error:
            raise DataLoss(f"The specification of run {run_id} in the store cannot be read ({error}).") from error
        return spec

    def append(self, history: History, kind: str, **data: Any) -> Event:
        """Write one event to the store, then take it into the history."""
        previous = history.last.position if history.events else None
        begins = previous is None or previous.epoch != self._epoch
        position = Position(self._epoch, 0 if begins else previous.sequence + 1)  # type: ignore[union-attr]
        event = Event(position, previous, kind, datetime.now(UTC), data)
        self._store.put(keys.run_event(history.run_id, position.epoch, position.sequence), event.to_bytes())
        history.events.append(event)
        return event

    def replay(self, run_id: str) -> History:
        """Read the valid events of a run: those on the chain that ends in the newest epoch."""
        found: dict[Position, Event] = {}
        for info in self._store.list(keys.run_events(run_id)):
            event = Event.from_bytes(self._store.get(info.key))
            found[event.position] = event
        chain: list[Event] = []
        at = _end_of_newest_epoch(found)
        while at is not None:
            if at not in found:
                raise DataLoss(f"Run {run_id} lacks event {at.epoch}-{at.sequence} in the store.")
            chain.append(found[at])
            at = found[at].previous
        return History(run_id, chain[::-1])


def _end_of_newest_epoch(found: dict[Position, Event]) -> Position | None:
    if not found:
        return None
    epoch = max(position.epoch for position in found)
    return Position(epoch, max(position.sequence for position in found if position.epoch == epoch))
