"""What the runs in a store lead to: their dataset and what they made of it.

Read backwards from a run's last event, and no further than needed: a thousand runs have tens of thousands of events.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from offshelf.errors import DataLoss, NotFound
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.runlog import Event, Position
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from offshelf.store import ObjectStore

_log = logging.getLogger(__name__)

_EVENT: Final = re.compile(r"events/(\d+)-(\d+)\.json")
_REPORT: Final = re.compile(rf"{keys.REPORTS}([0-9a-f]{{64}})/")


@dataclass(frozen=True, slots=True)
class RunTrace:
    """What one run leads to."""

    run_id: str
    ended: bool = False
    """Whether nothing follows any more. A run of which this cannot be read counts as going on."""
    readable: bool = True
    """False if its history is damaged: then it may lead to anything."""
    dataset: str = ""
    """Digest of the dataset that it read last; empty if it has read none, or that is unknown."""
    comparison: str = ""
    model: str = ""
    reports: frozenset[str] = field(default=frozenset())
    extractors: tuple[str, ...] = ()
    """By name; of a run that has not ended."""


def read_trace(store: ObjectStore, run_id: str, names: Iterable[str]) -> RunTrace | None:
    """Find out what a run leads to.

    Parameters
    ----------
    store
        Holds the run.
    run_id
        The run.
    names
        Keys of the run's objects, without what they all begin with.

    Returns
    -------
    RunTrace or None
        None if nothing has happened in the run: its creator died before.
    """
    names = list(names)
    positions = {Position(int(found[1]), int(found[2])) for name in names if (found := _EVENT.fullmatch(name))}
    if not positions:
        return None
    try:
        return _follow(store, run_id, positions)
    except (DataLoss, NotFound, KeyError, TypeError, AttributeError, ValueError) as error:
        _log.warning("a run's history is damaged; what it may need is kept", extra={"run_id": run_id, "reason": error})
        dataset = _dataset_of_artifacts(store, run_id) if "artifacts/run.json" in names else ""
        return RunTrace(run_id, readable=False, dataset=dataset)


def _follow(store: ObjectStore, run_id: str, positions: set[Position]) -> RunTrace:
    trace = RunTrace(run_id)
    for event in _backwards(store, run_id, positions):
        trace = _with_event(trace, event)
        if trace.ended and trace.dataset and trace.comparison:
            break
    if not trace.ended:
        spec = json.loads(store.get(keys.run_spec(run_id)))
        stored = spec["source"].partition("store:")[2]
        names = tuple(str(name) for name in spec["extractors"])
        trace = replace(trace, extractors=names, dataset=trace.dataset or stored)
    return trace


def _backwards(store: ObjectStore, run_id: str, positions: set[Position]) -> Iterator[Event]:
    at: Position | None = max(positions, key=lambda position: (position.epoch, position.sequence))
    while at is not None:
        event = Event.from_bytes(store.get(keys.run_event(run_id, at.epoch, at.sequence)))
        yield event
        at = event.previous


def _with_event(trace: RunTrace, event: Event) -> RunTrace:
    """Take in an event that came before all that the trace has seen: what is known already is newer and stays."""
    data: dict[str, Any] = event.data
    match event.kind:
        case runlog.SUCCEEDED:
            result = data["result"]
            found = (_REPORT.match(str(key)) for key in result["artifacts"].values())
            return replace(
                trace,
                ended=True,
                dataset=str(result["dataset"]),
                model=str(result["model"]),
                reports=frozenset(report[1] for report in found if report),
            )
        case runlog.FAILED | runlog.CANCELLED:
            return replace(trace, ended=True)
        case runlog.COMPARED:
            return replace(trace, comparison=trace.comparison or str(data["comparison"]))
        case runlog.FITTED:
            return replace(trace, model=trace.model or str(data["model"]))
        case runlog.DATASET_READ:
            return replace(trace, dataset=trace.dataset or str(data["dataset"]))
        case _:
            return trace


def _dataset_of_artifacts(store: ObjectStore, run_id: str) -> str:
    try:
        return str(json.loads(store.get(keys.run_artifact(run_id, "run.json")))["dataset"])
    except (NotFound, ValueError, KeyError, TypeError):
        return ""
