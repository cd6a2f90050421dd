"""Starts the predictor: ``python -m offshelf.services.predictor``."""

import asyncio

from offshelf.audit import AuditTrail
from offshelf.extraction.registry import EXTRACTORS
from offshelf.rpc.offload import Offload
from offshelf.rpc.remote_engine import connector
from offshelf.rpc.server import run
from offshelf.services.predictor.installed import InstalledExtractors
from offshelf.services.predictor.metrics import PredictorMetrics
from offshelf.services.predictor.servicer import PredictorServicer
from offshelf.services.predictor.serving import ModelServer
from offshelf.settings import Settings
from offshelf.store import DOOR_SECONDS, open_store

CALLS_AT_ONCE = 4
WAITING_CALLS = 16
"""Each may hold a message of images, so the queue is short."""


async def compose(settings: Settings) -> PredictorServicer:
    """Put the service together."""
    store = await asyncio.to_thread(open_store, settings.store, patience=DOOR_SECONDS)
    metrics = PredictorMetrics()
    extractors = InstalledExtractors(store, settings, EXTRACTORS, connect=connector(settings, patience=DOOR_SECONDS))
    models = ModelServer(store, extractors, cores=settings.cores, on_load=metrics.loaded)
    return PredictorServicer(models, Offload(threads=CALLS_AT_ONCE, queue=WAITING_CALLS), AuditTrail(store), metrics)


if __name__ == "__main__":
    run(compose, "predictor")
