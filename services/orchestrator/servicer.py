"""The orchestrator's RPCs: protobuf to domain and back. What each means stands in the contract (protos/)."""

# ruff: noqa: N802, D102  (gRPC's names; the contract documents them)

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from offshelf import measures
from offshelf.errors import InvalidInput
from offshelf.estimators import registry as classifiers
from offshelf.rpc.audit import name_target
from offshelf.rpc.auth import current_caller
from offshelf.runs import Combination, RunFetch, RunGoal, RunState
from offshelf.services.orchestrator.holdings.admission import Admission
from offshelf.services.orchestrator.runs.intake import Request
from offshelf.v1 import orchestrator_pb2 as pb
from offshelf.v1 import orchestrator_pb2_grpc, selection_pb2

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import grpc.aio

    from offshelf.runs import Score
    from offshelf.services.orchestrator.runs.orchestration import Orchestrator
    from offshelf.services.orchestrator.runs.status import Progress, RunResult, RunStatus
    from offshelf.store import ObjectStore

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_RUNS_A_PAGE = 50
_MOST_RUNS_A_PAGE = 200
MOST_DOWNLOADS = 32
MOST_DOWNLOADS_OF_USER = 8
"""At a time: each holds some chunks for as long as its client does not read them. Clients use one."""

_UNREAD_SECONDS = 60.0
"""A download of which nothing is read for so long takes no place from other users any more."""

MOST_WATCHES = 4096
MOST_WATCHES_OF_USER = 256
"""At a time; far more than people have windows."""

_CHUNK_BYTES = 256 * 1024

_LARGEST_OFFSET = 2**63 - 1
"""The largest that file systems take."""

_ULID = re.compile(r"[0-9A-HJKMNP-TV-Z]{26}")


class OrchestratorServicer(orchestrator_pb2_grpc.OrchestratorServiceServicer):
    """Converts, calls one method, converts."""

    def __init__(
        self,
        orchestrator: Orchestrator,
        store: ObjectStore,
        locate_predictor: Callable[[], Awaitable[str]],
        *,
        unread_seconds: float = _UNREAD_SECONDS,
    ) -> None:
        self._orchestrator = orchestrator
        self._store = store
        self._locate_predictor = locate_predictor
        self._unread_seconds = unread_seconds
        self._downloads = Admission(most=MOST_DOWNLOADS, most_of_user=MOST_DOWNLOADS_OF_USER, what="downloads")
        self._watches = Admission(most=MOST_WATCHES, most_of_user=MOST_WATCHES_OF_USER, what="watched runs")

    async def CreateRun(self, request: pb.CreateRunRequest, context: Context) -> pb.CreateRunResponse:
        del context
        if not request.request_id:
            raise InvalidInput("CreateRun needs a request id, so that a repeated request starts nothing twice.")
        spec = request.spec
        status, resumed = await self._orchestrator.create(
            Request(
                dataset=spec.dataset,
                extractors=spec.extractors,
                classifiers=spec.classifiers,
                measure=spec.measure,
                folds=spec.folds,
                seed=spec.seed,
                choice=Combination(spec.choice.extractor, spec.choice.classifier) if spec.HasField("choice") else None,
                goal=_goal(spec.goal),
                fetch=_fetch(spec.fetch),
            ),
            request_id=request.request_id,
            user=current_caller().name,
        )
        name_target(status.run_id)
        return pb.CreateRunResponse(run=_run(status), resumed=resumed)

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        del context
        return pb.GetRunResponse(run=_run(await self._orchestrator.get(request.run_id)))

    async def WatchRun(self, request: pb.WatchRunRequest, context: Context) -> AsyncIterator[pb.WatchRunResponse]:
        del context
        with self._watches.admitted(current_caller().name):
            async with aclosing(self._orchestrator.watch(request.run_id)) as updates:
                async for status in updates:
                    yield pb.WatchRunResponse(run=_run(status))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        del context
        if request.page_token and not _ULID.fullmatch(request.page_token):
            raise InvalidInput("The page token is none that this service gave.")
        limit = min(request.page_size or _RUNS_A_PAGE, _MOST_RUNS_A_PAGE)
        page = await self._orchestrator.list(limit=limit, before=request.page_token)
        return pb.ListRunsResponse(runs=map(_run, page.runs), next_page_token=page.next, trouble=page.trouble)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        del context
        return pb.CancelRunResponse(run=_run(await self._orchestrator.cancel(request.run_id, current_caller())))

    async def ReadArtifact(
        self, request: pb.ReadArtifactRequest, context: Context
    ) -> AsyncIterator[pb.ReadArtifactResponse]:
        del context
        if request.offset > _LARGEST_OFFSET:
            raise InvalidInput("No artefact is so large that one could begin to read there.")
        with self._downloads.admitted(current_caller().name):
            key = await self._orchestrator.artifact(request.run_id, request.name)
            offset = request.offset
            while True:
                chunk = await asyncio.to_thread(self._store.get, key, offset=offset, length=_CHUNK_BYTES)
                if chunk or not offset:
                    with self._downloads.set_aside_after(self._unread_seconds):
                        yield pb.ReadArtifactResponse(chunk=chunk, offset=offset)
                if len(chunk) < _CHUNK_BYTES:
                    return
                offset += len(chunk)

    async def DescribeCatalog(self, request: pb.DescribeCatalogRequest, context: Context) -> pb.DescribeCatalogResponse:
        del request, context
        listed = await asyncio.to_thread(self._orchestrator.catalog.list)
        return pb.DescribeCatalogResponse(
            extractors=[
                pb.CatalogExtractor(
                    entry=pb.CatalogEntry(name=spec.name, description=spec.description),
                    dimension=spec.dimension,
                    available=not reason,
                    reason=reason,
                    downloadable=bool(reason) and fetchable,
                    licence=spec.licence,
                    restriction=spec.restriction,
                )
                for spec, reason, fetchable in listed
            ],
            classifiers=[
                pb.CatalogEntry(name=spec.name, description=spec.description)
                for spec in classifiers.CLASSIFIERS.values()
            ],
            measures=[
                pb.CatalogEntry(name=name, description=description) for name, description in measures.MEASURES.items()
            ],
        )

    async def LocatePredictor(self, request: pb.LocatePredictorRequest, context: Context) -> pb.LocatePredictorResponse:
        del request, context
        return pb.LocatePredictorResponse(address=await self._locate_predictor())


