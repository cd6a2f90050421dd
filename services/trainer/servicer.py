"""The trainer's RPCs: protobuf to plain values and back. What each means stands in the contract (protos/)."""

# ruff: noqa: N802, D102  (gRPC's names; the contract documents them)

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from offshelf.scores import ValidationPlan
from offshelf.services.trainer.training import FoldResult, Table, Training
from offshelf.v1 import trainer_pb2 as pb
from offshelf.v1 import trainer_pb2_grpc

if TYPE_CHECKING:
    import threading
    from collections.abc import AsyncIterator, Callable

    import grpc.aio

    from offshelf.rpc.offload import Offload

    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]

SIGN_OF_LIFE_SECONDS: Final = 2.0
"""How often a stream says something while there is nothing to say."""


class TrainerServicer(trainer_pb2_grpc.TrainerServiceServicer):
    """Converts, calls one method, converts."""

    name = "offshelf.v1.TrainerService"

    def __init__(self, training: Training, offload: Offload, *, idle: float = SIGN_OF_LIFE_SECONDS) -> None:
        self._training = training
        self._offload = offload
        self._idle = idle

    def register(self, server: grpc.aio.Server) -> None:
        """Add this servicer to a server."""
        trainer_pb2_grpc.add_TrainerServiceServicer_to_server(self, server)

    async def warm_up(self) -> None:
        """Start the worker processes and run every classifier once."""
        await asyncio.to_thread(self._training.warm_up)

    async def close(self) -> None:
        """Stop what still runs, then the worker processes."""
        await self._offload.close()
        await asyncio.to_thread(self._training.close)

    async def CrossValidate(
        self, request: pb.CrossValidateRequest, context: Context
    ) -> AsyncIterator[pb.CrossValidateResponse]:
        del context
        plan = ValidationPlan(request.plan.folds, request.plan.seed)

        def work(emit: Callable[[FoldResult], None], stop: threading.Event) -> None:
            self._training.cross_validate(
                _table(request), plan, request.fold, request.classifiers, request.measure, emit=emit, stop=stop
            )

        async with aclosing(self._offload.iterate(work, idle=self._idle)) as results:
            async for result in results:
                score = None if result is None else _fold_score(result, request.fold)
                yield pb.CrossValidateResponse(score=score)

    async def Fit(self, request: pb.FitRequest, context: Context) -> AsyncIterator[pb.FitResponse]:
        del context

        def work(emit: Callable[[str], None], stop: threading.Event) -> None:
            emit(
                self._training.fit(
                    _table(request), request.extractor, request.classifier, request.measure, request.seed, stop=stop
                )
            )

        async with aclosing(self._offload.iterate(work, idle=self._idle)) as models:
            async for model in models:
                yield pb.FitResponse(model=model or "")


def _table(request: pb.CrossValidateRequest | pb.FitRequest) -> Table:
    return Table(request.dataset, request.table, request.fingerprint)


def _fold_score(result: FoldResult, fold: int) -> pb.FoldScore:
    return pb.FoldScore(classifier=result.classifier, scores=result.scores, fold=fold, measures=result.measures)
