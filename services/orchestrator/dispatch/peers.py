"""The other services as the orchestrator sees them: dataclasses in, dataclasses out; gRPC stops here."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, TypeVar

from offshelf.errors import DataLoss, Unavailable
from offshelf.rpc.channel import open_channel
from offshelf.runs import Combination, Score
from offshelf.services.orchestrator.dispatch.units import (
    ComparisonOutcome,
    ExtractionOutcome,
    ExtractionUnit,
    FitUnit,
    FoldResult,
    ReportRequest,
    ScoringUnit,
    UnreadImage,
)
from offshelf.v1 import (
    extractor_pb2,
    extractor_pb2_grpc,
    selection_pb2,
    stats_pb2,
    stats_pb2_grpc,
    trainer_pb2,
    trainer_pb2_grpc,
)

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping

    import grpc.aio

T = TypeVar("T")

NO_PROGRESS_SECONDS = 120.0
"""A stream that says nothing for so long is given up; services send a sign of life every few seconds."""

STATS_SECONDS = 300.0
"""Deadline of the unary calls to stats."""


class GrpcPeers:
    """Calls the other services. A channel a call: a unit takes seconds, and replicas come and go with their ports."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    async def extract(
        self, address: str, unit: ExtractionUnit, on_progress: Callable[[int], None]
    ) -> ExtractionOutcome:
        """Have one unit extracted; `on_progress` gets the number of images dealt with so far."""
        async with self._channel(address) as channel:
            stub = extractor_pb2_grpc.ExtractorServiceStub(channel)
            call = stub.ExtractSegment(
                extractor_pb2.ExtractSegmentRequest(
                    extractor=unit.extractor,
                    fingerprint=unit.fingerprint,
                    dataset=unit.dataset,
                    source=unit.source,
                    images=[bytes.fromhex(digest) for digest in unit.images],
                )
            )
            async with aclosing(_watched(call)) as answers:
                async for answer in answers:
                    if answer.HasField("written"):
                        written = answer.written
                        return ExtractionOutcome(
                            key=written.key,
                            extracted=written.images_extracted,
                            quarantined=written.images_quarantined,
                            unread=tuple(UnreadImage(image.image.hex(), image.reason) for image in written.unread),
                        )
                    on_progress(answer.progress.images_done)
            raise DataLoss(f"The extractor {unit.extractor} ended its answer early.")

    async def cross_validate(self, address: str, unit: ScoringUnit) -> AsyncGenerator[FoldResult, None]:
        """Have classifiers evaluated on one fold; yields each as it is done."""
        async with self._channel(address) as channel:
            stub = trainer_pb2_grpc.TrainerServiceStub(channel)
            call = stub.CrossValidate(
                trainer_pb2.CrossValidateRequest(
                    dataset=unit.dataset,
                    table=unit.table,
                    fingerprint=unit.fingerprint,
                    plan=selection_pb2.ValidationPlan(folds=unit.folds, seed=unit.seed),
                    fold=unit.fold,
                    classifiers=unit.classifiers,
                    measure=unit.measure,
                )
            )
            async with aclosing(_watched(call)) as answers:
                async for answer in answers:
                    if answer.HasField("score"):
                        score = answer.score
                        yield FoldResult(score.classifier, score.scores, score.fold, dict(score.measures))

    async def fit(self, address: str, unit: FitUnit) -> str:
        """Have a classifier fitted on all images; returns the model's digest."""
        async with self._channel(address) as channel:
            stub = trainer_pb2_grpc.TrainerServiceStub(channel)
            call = stub.Fit(
                trainer_pb2.FitRequest(
                    dataset=unit.dataset,
                    table=unit.table,
                    fingerprint=unit.fingerprint,
                    extractor=unit.extractor,
                    classifier=unit.classifier,
                    measure=unit.measure,
                    seed=unit.seed,
                )
            )
            async with aclosing(_watched(call)) as answers:
                async for answer in answers:
                    if answer.model:
                        return str(answer.model)
            raise DataLoss("The trainer ended its answer early.")

    async def compare(
        self, address: str, dataset: str, measure: str, scores: Mapping[Combination, str]
    ) -> ComparisonOutcome:
        """Have all combinations compared."""
        async with self._channel(address) as channel:
            stub = stats_pb2_grpc.StatsServiceStub(channel)
            answer = await stub.Compare(
                stats_pb2.CompareRequest(
                    dataset=dataset,
                    measure=measure,
                    entries=[
                        stats_pb2.CompareRequest.Entry(combination=_combination(combination), scores=digest)
                        for combination, digest in scores.items()
                    ],
                ),
                timeout=STATS_SECONDS,
            )
            return ComparisonOutcome(
                comparison=answer.comparison,
                verdict=answer.verdict,
                scores=tuple(
                    Score(
                        Combination(score.combination.extractor, score.combination.classifier),
                        score.mean,
                        score.standard_deviation,
                        score.p_value,
                        score.different_from_best,
                    )
                    for score in answer.scores
                ),
            )

    async def render_report(self, address: str, request: ReportRequest) -> dict[str, str]:
        """Have the report written; returns keys by artefact name."""
        async with self._channel(address) as channel:
            stub = stats_pb2_grpc.StatsServiceStub(channel)
            answer = await stub.RenderReport(
                stats_pb2.RenderReportRequest(
                    comparison=request.comparison,
                    title=request.title,
                    skipped=[
                        stats_pb2.SkippedImage(
                            path=image.path, extractor=image.extractor, status=image.status, reason=image.reason
                        )
                        for image in request.skipped
                    ],
                    left_out=request.left_out,
                ),
                timeout=STATS_SECONDS,
            )
            return dict(answer.keys)

    def _channel(self, address: str) -> grpc.aio.Channel:
        return open_channel(address, token=self._token)


def _combination(combination: Combination) -> selection_pb2.Combination:
    return selection_pb2.Combination(extractor=combination.extractor, classifier=combination.classifier)


async def _watched(call: grpc.aio.UnaryStreamCall[Any, T]) -> AsyncGenerator[T, None]:
    """Yield a stream's messages; give it up when none comes for too long, or when the reader goes."""
    stream = call.__aiter__()
    try:
        while True:
            try:
                async with asyncio.timeout(NO_PROGRESS_SECONDS):
                    message = await anext(stream)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise Unavailable(f"A service has said nothing for {NO_PROGRESS_SECONDS:.0f} s.") from None
            yield message
    finally:
        call.cancel()
