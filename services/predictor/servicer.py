"""The predictor's RPCs: protobuf to plain values and back. What each means stands in the contract (protos/)."""

# ruff: noqa: N802, D102  (gRPC's names; the contract documents them)

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from offshelf.v1 import predictor_pb2 as pb
from offshelf.v1 import predictor_pb2_grpc

if TYPE_CHECKING:
    import grpc.aio
    from prometheus_client import CollectorRegistry

    from offshelf.audit import AuditTrail
    from offshelf.rpc.offload import Offload
    from offshelf.services.predictor.metrics import PredictorMetrics
    from offshelf.services.predictor.serving import ModelServer

    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class PredictorServicer(predictor_pb2_grpc.PredictorServiceServicer):
    """Converts, calls one method, converts."""

    name = "offshelf.v1.PredictorService"

    def __init__(self, models: ModelServer, offload: Offload, audit: AuditTrail, metrics: PredictorMetrics) -> None:
        self._models = models
        self._offload = offload
        self._metrics = metrics
        self.audit = audit

    def register(self, server: grpc.aio.Server) -> None:
        """Add this servicer to a server."""
        predictor_pb2_grpc.add_PredictorServiceServicer_to_server(self, server)

    def measure(self, registry: CollectorRegistry) -> None:
        """Let Prometheus read what is counted here."""
        self._metrics.register(registry)

    async def warm_up(self) -> None:
        """Import what the first request would otherwise wait for."""
        await asyncio.to_thread(self._models.warm_up)

    async def close(self) -> None:
        """Stop what still runs, then give the extractors back."""
        await self._offload.close()
        await asyncio.to_thread(self._models.close)

    async def Predict(self, request: pb.PredictRequest, context: Context) -> pb.PredictResponse:
        del context
        predictions = await self._offload.run(self._models.predict, request.model, tuple(request.images))
        self._metrics.images(len(predictions), refused=sum(bool(each.error) for each in predictions))
        return pb.PredictResponse(
            results=[
                pb.Prediction(label=each.label, probabilities=each.probabilities, error=each.error)
                for each in predictions
            ]
        )

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        del context
        page = await self._offload.run(self._models.list, request.page_size, request.page_token)
        return pb.ListModelsResponse(models=page.models, next_page_token=page.next_token)

    async def DescribeModel(self, request: pb.DescribeModelRequest, context: Context) -> pb.DescribeModelResponse:
        del context
        card = await self._offload.run(self._models.describe, request.model)
        return pb.DescribeModelResponse(
            model=card.digest,
            extractor=card.extractor,
            classifier=card.classifier,
            classes=card.classes,
            card_json=card.to_json().decode(),
        )
