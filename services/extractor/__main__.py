"""Starts an extractor: ``OFFSHELF_EXTRACTOR=hog python -m offshelf.services.extractor``.

``OFFSHELF_EXTRACTOR=custom`` serves those that it is asked for: with parameters, and networks of users' own.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from offshelf.errors import InvalidInput
from offshelf.extraction.extractors import CUSTOM, Extractors
from offshelf.extraction.pipeline import Extraction
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.weights.fetching import FetchPolicy
from offshelf.rpc.remote_engine import PATIENCE_SECONDS, connector
from offshelf.rpc.server import run
from offshelf.services.extractor.memory import keep_little
from offshelf.services.extractor.segments import SegmentExtractor
from offshelf.services.extractor.servicer import ExtractorService
from offshelf.services.extractor.serving import CustomExtractors, OneExtractor
from offshelf.store import open_store

if TYPE_CHECKING:
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.services.extractor.serving import Serves
    from offshelf.settings import Settings


async def make_service(settings: Settings) -> ExtractorService:
    """Put an extractor together."""
    if not settings.extractor:
        raise InvalidInput(f"Set OFFSHELF_EXTRACTOR to the extractor to serve: {', '.join(EXTRACTORS)}, or {CUSTOM}.")
    store = await asyncio.to_thread(open_store, settings.store)
    extractors = Extractors(store, remote=[model.extractor for model in settings.remote_engines])
    connect = connector(settings, patience=PATIENCE_SECONDS)

    def make(spec: ExtractorSpec) -> Extraction:
        return Extraction(
            spec,
            store=store,
            weights=settings.weights,
            fetch=FetchPolicy.of(settings),
            cores=settings.cores,
            max_pixels=settings.max_image_pixels,
            decode_seconds=settings.decode_seconds,
            connect=connect,
        )

    serves: Serves
    if settings.extractor == CUSTOM:
        serves = CustomExtractors(extractors, make)
    else:
        serves = OneExtractor(make(await asyncio.to_thread(extractors.find, settings.extractor)))
    segments = SegmentExtractor(
        serves,
        store,
        roots=settings.data_roots,
        max_pixels=settings.max_image_pixels,
        buckets=settings.data_buckets,
    )
    return ExtractorService(serves, segments)


if __name__ == "__main__":
    keep_little()
    run(make_service, "extractor")
