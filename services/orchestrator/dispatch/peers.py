"""The other services as the orchestrator sees them: dataclasses in, dataclasses out; gRPC stops here."""

from __future__ import annotations

import asyncio
import time
from contextlib import aclosing, asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import grpc

from offshelf.errors import Conflict, DataLoss, EngineMismatch, EngineUnavailable, StoreUnavailable, Unavailable
from offshelf.rpc.channel import open_channel
from offshelf.runs import Combination, Score
from offshelf.services.orchestrator.dispatch.channels import Channels
from offshelf.services.orchestrator.dispatch.failures import Unreached
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
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from pathlib import Path

    from offshelf.services.orchestrator.fleet.replicas import Replica

T = TypeVar("T")

NO_PROGRESS_SECONDS = 120.0
"""A stream that says nothing for so long is given up; services send a sign of life every few seconds."""

GONE_SECONDS = 15.0
"""The same for a replica that is no longer in the pool. One that only drains goes on with its signs of life and may
finish; one whose node has vanished leaves a connection that nobody ever closes."""

STATS_SECONDS = 1800.0
"""Deadline of the unary calls to stats. They read a thousand objects, one after the other, which a slow store stretches
to minutes; and stats waits for one that is away, and says so, long before this."""

_CONNECT_SECONDS = 5.0
_LOOK_SECONDS = 2.0


