"""The state of runs as an append-only list of events.

An event is one object, ``runs/<id>/events/<epoch>-<sequence>.json``, and says a change of state; progress lives in
memory. An epoch is the time of one orchestrator. It begins, in each run that it takes up, with an event that names the
last event it has read. Replay follows that chain backwards, so what an older orchestrator wrote late, after it lost the
store, is ignored; no conditional write is needed, which small S3 servers would not honour.

So that a start costs as much as there is to go on with, and not as much as there ever was, `marks` stand beside the
events: which runs are open, and of those that have ended all that is shown.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from offshelf.digests import canonical_json
from offshelf.errors import DataLoss, NotFound, OffshelfError, StoreDenied, StoreFull
from offshelf.services.orchestrator.runs.marks import Marks
from offshelf.store import keys
from offshelf.store.reading import read_each

if TYPE_CHECKING:
    from offshelf.services.orchestrator.runs.marks import KnownRuns
    from offshelf.store import ObjectStore

_log = logging.getLogger(__name__)

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


_SHOWN = frozenset({DATASET_READ, LEFT_OUT})
"""What an ending keeps of the events between the first and the last."""


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

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "epoch": self.position.epoch,
            "sequence": self.position.sequence,
            "previous": [self.previous.epoch, self.previous.sequence] if self.previous else None,
            "kind": self.kind,
            "at": self.at.isoformat(),
            "data": self.data,
        }

    def to_bytes(self) -> bytes:
        """Serialize."""
        return canonical_json(self.to_json())

    @classmethod
    def from_bytes(cls, data: bytes) -> Event:
        """Rebuild an event that `to_bytes` made. Raises `DataLoss` if it is no such thing."""
        try:
            return cls.from_json(json.loads(data))
        except ValueError as error:
            raise DataLoss(f"An event of a run in the store cannot be read ({error}).") from error

    @classmethod
    def from_json(cls, fields: Any) -> Event:
        """Rebuild an event that `to_json` made.

        Raises
        ------
        DataLoss
            If it is no such thing.
        """
        try:
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
    """The valid events of one run, oldest first.

    Of a run that has ended it may lack those that nothing is shown of.
    """

    run_id: str
    spec: dict[str, Any]
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
        self._marks = Marks(store)

    def begin(self) -> KnownRuns:
        """Begin this epoch, and say which runs there are.

        The epoch is raised above every one that has written here. Whoever counts epochs may have lost count (a deleted
        ``.embedded``, a deleted lease), and no event may take the place of another.
        """
        known = self._marks.read()
        self._epoch = max(self._epoch, known.epoch + 1)
        try:
            self._marks.begin(self._epoch)
        except (StoreFull, StoreDenied) as error:
            # Nobody could collect garbage to make room, or fetch a result, if this kept the orchestrator from starting.
            # What it writes says the epoch too, and while it can write nothing, nothing can be mistaken for its own.
            _log.error("the store takes nothing", extra={"reason": error.message})
        return known

    def create(self, run_id: str, spec: dict[str, Any], **data: Any) -> History:
        """Begin the history of a new run."""
        self._store.put(keys.run_spec(run_id), canonical_json(spec))
        history = History(run_id, spec)
        self.append(history, CREATED, **data)
        return history

    def append(self, history: History, kind: str, **data: Any) -> Event:
        """Write one event to the store, then take it into the history."""
        previous = history.last.position if history.events else None
        begins = previous is None or previous.epoch != self._epoch
        position = Position(self._epoch, 0 if begins else previous.sequence + 1)  # type: ignore[union-attr]
        event = Event(position, previous, kind, datetime.now(UTC), data)
        if begins:
            self._marks.open(history.run_id, self._epoch)
        key = keys.run_event(history.run_id, position.epoch, position.sequence)
        self._store.put(key, event.to_bytes())
        history.events.append(event)
        if history.ended:
            self.conclude(history)
        return event

    def conclude(self, history: History) -> None:
        """Write what is shown of a run that has ended. If that fails, its events still say it all."""
        position = history.last.position
        ending: dict[str, Any] = {"spec": history.spec, "events": [event.to_json() for event in _shown(history.events)]}
        try:
            self._marks.end(history.run_id, position.epoch, canonical_json(ending))
        except OffshelfError as error:
            _log.warning("ending not written", extra={"run_id": history.run_id, "reason": error.message})

    def ended(self, run_id: str, epoch: int) -> History:
        """Read what is shown of a run that has ended in an epoch, in one read if all is well.

        Raises
        ------
        NotFound, DataLoss
            As `replay`.
        """
        try:
            fields = json.loads(self._store.get(keys.run_ending(run_id, epoch)))
            history = History(run_id, fields["spec"], [Event.from_json(event) for event in fields["events"]])
        except (NotFound, DataLoss, ValueError, KeyError, TypeError) as error:
            _log.warning("ending cannot be read", extra={"run_id": run_id, "reason": str(error)})
            return self.replay(run_id)
        return history

    def replay(self, run_id: str) -> History:
        """Read the valid events of a run: those on the chain that ends in the newest epoch.

        Without any event, its creator died between the specification and the first one: there is no such run.

        Raises
        ------
        NotFound
            If there is not even a specification.
        DataLoss
            If something cannot be read.
        """
        listed = [info.key for info in self._store.list(keys.run_events(run_id))]
        events = read_each(lambda key: Event.from_bytes(self._store.get(key)), listed)
        found = {event.position: event for event in events}
        chain: list[Event] = []
        at = _end_of_newest_epoch(found)
        while at is not None:
            if at not in found:
                raise DataLoss(f"Run {run_id} lacks event {at.epoch}-{at.sequence} in the store.")
            chain.append(found[at])
            at = found[at].previous
        return History(run_id, self._read_spec(run_id), chain[::-1])

    def requested(self, name: str) -> str | None:
        """Find the run that was created for a request, by the digest of what names the request."""
        try:
            return str(json.loads(self._store.get(keys.request(name)))["run"])
        except NotFound:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise DataLoss(f"A record of a request in the store cannot be read ({error}): send a new one.") from error

    def remember_request(self, name: str, run_id: str) -> None:
        """Keep which run a request is for. Written before the run: what leads nowhere is a request never seen."""
        self._store.put(keys.request(name), canonical_json({"run": run_id}))

    def _read_spec(self, run_id: str) -> dict[str, Any]:
        try:
            spec: dict[str, Any] = json.loads(self._store.get(keys.run_spec(run_id)))
        except ValueError as error:
            raise DataLoss(f"The specification of run {run_id} in the store cannot be read ({error}).") from error
        return spec


def _shown(events: list[Event]) -> list[Event]:
    """Pick what is shown of a run that has ended: its beginning, its end, and what it said since the last take-over."""
    since = max((index for index, event in enumerate(events) if event.kind == TAKEN_OVER), default=0)
    between = [event for event in events[since:-1] if event.kind in _SHOWN]
    return [events[0], *between, events[-1]]


def _end_of_newest_epoch(found: dict[Position, Event]) -> Position | None:
    if not found:
        return None
    epoch = max(position.epoch for position in found)
    return Position(epoch, max(position.sequence for position in found if position.epoch == epoch))