_GOALS = {RunGoal.COMPARISON: pb.RUN_GOAL_COMPARISON, RunGoal.FEATURES: pb.RUN_GOAL_FEATURES}

_FETCHES = {RunFetch.AUTO: pb.RUN_FETCH_AUTO, RunFetch.NEVER: pb.RUN_FETCH_NEVER}

_STATES = {
    RunState.PENDING: pb.RUN_STATE_PENDING,
    RunState.RUNNING: pb.RUN_STATE_RUNNING,
    RunState.INTERRUPTED: pb.RUN_STATE_INTERRUPTED,
    RunState.SUCCEEDED: pb.RUN_STATE_SUCCEEDED,
    RunState.FAILED: pb.RUN_STATE_FAILED,
    RunState.CANCELLED: pb.RUN_STATE_CANCELLED,
}


def _goal(goal: pb.RunGoal.ValueType) -> RunGoal:
    if goal == pb.RUN_GOAL_UNSPECIFIED:
        return RunGoal.COMPARISON
    known = {number: name for name, number in _GOALS.items()}
    if goal not in known:
        raise InvalidInput("This server does not know what the run is to come to: it is older than its client.")
    return known[goal]


def _fetch(fetch: pb.RunFetch.ValueType) -> RunFetch:
    if fetch == pb.RUN_FETCH_UNSPECIFIED:
        return RunFetch.AUTO
    known = {number: name for name, number in _FETCHES.items()}
    if fetch not in known:
        raise InvalidInput("This server does not know what the run may download: it is older than its client.")
    return known[fetch]


def _run(status: RunStatus) -> pb.Run:
    spec = status.spec
    created = Timestamp()
    created.FromDatetime(status.created_at)
    return pb.Run(
        id=status.run_id,
        spec=pb.RunSpec(
            dataset=spec.source,
            extractors=spec.extractors,
            classifiers=spec.classifiers,
            measure=spec.measure,
            folds=spec.folds,
            seed=spec.seed,
            choice=_combination(spec.choice) if spec.choice else None,
            goal=_GOALS[spec.goal],
            fetch=_FETCHES[spec.fetch],
        ),
        state=_STATES[status.state],
        created_at=created,
        activity=status.activity,
        progress=_progress(status.progress),
        error=status.error,
        left_out=status.left_out,
        result=_result(status.result) if status.result else None,
        notices=status.notices.lines,
        user=status.user,
        conditions=status.conditions,
    )


def _progress(progress: Progress) -> pb.RunProgress:
    return pb.RunProgress(
        images_scanned=progress.images_scanned,
        images_total=progress.images_total,
        images_extracted=progress.images_extracted,
        images_reused=progress.images_reused,
        images_remaining=progress.images_remaining,
        images_per_second=progress.images_rate.now if progress.images_remaining else 0.0,
        scores_computed=progress.scores_computed,
        scores_reused=progress.scores_reused,
        scores_remaining=progress.scores_remaining,
        combinations_done=progress.combinations_done,
        combinations_total=progress.combinations_total,
        seconds_left=progress.seconds_left,
        images_skipped=progress.images_skipped,
        best=_score(progress.best) if progress.best else None,
    )


def _result(result: RunResult) -> pb.RunResult:
    return pb.RunResult(
        scores=map(_score, result.scores),
        verdict=result.verdict,
        model=result.model,
        fitted=_combination(result.fitted) if result.fitted else None,
        artifacts=sorted(result.artifacts),
        classes=result.classes,
        dataset=result.dataset,
    )


def _score(score: Score) -> selection_pb2.CombinationScore:
    return selection_pb2.CombinationScore(
        combination=_combination(score.combination),
        mean=score.mean,
        standard_deviation=score.standard_deviation,
        p_value=score.p_value,
        different_from_best=score.different_from_best,
    )


def _combination(combination: Combination) -> selection_pb2.Combination:
    return selection_pb2.Combination(extractor=combination.extractor, classifier=combination.classifier)