class GrpcPeers:
    """Calls the other services, over one connection a replica.

    Parameters
    ----------
    token
        What embedded services ask for.
    tls
        Folder with tls.crt, tls.key and ca.crt, by which services in a cluster know each other. When the files change,
        new calls use the new ones.
    plaintext
        Whether services beyond this machine may be called without TLS.
    is_ready
        Tells whether a replica is still in the pool.
    """

    def __init__(
        self,
        token: str | None = None,
        tls: Path | None = None,
        plaintext: bool = False,  # noqa: FBT001, FBT002  (given by name)
        *,
        is_ready: Callable[[Replica], bool] = lambda _: True,
    ) -> None:
        self._is_ready = is_ready

        def open_to(replica: Replica) -> grpc.aio.Channel:
            return open_channel(
                replica.address, token=token, tls=tls, server_name=replica.server_name, plaintext=plaintext
            )

        self._channels = Channels(open_to)

    async def close(self) -> None:
        """Close all connections."""
        await self._channels.close()

    async def extract(
        self, replica: Replica, unit: ExtractionUnit, on_progress: Callable[[int], None]
    ) -> ExtractionOutcome:
        """Have one unit extracted; `on_progress` gets the number of images dealt with so far."""
        async with self._connection(replica) as channel:
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
            written: extractor_pb2.SegmentWritten | None = None
            async with aclosing(self._watched(call, replica)) as answers:
                # To the end: a call that is left before counts as cancelled over there.
                async for answer in answers:
                    if answer.HasField("written"):
                        written = answer.written
                    else:
                        on_progress(answer.progress.images_done)
            if written is None:
                raise DataLoss(f"The extractor {unit.extractor} ended its answer early.")
            return ExtractionOutcome(
                key=written.key,
                extracted=written.images_extracted,
                quarantined=written.images_quarantined,
                dimension=written.dimension,
                unread=tuple(UnreadImage(image.image.hex(), image.reason) for image in written.unread),
            )

    async def cross_validate(self, replica: Replica, unit: ScoringUnit) -> AsyncGenerator[FoldResult, None]:
        """Have classifiers evaluated on one fold; yields each as it is done."""
        async with self._connection(replica) as channel:
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
            async with aclosing(self._watched(call, replica)) as answers:
                async for answer in answers:
                    if answer.HasField("score"):
                        score = answer.score
                        yield FoldResult(score.classifier, score.scores, score.fold, dict(score.measures))

    async def fit(self, replica: Replica, unit: FitUnit) -> str:
        """Have a classifier fitted on all images; returns the model's digest."""
        async with self._connection(replica) as channel:
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
            model = ""
            async with aclosing(self._watched(call, replica)) as answers:
                async for answer in answers:
                    model = answer.model or model
            if not model:
                raise DataLoss("The trainer ended its answer early.")
            return model

    async def compare(
        self, replica: Replica, dataset: str, measure: str, scores: Mapping[Combination, str]
    ) -> ComparisonOutcome:
        """Have all combinations compared."""
        async with self._connection(replica) as channel:
            stub = stats_pb2_grpc.StatsServiceStub(channel)
            call = stub.Compare(
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
            answer = await self._answer(call, replica)
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

    async def render_report(self, replica: Replica, request: ReportRequest) -> dict[str, str]:
        """Have the report written; returns keys by artefact name."""
        async with self._connection(replica) as channel:
            stub = stats_pb2_grpc.StatsServiceStub(channel)
            call = stub.RenderReport(
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
            answer = await self._answer(call, replica)
            return dict(answer.keys)

    @asynccontextmanager
    async def _connection(self, replica: Replica) -> AsyncIterator[grpc.aio.Channel]:
        """Use the connection to a replica.

        Raises
        ------
        Unreached
            For a call that could not begin, or that got to something else: another version of the service in the middle
            of an update, another pod that was given the address of one that has gone.
        """
        async with self._channels.to(replica) as channel:
            connected = await _connects(channel)
            try:
                yield channel
            except (StoreUnavailable, EngineUnavailable, EngineMismatch):
                raise  # the replica is there, and says what is wrong elsewhere
            except Conflict as error:
                raise Unreached(error.message) from error
            except Unavailable as error:
                if connected:
                    raise
                raise Unreached(error.message) from error

    async def _watched(self, call: grpc.aio.UnaryStreamCall[Any, T], replica: Replica) -> AsyncGenerator[T, None]:
        """Yield a stream's messages; give it up when none comes for too long, or when the reader goes."""
        stream = call.__aiter__()
        waiting: asyncio.Future[T | None] | None = None
        try:
            while True:
                waiting = asyncio.ensure_future(anext(stream, None))
                await self._hear(waiting, replica, NO_PROGRESS_SECONDS)
                if (message := waiting.result()) is None:
                    return
                yield message
        finally:
            if waiting:
                waiting.cancel()
            call.cancel()

    async def _answer(self, call: grpc.aio.UnaryUnaryCall[Any, T], replica: Replica) -> T:
        """Wait for the answer of a unary call, which has a deadline, as long as its replica may give one."""
        waiting = asyncio.ensure_future(call)
        try:
            await self._hear(waiting, replica, float("inf"))
            return waiting.result()
        finally:
            waiting.cancel()

    async def _hear(self, waiting: asyncio.Future[Any], replica: Replica, seconds: float) -> None:
        """Wait for the next sign of a replica. Raises `Unavailable` after so many, or when it is gone and silent."""
        began = time.monotonic()
        gone: float | None = None
        while not waiting.done():
            await asyncio.wait([waiting], timeout=_LOOK_SECONDS)
            now = time.monotonic()
            if self._is_ready(replica):
                gone = None
            elif gone is None:
                gone = now
            if not waiting.done() and now - began >= seconds:
                raise Unavailable(f"A service has said nothing for {seconds:.0f} s.")
            if not waiting.done() and gone is not None and now - gone >= GONE_SECONDS:
                raise Unavailable("A service that has gone says nothing any more.")


async def _connects(channel: grpc.aio.Channel) -> bool:
    """Wait until a connection has come about, or has failed to; its calls say why."""
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            while (state := channel.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
                if state in {grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN}:
                    return False
                await channel.wait_for_state_change(state)
    except TimeoutError:
        return False
    return True


def _combination(combination: Combination) -> selection_pb2.Combination:
    return selection_pb2.Combination(extractor=combination.extractor, classifier=combination.classifier)
