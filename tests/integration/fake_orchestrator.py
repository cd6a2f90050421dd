"""An orchestrator and a predictor that only pretend, on real channels: what the SDK and the command line talk to."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from offshelf.errors import (
    Conflict,
    InvalidInput,
    NotFound,
    OffshelfError,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
    UnknownName,
)
from offshelf.rpc.status import ERROR_METADATA, public_name, status_of
from offshelf.v1 import dataset_pb2_grpc, orchestrator_pb2_grpc, predictor_pb2, predictor_pb2_grpc, selection_pb2
from offshelf.v1 import orchestrator_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "a-token-for-tests"
MODEL = "a" * 64
EXTRACTORS = ("googlenet", "hog")
CLASSIFIERS = ("KNN", "SVM")
ARTIFACTS = {
    "report.html": b"<html>",
    "table.csv": b"extractor,KNN,SVM\n",
    "scores.parquet": b"PAR1" * 700_000,
    "skipped.csv": b"path\n",
    "run.json": b'{"images_extracted": 0, "verdict": "googlenet + SVM"}',
    "model/model.skops": b"skops",
    "model/model.json": b"{}",
}
MEANS = {("googlenet", "SVM"): 0.97, ("googlenet", "KNN"): 0.96, ("hog", "SVM"): 0.7, ("hog", "KNN"): 0.65}


def score(extractor: str, classifier: str) -> selection_pb2.CombinationScore:
    """Make the score of a combination."""
    return selection_pb2.CombinationScore(
        combination=selection_pb2.Combination(extractor=extractor, classifier=classifier),
        mean=MEANS[extractor, classifier],
        standard_deviation=0.012,
        p_value=1.0,
        different_from_best=extractor == "hog",
    )


@dataclass
class FakeOrchestrator(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Runs that end at once, unless the test says how they end."""

    predictor: str = ""
    runs: dict[str, pb.Run] = field(default_factory=dict)
    end: pb.RunState.ValueType = pb.RUN_STATE_SUCCEEDED
    lost_watches: int = 0
    """So many watches are lost before the run ends."""
    until_cancelled: bool = False
    stubborn: bool = False
    """Runs do not end when they are asked to stop."""
    trouble: str = ""
    """Why runs are missing in its list."""
    busy: int = 0
    cuts: int = 0
    """Downloads that break off after their first chunk."""
    is_old: bool = False
    """Whether it knows nothing of offsets."""
    asked_from: list[int] = field(default_factory=list)
    """Downloads that are refused for now."""
    notices: list[str] = field(default_factory=list)
    """What is in the way while a run goes on."""
    artifacts: dict[str, bytes] = field(default_factory=lambda: dict(ARTIFACTS))
    requests: list[pb.CreateRunRequest] = field(default_factory=list)
    cancelled: threading.Event = field(default_factory=threading.Event)

    def CreateRun(self, request: pb.CreateRunRequest, context: Any) -> pb.CreateRunResponse:  # noqa: N802
        """Take a run down."""
        check_token(context)
        self.requests.append(request)
        for name in request.spec.extractors:
            if name not in EXTRACTORS:
                fail(context, UnknownName.among("extractor", name, EXTRACTORS))
        run = pb.Run(id=f"01RUN{len(self.runs)}", spec=request.spec, state=pb.RUN_STATE_PENDING)
        run.created_at.GetCurrentTime()
        given = request.spec.dataset
        run.spec.dataset = given.replace("dataset:", "store:") if given.startswith("dataset:") else f"folder:{given}"
        run.user = "ada"
        self.runs[run.id] = run
        return pb.CreateRunResponse(run=run, resumed=len(self.runs) > 1)

    def GetRun(self, request: pb.GetRunRequest, context: Any) -> pb.GetRunResponse:  # noqa: N802
        """Show a run."""
        check_token(context)
        return pb.GetRunResponse(run=self._find(request.run_id, context))

    def WatchRun(self, request: pb.WatchRunRequest, context: Any) -> Iterator[pb.WatchRunResponse]:  # noqa: N802
        """Let a run go on to its end."""
        check_token(context)
        run = self._find(request.run_id, context)
        if run.state == pb.RUN_STATE_PENDING:
            run.state = pb.RUN_STATE_RUNNING
            run.activity = "extracting hog"
            run.left_out.append("googlenet: no weights. Set OFFSHELF_WEIGHTS.")
            run.progress.CopyFrom(pb.RunProgress(images_total=4, images_scanned=4, seconds_left=-1))
            run.notices.extend(self.notices)
        yield pb.WatchRunResponse(run=run)
        if self.lost_watches:
            self.lost_watches -= 1
            fail(context, Unavailable("This server is stopping."))
        if self.until_cancelled:
            self.cancelled.wait()
        self._finish(run)
        yield pb.WatchRunResponse(run=run)

    def _finish(self, run: pb.Run) -> None:
        run.ClearField("notices")
        run.state = pb.RUN_STATE_CANCELLED if self.cancelled.is_set() else self.end
        if run.state == pb.RUN_STATE_FAILED:
            run.error = "The store is full."
        if run.state != pb.RUN_STATE_SUCCEEDED:
            return
        run.progress.CopyFrom(pb.RunProgress(images_reused=1800, scores_reused=180, images_skipped=2))
        pairs = sorted(MEANS, key=lambda pair: -MEANS[pair])
        fitted = run.spec.choice if run.spec.HasField("choice") else score(*pairs[0]).combination
        run.result.CopyFrom(
            pb.RunResult(
                scores=[score(*pair) for pair in pairs],
                verdict="googlenet + SVM is the best.",
                model=MODEL,
                fitted=fitted,
                artifacts=sorted(self.artifacts),
                classes=["cat", "dog"],
            )
        )

    def ListRuns(self, request: pb.ListRunsRequest, context: Any) -> pb.ListRunsResponse:  # noqa: N802
        """List the runs, two a page."""
        check_token(context)
        newest_first = sorted(self.runs, reverse=True)
        page = [run_id for run_id in newest_first if not request.page_token or run_id < request.page_token][:2]
        more = bool(page) and page[-1] != newest_first[-1]
        return pb.ListRunsResponse(
            runs=[self.runs[name] for name in page],
            next_page_token=page[-1] if more and not self.trouble else "",
            trouble=self.trouble,
        )

    def CancelRun(self, request: pb.CancelRunRequest, context: Any) -> pb.CancelRunResponse:  # noqa: N802
        """Stop a run."""
        check_token(context)
        run = self._find(request.run_id, context)
        if run.state == pb.RUN_STATE_SUCCEEDED:
            fail(context, Conflict(f"Run {run.id} has succeeded already."))
        if not self.stubborn:
            self.cancelled.set()
            self._finish(run)
        return pb.CancelRunResponse(run=run)

    def ReadArtifact(  # noqa: N802
        self, request: pb.ReadArtifactRequest, context: Any
    ) -> Iterator[pb.ReadArtifactResponse]:
        """Send an artefact in chunks."""
        check_token(context)
        if self.busy:
            self.busy -= 1
            fail(context, ResourceExhausted("8 downloads of yours are going on: try again in a moment."))
        if request.name not in self.artifacts:
            fail(context, NotFound(f"Run {request.run_id} has no {request.name}."))
        data = self.artifacts[request.name]
        self.asked_from.append(request.offset)
        begin = 0 if self.is_old else request.offset
        for start in range(begin, len(data), 1 << 20):
            if self.cuts and start > begin:
                self.cuts -= 1
                fail(context, Unavailable("The connection was lost."))
            chunk = data[start : start + (1 << 20)]
            yield pb.ReadArtifactResponse(chunk=chunk, offset=0 if self.is_old else start)

    def DescribeCatalog(  # noqa: N802
        self,
        request: pb.DescribeCatalogRequest,  # noqa: ARG002
        context: Any,
    ) -> pb.DescribeCatalogResponse:
        """List two extractors, of which one cannot be used."""
        check_token(context)
        return pb.DescribeCatalogResponse(
            extractors=[
                pb.CatalogExtractor(
                    entry=pb.CatalogEntry(name=name, description=f"What {name} is."),
                    dimension=13,
                    available=name == "hog",
                    reason="" if name == "hog" else "no weights: set OFFSHELF_WEIGHTS.",
                )
                for name in EXTRACTORS
            ],
            classifiers=[pb.CatalogEntry(name=name, description=f"What {name} is.") for name in CLASSIFIERS],
            measures=[pb.CatalogEntry(name="accuracy", description="The share that is right.")],
        )

    def LocatePredictor(  # noqa: N802
        self,
        request: pb.LocatePredictorRequest,  # noqa: ARG002
        context: Any,
    ) -> pb.LocatePredictorResponse:
        """Name the predictor."""
        check_token(context)
        return pb.LocatePredictorResponse(address=self.predictor)

    def _find(self, run_id: str, context: Any) -> pb.Run:
        if run_id not in self.runs:
            fail(context, NotFound(f"There is no run {run_id!r}."))
        return self.runs[run_id]


