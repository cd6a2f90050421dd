"""Everything the SDK says over gRPC. Records go in and come out; errors are those of `offshelf.errors`."""

from __future__ import annotations

import uuid
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from offshelf.client import wire
from offshelf.client.absence import LOCAL_PAUSES, REMOTE_PAUSES, Absence
from offshelf.client.dataset_gateway import DatasetGateway
from offshelf.client.network_gateway import NetworkGateway
from offshelf.client.records import ModelSummary, Prediction
from offshelf.errors import DeadlineExceeded, Internal, ResourceExhausted, Unavailable
from offshelf.rpc.channel import open_sync_channel
from offshelf.v1 import orchestrator_pb2, orchestrator_pb2_grpc, predictor_pb2, predictor_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence
    from pathlib import Path

    import grpc

    from offshelf.client.records import Catalog, RunSpec, RunStatus

T = TypeVar("T")

_CREATE_SECONDS = 120.0
"""A large folder on a network drive takes its time to be listed."""
_CANCEL_SECONDS = 120.0
"""The answer comes when the work has stopped."""
_WATCH_SECONDS = 120.0
"""A watch is renewed so often, or it would wait forever on a dead connection."""
_ARTIFACT_SECONDS = 600.0
_LOCATE_SECONDS = 180.0
"""A predictor that is started on demand loads its network first."""
_PREDICT_SECONDS = 600.0


