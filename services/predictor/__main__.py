"""Starts the predictor: ``python -m offshelf.services.predictor``."""

import asyncio

from offshelf.extraction.registry import EXTRACTORS
from offshelf.rpc.offload import Offload
from offshelf.rpc.server import run
from offshelf.services.predictor.installed import InstalledExtractors
from offshelf.services.predictor.servicer import PredictorServicer
from offshelf.services.predictor.serving import ModelServer
from offshelf.settings import Settings
from offshelf.store import open_store

CALLS_AT_ONCE = 4
WAITING_CALLS = 16
"""Each may hold a message of images, so the queue is short."""


async def compose(settings: Settings) -> PredictorServicer:
    """Put the service together."""
    store = await asyncio.to_thread(open_store, settings.store)
    models = ModelServer(store, InstalledExtractors(store, settings, EXTRACTORS), cores=settings.cores)
    return PredictorServicer(models, Offload(threads=CALLS_AT_ONCE, queue=WAITING_CALLS))


if __name__ == "__main__":
    run(compose, "predictor")