@dataclass
class FakePredictor(predictor_pb2_grpc.PredictorServiceServicer):
    """Calls everything a dog, except what is no image."""

    models: set[str] = field(default_factory=lambda: {MODEL})
    chunks: list[int] = field(default_factory=list)
    """How many images came with each request."""
    unavailable: int = 0
    """So many requests are refused."""

    def Predict(  # noqa: N802
        self, request: predictor_pb2.PredictRequest, context: Any
    ) -> predictor_pb2.PredictResponse:
        """Classify."""
        check_token(context)
        if self.unavailable:
            self.unavailable -= 1
            fail(context, Unavailable("This replica is stopping."))
        self.chunks.append(len(request.images))
        results = [
            predictor_pb2.Prediction(error="is no image")
            if data == b"text"
            else predictor_pb2.Prediction(label="dog", probabilities={"dog": 0.75, "cat": 0.25})
            for data in request.images
        ]
        return predictor_pb2.PredictResponse(results=results)

    def DescribeModel(  # noqa: N802
        self, request: predictor_pb2.DescribeModelRequest, context: Any
    ) -> predictor_pb2.DescribeModelResponse:
        """Show a model."""
        check_token(context)
        if request.model not in self.models:
            fail(context, NotFound(f"There is no model {request.model}."))
        return predictor_pb2.DescribeModelResponse(
            model=request.model, extractor="googlenet", classifier="SVM", classes=["cat", "dog"]
        )

    def ListModels(  # noqa: N802
        self, request: predictor_pb2.ListModelsRequest, context: Any
    ) -> predictor_pb2.ListModelsResponse:
        """Not asked for by the SDK."""
        raise NotImplementedError


def check_token(context: Any) -> None:
    """Refuse a call without the right token."""
    if dict(context.invocation_metadata()).get("authorization") != f"Bearer {TOKEN}":
        fail(context, Unauthenticated("The token is wrong."))


def fail(context: Any, error: OffshelfError) -> NoReturn:
    """End a call as our servers do."""
    context.set_trailing_metadata(((ERROR_METADATA, public_name(error)),))
    context.abort(status_of(error), error.message)
    raise InvalidInput("abort raises")


@contextmanager
def serving(
    orchestrator: FakeOrchestrator,
    predictor: FakePredictor,
    datasets: dataset_pb2_grpc.DatasetServiceServicer | None = None,
) -> Iterator[str]:
    """Serve them on a free port of this process, and give the address."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 32 << 20)])
    orchestrator_pb2_grpc.add_OrchestratorServiceServicer_to_server(orchestrator, server)
    predictor_pb2_grpc.add_PredictorServiceServicer_to_server(predictor, server)
    if datasets is not None:
        dataset_pb2_grpc.add_DatasetServiceServicer_to_server(datasets, server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    orchestrator.predictor = orchestrator.predictor or address
    server.start()
    try:
        yield address
    finally:
        orchestrator.cancelled.set()
        server.stop(None).wait()
