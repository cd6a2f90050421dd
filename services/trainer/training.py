"""Has worker processes do what a call asks for."""

from __future__ import annotations

import contextvars
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from offshelf import measures
from offshelf.errors import InvalidInput, Unavailable
from offshelf.estimators import registry
from offshelf.workers import WorkerCrashed, WorkerTimeout

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Sequence

    from offshelf.scores import ValidationPlan


STUCK_SECONDS: Final = 300.0
"""A worker that uses no processor for so long is stuck: what it may wait for, the store, is given up sooner."""

_STUCK: Final = f"{STUCK_SECONDS / 60:.0f} minutes"


@dataclass(frozen=True, slots=True)
class Table:
    """Features to learn from."""

    dataset: str
    """Digest of the dataset."""
    table: str
    """Digest of the feature table."""
    fingerprint: str
    """Of the extractor that made it."""


@dataclass(frozen=True, slots=True)
class FoldResult:
    """One classifier on one fold."""

    classifier: str
    scores: str
    """Digest that names the scores over all folds."""
    measures: dict[str, float]


class Workers(Protocol):
    """Worker processes whose handler is `offshelf.services.trainer.work.make_handler`; see `WorkerPool`."""

    def start(self) -> None:
        """Start all processes and wait until they are ready."""
        ...

    def call(self, header: dict[str, Any], *, stop: threading.Event | None = None) -> tuple[dict[str, Any], bytearray]:
        """Have a worker do something; it is killed if `stop` is set."""
        ...

    def close(self) -> None:
        """End all processes."""
        ...


class Training:
    """Divides work among worker processes and says what became of it.

    Parameters
    ----------
    workers
        The processes.
    size
        How many of them there are.
    """

    def __init__(self, workers: Workers, size: int) -> None:
        self._workers = workers
        self._size = size

    def warm_up(self) -> None:
        """Start the processes and have each run every classifier once."""
        self._workers.start()
        self._together([{"task": "warm_up"}] * self._size, lambda _task, _answer: None, None)

    def cross_validate(
        self,
        table: Table,
        plan: ValidationPlan,
        fold: int,
        classifiers: Sequence[str],
        measure: str,
        *,
        emit: Callable[[FoldResult], None],
        stop: threading.Event,
    ) -> None:
        """Evaluate classifiers on one fold, as many at once as there are processes.

        What is done when one of them fails stays in the store, and asking again does not do it twice.

        Parameters
        ----------
        table, plan, fold, classifiers, measure
            What is asked for; the classifiers and the measure by name.
        emit
            Given each result as it is there.
        stop
            Ends the work at once when it is set.

        Raises
        ------
        InvalidInput
            For an unknown classifier or measure, no classifier, or a fold outside the plan.
        Unavailable
            If a process died, or was stuck.
        Cancelled
            If `stop` was set.
        OffshelfError
            What the work itself raised.
        """
        measures.find(measure)
        names = [registry.find(name).name for name in dict.fromkeys(classifiers)]
        if not names:
            raise InvalidInput("There is nothing to evaluate: name at least one classifier.")
        if not 0 <= fold < plan.folds:
            raise InvalidInput(f"There is no fold {fold} among {plan.folds}: they are counted from 0.")
        common = {"task": "evaluate", **asdict(table), **asdict(plan), "fold": fold, "measure": measure}
        self._together(
            [{**common, "classifier": name} for name in names],
            lambda task, answer: emit(FoldResult(task["classifier"], answer["scores"], answer["measures"])),
            stop,
        )

    def fit(
        self, table: Table, extractor: str, classifier: str, measure: str, seed: int, *, stop: threading.Event
    ) -> str:
        """Fit a classifier on all images of a table; return the model's digest. Errors as for `cross_validate`."""
        task = {
            "task": "fit",
            **asdict(table),
            "extractor": extractor,
            "classifier": registry.find(classifier).name,
            "measure": measures.find(measure),
            "seed": seed,
        }
        return str(self._call(task, stop)["model"])

    def close(self) -> None:
        """End the processes."""
        self._workers.close()

    def _together(
        self,
        tasks: Sequence[dict[str, Any]],
        on_answer: Callable[[dict[str, Any], dict[str, Any]], None],
        stop: threading.Event | None,
    ) -> None:
        with ThreadPoolExecutor(min(self._size, len(tasks)), thread_name_prefix="training") as threads:
            # The request id must be in the log lines of the threads too.
            calls = {threads.submit(contextvars.copy_context().run, self._call, task, stop): task for task in tasks}
            try:
                for call in as_completed(calls):
                    on_answer(calls[call], call.result())
            except BaseException:
                threads.shutdown(wait=False, cancel_futures=True)
                raise

    def _call(self, task: dict[str, Any], stop: threading.Event | None) -> dict[str, Any]:
        try:
            return self._workers.call(task, stop=stop)[0]
        except WorkerCrashed as error:
            raise Unavailable("A worker process of the trainer died.") from error
        except WorkerTimeout as error:
            # A fit may take hours and has no limit, but one that uses no processor never ends.
            raise Unavailable(f"A worker process of the trainer did nothing for {_STUCK} and was ended.") from error
