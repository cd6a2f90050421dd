"""Starts stats: ``python -m offshelf.services.stats``."""

import asyncio

from offshelf.rpc.offload import Offload
from offshelf.rpc.server import run
from offshelf.services.stats.servicer import StatsServicer
from offshelf.settings import Settings
from offshelf.store import open_store

CALLS_AT_ONCE = 2
WAITING_CALLS = 32


async def compose(settings: Settings) -> StatsServicer:
    """Put the service together."""
    store = await asyncio.to_thread(open_store, settings.store)
    return StatsServicer(store, Offload(threads=CALLS_AT_ONCE, queue=WAITING_CALLS))


if __name__ == "__main__":
    run(compose, "stats")