class Gateway:
    """A connection to one installation: its orchestrator at once, its predictor when it is first needed."""

    def __init__(
        self,
        address: str,
        *,
        token: str | None,
        ca: Path | None,
        predictor: str | None = None,
        remote: bool = True,
    ) -> None:
        """Prepare a connection; nothing is sent yet.

        A `predictor` that is named is not asked for. `remote` says that the server has other files than this machine.
        """
        self._address = address
        self._token = token
        self._ca = ca
        self._predictor_given = predictor
        self._remote = remote
        self.absence = Absence(REMOTE_PAUSES if remote else LOCAL_PAUSES)
        self._channel = self._open(address)
        self.datasets = DatasetGateway(self._channel, lambda: self._open(address))
        self.networks = NetworkGateway(self._channel)
        self._orchestrator = orchestrator_pb2_grpc.OrchestratorServiceStub(self._channel)
        self._predictor_channel: grpc.Channel | None = None

    def _open(self, address: str) -> grpc.Channel:
        return open_sync_channel(address, token=self._token, ca=self._ca)

    def _status(self, run: orchestrator_pb2.Run) -> RunStatus:
        return wire.status_record(run, remote=self._remote)

    def close(self) -> None:
        """Close the connections."""
        self._forget_predictor()
        self._channel.close()

    def create_run(self, spec: RunSpec) -> tuple[RunStatus, bool]:
        """Start a run, or take an unfinished one up (then the second value is True)."""
        request = orchestrator_pb2.CreateRunRequest(request_id=uuid.uuid4().hex, spec=wire.spec_message(spec))
        answer = self.absence.outlast(lambda: self._orchestrator.CreateRun(request, timeout=_CREATE_SECONDS))
        return self._status(answer.run), answer.resumed

    def get_run(self, run_id: str) -> RunStatus:
        """Show one run."""
        request = orchestrator_pb2.GetRunRequest(run_id=run_id)
        return self._status(self.absence.outlast(lambda: self._orchestrator.GetRun(request)).run)

    def watch_run(self, run_id: str) -> Generator[RunStatus]:
        """Yield the run as it changes. Ends when the run has ended, or with `DeadlineExceeded` after two minutes."""
        call = self._orchestrator.WatchRun(orchestrator_pb2.WatchRunRequest(run_id=run_id), timeout=_WATCH_SECONDS)
        try:
            for answer in call:
                yield self._status(answer.run)
        finally:
            call.cancel()

    def list_runs(self, on_trouble: Callable[[str], None] | None = None) -> Iterator[RunStatus]:
        """Yield all runs, newest first.

        Where the server's store is away, these are the ones that the server knows without it. Why is told before the
        first of them; if there is nobody to tell, `Unavailable` is raised after the last.
        """
        token = ""
        while True:
            request = orchestrator_pb2.ListRunsRequest(page_token=token)
            answer = self.absence.outlast(partial(self._orchestrator.ListRuns, request))
            trouble = f"Runs that have ended cannot be listed. {answer.trouble}" if answer.trouble else ""
            if trouble and on_trouble is not None:
                on_trouble(trouble)
            yield from map(self._status, answer.runs)
            if trouble and on_trouble is None:
                raise Unavailable(trouble)
            token = answer.next_page_token
            if not token:
                return

    def cancel_run(self, run_id: str) -> RunStatus:
        """Ask a run to stop."""
        request = orchestrator_pb2.CancelRunRequest(run_id=run_id)
        answer = self.absence.outlast(lambda: self._orchestrator.CancelRun(request, timeout=_CANCEL_SECONDS))
        return self._status(answer.run)

    def read_artifact(self, run_id: str, name: str) -> Iterator[bytes]:
        """Yield the bytes of an artefact in chunks. After a cut, which the server outlives, it is read on.

        A server that has too many downloads at the moment is waited for.
        """
        read, attempts = 0, self.absence.attempts()
        while True:
            before, passed = read, -1
            request = orchestrator_pb2.ReadArtifactRequest(run_id=run_id, name=name, offset=read)
            call = self._orchestrator.ReadArtifact(request, timeout=_ARTIFACT_SECONDS)
            try:
                for answer in call:
                    # An older server begins at the beginning, and does not say where.
                    passed = (answer.offset if passed < 0 else passed) + len(answer.chunk)
                    if passed > read:
                        yield answer.chunk[read - passed :]
                        read = passed
                    elif not passed:
                        yield b""
            except (Unavailable, ResourceExhausted) as error:
                attempts.wait_after(error)
            except DeadlineExceeded:
                if read == before:
                    raise
                # Gigabytes take longer than one call may.
            else:
                return
            finally:
                call.cancel()

    def catalog(self) -> Catalog:
        """List extractors, classifiers and measures."""
        return wire.catalog_record(self._orchestrator.DescribeCatalog(orchestrator_pb2.DescribeCatalogRequest()))

    def describe_model(self, digest: str) -> ModelSummary:
        """Show what a model is."""
        request = predictor_pb2.DescribeModelRequest(model=digest)
        answer = self._ask_predictor(lambda predictor: predictor.DescribeModel(request))
        return ModelSummary(digest, answer.extractor, answer.classifier, tuple(answer.classes))

    def predict(self, digest: str, images: Sequence[bytes]) -> list[Prediction]:
        """Classify encoded images that fit in one message."""
        request = predictor_pb2.PredictRequest(model=digest, images=images)
        # Asking twice is harmless: a prediction changes nothing.
        answer = self._ask_predictor(lambda predictor: predictor.Predict(request, timeout=_PREDICT_SECONDS))
        if len(answer.results) != len(images):
            raise Internal(f"The predictor gave {len(answer.results)} results for {len(images)} images.")
        return [
            Prediction(None, label=result.label, probabilities=dict(result.probabilities), error=result.error)
            for result in answer.results
        ]

    def _ask_predictor(self, ask: Callable[[predictor_pb2_grpc.PredictorServiceStub], T]) -> T:
        def attempt() -> T:
            try:
                return ask(self._predictor())
            except Unavailable:
                self._forget_predictor()  # it may have been started anew on another port
                raise

        return self.absence.outlast(attempt)

    def _predictor(self) -> predictor_pb2_grpc.PredictorServiceStub:
        if self._predictor_channel is None:
            address = self._predictor_given or self._locate_predictor()
            self._predictor_channel = self._open(address)
        return predictor_pb2_grpc.PredictorServiceStub(self._predictor_channel)

    def _locate_predictor(self) -> str:
        request = orchestrator_pb2.LocatePredictorRequest()
        answer = self.absence.outlast(lambda: self._orchestrator.LocatePredictor(request, timeout=_LOCATE_SECONDS))
        return answer.address

    def _forget_predictor(self) -> None:
        if self._predictor_channel is not None:
            self._predictor_channel.close()
            self._predictor_channel = None
