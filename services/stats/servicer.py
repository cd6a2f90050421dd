"""The stats RPCs: protobuf to plain values and back. What each means stands in the contract (protos/)."""

# ruff: noqa: N802, D102  (gRPC's names; the contract documents them)

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeAlias

from offshelf.runs import Combination
from offshelf.services.stats.page import SkippedImage
from offshelf.services.stats.report import ReportRequest, import_renderer, render_report
from offshelf.services.stats.stored import compare_scores
from offshelf.services.stats.verdict import verdict
from offshelf.v1 import selection_pb2, stats_pb2_grpc
from offshelf.v1 import stats_pb2 as pb

if TYPE_CHECKING:
    import grpc.aio

    from offshelf.rpc.offload import Offload
    from offshelf.services.stats.comparison import RankedCombination
    from offshelf.store import ObjectStore

    Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]


class StatsServicer(stats_pb2_grpc.StatsServiceServicer):
    """Converts, calls one function, converts."""

    name = "offshelf.v1.StatsService"

    def __init__(self, store: ObjectStore, offload: Offload) -> None:
        self._store = store
        self._offload = offload

    def register(self, server: grpc.aio.Server) -> None:
        """Add this servicer to a server."""
        stats_pb2_grpc.add_StatsServiceServicer_to_server(self, server)

    async def warm_up(self) -> None:
        """Import what the first request would otherwise wait for."""
        await asyncio.to_thread(import_renderer)

    async def close(self) -> None:
        """Stop what still runs."""
        await self._offload.close()

    async def Compare(self, request: pb.CompareRequest, context: Context) -> pb.CompareResponse:
        del context
        entries = [
            (Combination(entry.combination.extractor, entry.combination.classifier), entry.scores)
            for entry in request.entries
        ]
        comparison = await self._offload.run(compare_scores, self._store, request.dataset, request.measure, entries)
        return pb.CompareResponse(
            comparison=comparison.digest,
            scores=[_score(ranked) for ranked in comparison.ranking],
            verdict=str(verdict(comparison)),
        )

    async def RenderReport(self, request: pb.RenderReportRequest, context: Context) -> pb.RenderReportResponse:
        del context
        asked = ReportRequest(
            comparison=request.comparison,
            title=request.title,
            skipped=tuple(
                SkippedImage(image.path, image.extractor, image.status, image.reason) for image in request.skipped
            ),
            left_out=tuple(request.left_out),
        )
        return pb.RenderReportResponse(keys=await self._offload.run(render_report, self._store, asked))


def _score(ranked: RankedCombination) -> selection_pb2.CombinationScore:
    return selection_pb2.CombinationScore(
        combination=selection_pb2.Combination(
            extractor=ranked.combination.extractor, classifier=ranked.combination.classifier
        ),
        mean=ranked.spread.mean,
        standard_deviation=ranked.spread.standard_deviation,
        p_value=ranked.p_value,
        different_from_best=ranked.different_from_best,
    )
