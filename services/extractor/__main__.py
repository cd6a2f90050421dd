"""Starts an extractor: ``OFFSHELF_EXTRACTOR=hog python -m offshelf.services.extractor``."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from offshelf.errors import InvalidInput
from offshelf.extraction.pipeline import Extraction
from offshelf.extraction.registry import EXTRACTORS, find
from offshelf.rpc.server import run
from offshelf.services.extractor.segments import SegmentExtractor
from offshelf.services.extractor.servicer import ExtractorService
from offshelf.store import open_store

if TYPE_CHECKING:
    from offshelf.settings import Settings


async def make_service(settings: Settings) -> ExtractorService:
    """Put an extractor together."""
    if not settings.extractor:
        raise InvalidInput(f"Set OFFSHELF_EXTRACTOR to the extractor to serve: {', '.join(EXTRACTORS)}.")
    store = await asyncio.to_thread(open_store, settings.store)
    extraction = Extraction(
        find(settings.extractor),
        store=store,
        weights=settings.weights,
        fetch=settings.fetch,
        cores=settings.cores,
        max_pixels=settings.max_image_pixels,
        decode_seconds=settings.decode_seconds,
    )
    segments = SegmentExtractor(
        extraction,
        store,
        roots=settings.data_roots,
        max_pixels=settings.max_image_pixels,
        buckets=settings.data_buckets,
    )
    return ExtractorService(extraction, segments)


if __name__ == "__main__":
    run(make_service, "extractor")
