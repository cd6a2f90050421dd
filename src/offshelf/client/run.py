"""A run as users hold it: watched, cancelled, shown, downloaded."""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf.client import feature_file, outputs
from offshelf.client.feature_file import FEATURES_FILE
from offshelf.client.model import Model
from offshelf.client.patience import Attempts
from offshelf.client.records import ModelSummary
from offshelf.client.table import Table
from offshelf.errors import Cancelled, Conflict, DeadlineExceeded, RunFailed, Unavailable
from offshelf.runs import RunGoal, RunState

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from offshelf.client.gateway import Gateway
    from offshelf.client.patience import Pauses
    from offshelf.client.records import RunResult, RunSpec, RunStatus, SkippedImage
    from offshelf.errors import OffshelfError

_NOTICEABLE_SECONDS = 2.0
"""A server that is away for longer is told of."""


class Run:
    """One run. `Client.run`, `Client.get` and `Client.runs` make these."""

    def __init__(
        self,
        gateway: Gateway,
        status: RunStatus,
        *,
        spec: RunSpec | None = None,
        origin: Mapping[str, str] | None = None,
        resumed: bool = False,
        skipped: Sequence[SkippedImage] = (),
        pauses: Pauses | None = None,
    ) -> None:
        self._gateway = gateway
        self._status = status
        self._asked = spec or status.spec
        self._origin = dict(origin or {})
        self._pauses = gateway.absence.pauses if pauses is None else pauses
        self.resumed = resumed
        """True if an unfinished run of the same specification was taken up."""
        self.skipped = tuple(skipped)
        """Images of a local dataset that could not be uploaded. The run, and its report, know nothing of them."""

    def __repr__(self) -> str:
        return f"<Run {self.id} {self.state}>"

    @property
    def id(self) -> str:
        """ULID: sorts by the time of creation."""
        return self._status.id

    @property
    def state(self) -> RunState:
        """Where the run stood when this client last heard of it."""
        return self._status.state

    @property
    def status(self) -> RunStatus:
        """All that this client last heard of the run."""
        return self._status

    def refresh(self) -> RunStatus:
        """Ask the server how the run stands now."""
        self._status = self._gateway.get_run(self.id)
        return self._status

    def updates(self) -> Iterator[RunStatus]:
        """Yield the run as it changes, at least every few seconds, until nothing more happens by itself.

        The last one yielded is the end: succeeded, failed, cancelled or interrupted. A connection that is lost is taken
        up again a few times, and so is a run whose server is started again.

        Raises
        ------
        Unavailable
            If the server stays away.
        """
        attempts, went_on = Attempts(self._pauses), False
        while True:
            lost: OffshelfError = Unavailable("The watch ended before the run did.")
            try:
                with closing(self._gateway.watch_run(self.id)) as watch:
                    for status in watch:
                        self._status = status
                        yield status
                        if status.state is not RunState.INTERRUPTED:
                            went_on = True
                            attempts.succeed()
                        if status.state.at_rest:
                            break
            except (DeadlineExceeded, Unavailable) as error:
                # A watch has a deadline so that a dead connection is noticed; a live one is simply taken up again.
                lost = error
            # A server that is started anew may take its runs up by itself, so one that was going on is waited for.
            if self.state.at_rest and not (self.state is RunState.INTERRUPTED and went_on):
                return
            pause = attempts.next_pause(lost)
            if pause is not None:
                if pause >= _NOTICEABLE_SECONDS and self.state is not RunState.INTERRUPTED:
                    notice = f"{lost.message} Waiting for the server; the run goes on by itself."
                    yield replace(self._status, notices=(notice,))
                time.sleep(pause)
            elif self.state is RunState.INTERRUPTED:
                return
            else:
                raise Unavailable(
                    f"The server no longer answers ({lost.message.rstrip('.')}). What is finished is kept: "
                    "ask for the same run again to go on from there."
                )

    def watch(self, on_update: Callable[[RunStatus], None] | None = None) -> Run:
        """Wait until the run has ended, and return it.

        Parameters
        ----------
        on_update
            Called with every update, in this thread.

        Raises
        ------
        RunFailed
            If it failed, or its server stopped; the message says why.
        Cancelled
            If somebody stopped it.
        Unavailable
            If the server stays away.
        """
        for status in self.updates():
            if on_update is not None:
                on_update(status)
        match self.state:
            case RunState.FAILED:
                raise RunFailed(f"The run failed: {self._status.error}")
            case RunState.CANCELLED:
                raise Cancelled("The run was stopped. What is finished is kept: the same run goes on from there.")
            case RunState.INTERRUPTED:
                raise RunFailed("The server stopped before the run ended: ask for the same run again to go on.")
            case _:
                return self

    def cancel(self) -> RunStatus:
        """Ask the run to stop; `watch` or `updates` tell when it has. What is finished is found again by the next run.

        Raises
        ------
        Conflict
            If it has ended already.
        """
        self._status = self._gateway.cancel_run(self.id)
        return self._status

    @property
    def result(self) -> RunResult:
        """What the run found.

        Raises
        ------
        Conflict
            If it has not succeeded (yet).
        """
        if self._status.result is None:
            self.refresh()
        if self._status.result is None:
            raise Conflict(f"Run {self.id} has no result: it is {self.state}.")
        return self._status.result

    def _compared(self) -> RunResult:
        if self._status.spec.goal is RunGoal.FEATURES:
            raise Conflict(f"Run {self.id} was for features alone: `save` writes them, and `Client.run` compares.")
        return self.result

    def table(self) -> Table:
        """Return all combinations and how they did: the paper's Table 1. Raises `Conflict` as `result`."""
        return Table.of(self._compared().scores, self._status.spec)

    @property
    def verdict(self) -> str:
        """Which is best and what may be said about it, in plain words. Raises `Conflict` as `result`."""
        return self._compared().verdict

    @property
    def best(self) -> Model:
        """The fitted model: of the best combination, or of the one that was chosen. Raises `Conflict` as `result`."""
        result = self._compared()
        assert result.fitted is not None  # noqa: S101  (where anything was compared, one was fitted)
        summary = ModelSummary(result.model, result.fitted.extractor, result.fitted.classifier, result.classes)
        return Model.of(summary, self._gateway, partial(_read_model_file, self._gateway, self.id))

    def choose(self, extractor: str, classifier: str) -> Run:
        """Start a run that fits this combination instead of the best one. All that this run computed is found again."""
        spec = self._asked.choosing(extractor, classifier)
        status, resumed = self._gateway.create_run(spec)
        return Run(self._gateway, status, spec=spec, origin=self._origin, resumed=resumed, pauses=self._pauses)

    def fit(self, extractor: str, classifier: str) -> Model:
        """Fit another combination than the best, and return its model. Raises as `watch`."""
        return self.choose(extractor, classifier).watch().best

    def download(
        self,
        folder: str | os.PathLike[str],
        *,
        overwrite: bool = False,
    ) -> Path:
        """Write report.html, table.csv, scores.parquet, skipped.csv, run.json and model/ into a new folder.

        ``run.json`` is the server's, with one object more: "client" says where the run was made ("store" or "server"),
        its id ("run") and what was asked for ("spec"), which is what ``offshelf fit OUT`` needs.

        Parameters
        ----------
        folder
            It appears whole or not at all.
        overwrite
            Replace the folder if it is empty or an earlier output.

        Raises
        ------
        Conflict
            If the folder exists and may not be replaced, or the run has no result.
        """
        artifacts = self.result.artifacts
        path = Path(folder)
        with outputs.new_folder(path, overwrite=overwrite) as new:
            for name in artifacts:
                outputs.write_artifact(new, name, self._gateway.read_artifact(self.id, name))
            outputs.add_client(new, {**self._origin, "run": self.id, "spec": outputs.spec_json(self._asked)})
        return path

    def save(self, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
        """Write the features of a run for features alone into a Parquet file.

        It has a row an image: "path", "label" and "group" (where there are any), "image" (its SHA-256), and for each
        extractor a column with the vector, null where the image could not be used. Which those are, and why, is beside
        it in ``<name>.skipped.csv``, if there are any.

        Parameters
        ----------
        path
            The file. It appears whole or not at all.
        overwrite
            Replace the file if it exists.

        Raises
        ------
        Conflict
            If the file exists and may not be replaced, or cannot be written; or if the run has no features (yet).
        """
        if FEATURES_FILE not in self.result.artifacts:
            raise Conflict(f"Run {self.id} has no file of features: ask for one with `Client.extract`.")
        return feature_file.save(Path(path), partial(self._gateway.read_artifact, self.id), overwrite=overwrite)


def _read_model_file(gateway: Gateway, run_id: str, name: str) -> Iterator[bytes]:
    return gateway.read_artifact(run_id, f"{outputs.MODEL_FOLDER}/{name}")
