"""What is known of a run at the moment, for whoever watches it."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from offshelf.extraction import registry
from offshelf.runs import Combination, RunState, Score
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.notices import Notices

if TYPE_CHECKING:
    from datetime import datetime

    from offshelf.services.orchestrator.runs.runlog import Event, History
    from offshelf.services.orchestrator.runs.specification import RunSpec


_STATE_AFTER = {
    runlog.CREATED: RunState.PENDING,
    runlog.TAKEN_OVER: RunState.PENDING,
    runlog.INTERRUPTED: RunState.INTERRUPTED,
    runlog.SUCCEEDED: RunState.SUCCEEDED,
    runlog.FAILED: RunState.FAILED,
    runlog.CANCELLED: RunState.CANCELLED,
}


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished run found."""

    dataset: str
    classes: tuple[str, ...]
    scores: tuple[Score, ...]
    verdict: str
    model: str
    fitted: Combination | None
    artifacts: dict[str, str]
    """Key in the store by the name of the artefact."""

    @classmethod
    def of_features(cls, dataset: str, classes: tuple[str, ...], artifacts: dict[str, str]) -> RunResult:
        """Make the result of a run for features alone: nothing was compared, and nothing fitted."""
        return cls(dataset, classes, scores=(), verdict="", model="", fitted=None, artifacts=artifacts)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "dataset": self.dataset,
            "classes": list(self.classes),
            "scores": [score.to_json() for score in self.scores],
            "verdict": self.verdict,
            "model": self.model,
            "fitted": self.fitted and {"extractor": self.fitted.extractor, "classifier": self.fitted.classifier},
            "artifacts": self.artifacts,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunResult:
        """Rebuild what `to_json` made."""
        return cls(
            dataset=data["dataset"],
            classes=tuple(data["classes"]),
            scores=tuple(Score.from_json(score) for score in data["scores"]),
            verdict=data["verdict"],
            model=data["model"],
            fitted=Combination(**data["fitted"]) if data["fitted"] else None,
            artifacts=data["artifacts"],
        )


class Rate:
    """Events a second: now (over the last seconds) and on average over the time in which there were any."""

    _WINDOW_SECONDS = 10.0

    def __init__(self) -> None:
        self._recent: deque[tuple[float, int]] = deque()
        self._began: float | None = None
        self._last = 0.0
        self._total = 0

    def count(self, events: int = 1) -> None:
        """Take note of events that happened just now."""
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        self._last = now
        self._total += events
        self._recent.append((now, events))
        self._forget(now)

    @property
    def now(self) -> float:
        """Events a second over the last seconds; 0 when nothing happened in them."""
        now = time.monotonic()
        self._forget(now)
        if len(self._recent) < 2 or self._began is None:  # noqa: PLR2004  (a rate needs two points)
            return 0.0
        return sum(events for _, events in self._recent) / max(now - self._recent[0][0], 1e-3)

    @property
    def average(self) -> float:
        """Events a second between the first and the last; 0 before the second."""
        if self._began is None or self._last <= self._began:
            return 0.0
        return self._total / (self._last - self._began)

    def _forget(self, now: float) -> None:
        while self._recent and now - self._recent[0][0] > self._WINDOW_SECONDS:
            self._recent.popleft()


@dataclass(slots=True)
class Progress:
    """Counts of one run since this process took it up."""

    images_scanned: int = 0
    images_total: int = 0
    images_extracted: int = 0
    images_reused: int = 0
    images_remaining: int = 0
    scores_computed: int = 0
    scores_reused: int = 0
    scores_remaining: int = 0
    combinations_done: int = 0
    combinations_total: int = 0
    images_skipped: int = 0
    best: Score | None = None
    images_rate: Rate = field(default_factory=Rate)
    scores_rate: Rate = field(default_factory=Rate)

    @property
    def seconds_left(self) -> float:
        """Estimate of the time left; negative when there is none yet."""
        left = 0.0
        for remaining, rate in (
            (self.images_remaining, self.images_rate.average),
            (self.scores_remaining, self.scores_rate.average),
        ):
            if remaining and not rate:
                return -1.0
            left += remaining / rate if remaining else 0.0
        return left


class RunStatus:
    """A run as it stands now. Changed by its execution, read by watchers; belongs to one event loop.

    Attributes
    ----------
    notices
        What is in the way at the moment.
    dataset
        Digest of the dataset; empty until it is known.
    dataset_read
        What the event that says so holds besides; None until the images were read for whoever asked last.
    """

    def __init__(self, spec: RunSpec, history: History) -> None:
        self.spec = spec
        self.history = history
        self.state = RunState.PENDING
        self.activity = ""
        self.progress = Progress()
        self.notices = Notices(self.touch)
        self.error = ""
        self.left_out: list[str] = []
        self.dataset = spec.stored_dataset
        self.dataset_read: dict[str, Any] | None = None
        self.result: RunResult | None = None
        self.version = 0
        self._changed: asyncio.Event | None = None
        for event in history.events:
            self.apply(event)

    @property
    def run_id(self) -> str:
        """The run's ULID."""
        return self.history.run_id

    @property
    def user(self) -> str:
        """Who asked for it."""
        return str(self.history.events[0].data.get("user", ""))

    @property
    def request_id(self) -> str:
        """Id of the request that created the run, by which it is found in the logs of all services."""
        return str(self.history.events[0].data.get("request_id", ""))

    @property
    def created_at(self) -> datetime:
        """When the run was created."""
        return self.history.events[0].at

    @property
    def conditions(self) -> tuple[str, ...]:
        """What the licences of its extractors forbid most users, a sentence each."""
        specs = [registry.lookup(name) for name in self.spec.extractors]
        return tuple(dict.fromkeys(spec.restriction for spec in specs if spec is not None and spec.restriction))

    def apply(self, event: Event) -> None:
        """Take an event into the state."""
        self.state = _STATE_AFTER.get(event.kind, RunState.RUNNING)
        match event.kind:
            case runlog.CREATED | runlog.TAKEN_OVER:
                self.left_out.clear()
                self.error = ""
                self.progress = Progress()
                if event.data.get("asked", True):
                    self.dataset_read = None  # whoever asks again may have changed the images
            case runlog.DATASET_READ:
                self.dataset = event.data["dataset"]
                self.dataset_read = event.data
            case runlog.LEFT_OUT:
                self.left_out.append(event.data["reason"])
            case runlog.FAILED:
                self.error = event.data["error"]
            case runlog.SUCCEEDED:
                self.result = RunResult.from_json(event.data["result"])
            case _:
                pass
        self.touch()

    def fail(self, reason: str) -> None:
        """Show a failure that could not be written to the store."""
        self.state = RunState.FAILED
        self.error = reason
        self.touch()

    def interrupt(self) -> None:
        """Show that nobody works on this run at the moment."""
        self.state = RunState.INTERRUPTED
        self.touch()

    def touch(self) -> None:
        """Tell the watchers that something has changed."""
        self.version += 1
        if self._changed is not None:  # somebody waits
            self._changed.set()
            self._changed = None

    async def wait_for_change(self, seen: int, seconds: float) -> None:
        """Return when something has changed since `version` was `seen`, or after some seconds."""
        if self.version == seen:
            self._changed = self._changed or asyncio.Event()
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._changed.wait()
