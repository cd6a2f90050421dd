"""Starts the trainer: ``python -m offshelf.services.trainer``."""

import asyncio

from offshelf.rpc.offload import Offload
from offshelf.rpc.server import run
from offshelf.services.trainer.servicer import TrainerServicer
from offshelf.services.trainer.training import STUCK_SECONDS, Training
from offshelf.settings import Settings
from offshelf.store import open_store
from offshelf.workers import ONE_THREAD, WorkerPool

CALLS_PER_CORE = 4
"""Calls that wait in threads while the worker processes are busy."""
WAITING_CALLS = 64


async def compose(settings: Settings) -> TrainerServicer:
    """Put the service together."""
    # Makes the store if there is none; the workers only open it.
    await asyncio.to_thread(open_store, settings.store)
    pool = WorkerPool(
        settings.cores,
        "offshelf.services.trainer.work:make_handler",
        setup={"store": settings.store},
        environment=ONE_THREAD,
        stuck_seconds=STUCK_SECONDS,
    )
    offload = Offload(threads=CALLS_PER_CORE * settings.cores, queue=WAITING_CALLS)
    return TrainerServicer(Training(pool, settings.cores), offload)


if __name__ == "__main__":
    run(compose, "trainer")
