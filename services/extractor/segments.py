"""One unit of extraction: images of a dataset in, one immutable segment in the store out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from offshelf.datasets import image_reader, open_source, read_dataset
from offshelf.digests import is_digest
from offshelf.errors import InvalidInput
from offshelf.features import write_segment
from offshelf.images import ImageStatus

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from offshelf.extraction.pipeline import Extraction, UnreadImage
    from offshelf.services.extractor.serving import Serves
    from offshelf.store import ObjectStore

_DATASETS_KEPT = 2
"""Manifests held in memory: units of one run come one after the other, rarely of more than two runs at once."""


@dataclass(frozen=True, slots=True)
class SegmentRequest:
    """What is asked for."""

    extractor: str
    fingerprint: str
    """As the planner computed it."""
    dataset: str
    source: str
    images: tuple[str, ...]
    """Digests."""


@dataclass(frozen=True, slots=True)
class SegmentOutcome:
    """What was written."""

    key: str
    """Of the segment; empty if no image could be read."""
    extracted: int
    quarantined: int
    unread: tuple[UnreadImage, ...]
    dimension: int
    """Length of a vector."""


class SegmentExtractor:
    """Makes segments.

    Parameters
    ----------
    extractors
        Those of this replica.
    store
        Where datasets are read from and segments written to.
    roots
        Folders that sources must lie in; None for any.
    buckets
        What sources in buckets must lie under.
    max_pixels
        The extractors' limit, which a segment records.
    """

    def __init__(
        self,
        extractors: Serves,
        store: ObjectStore,
        *,
        roots: tuple[Path, ...] | None,
        max_pixels: int,
        buckets: tuple[str, ...] = (),
    ) -> None:
        self._extractors = extractors
        self._store = store
        self._roots = roots
        self._buckets = buckets
        self._max_pixels = max_pixels
        self._dataset = lru_cache(_DATASETS_KEPT)(partial(read_dataset, store))

    def extract(
        self, request: SegmentRequest, *, on_progress: Callable[[int], None], stop: threading.Event
    ) -> SegmentOutcome:
        """Extract the images and write the segment.

        Parameters
        ----------
        request
            What is asked for.
        on_progress
            Called with the number of images dealt with so far.
        stop
            Ends the work within an image when it is set.

        Raises
        ------
        Conflict
            If the request is for another extractor or fingerprint.
        InvalidInput
            If it names no image, or an extractor that cannot be loaded.
        NotFound
            If the dataset is not in the store.
        PermissionDenied
            If the source lies outside the data roots or buckets.
        Cancelled
            If `stop` was set.
        OffshelfError
            What the source or the store raises.
        """
        _check(request.images)
        with self._extractors.lease(request.extractor, request.fingerprint) as extraction:
            return self._extract(extraction, request, on_progress, stop)

    def _extract(
        self,
        extraction: Extraction,
        request: SegmentRequest,
        on_progress: Callable[[int], None],
        stop: threading.Event,
    ) -> SegmentOutcome:
        images = sorted(set(request.images))
        dataset = self._dataset(request.dataset)
        source = open_source(
            request.source, roots=self._roots, store=self._store, dataset=dataset, buckets=self._buckets
        )
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            on_progress(done)

        try:
            read = image_reader(source, dataset, stop=stop)
            found = extraction.extract(read, images, on_done=count, stop=stop)
        finally:
            source.close()
        key = ""
        if found.rows:
            key = write_segment(
                self._store,
                extraction.fingerprint,
                images,
                found.rows,
                max_pixels=self._max_pixels,
                dimension=extraction.dimension,
            )
        extracted = sum(row.status is ImageStatus.OK for row in found.rows)
        return SegmentOutcome(key, extracted, len(found.rows) - extracted, found.unread, extraction.dimension)


def _check(images: tuple[str, ...]) -> None:
    if not images:
        raise InvalidInput("No image is named.")
    if not all(is_digest(image) for image in images):
        raise InvalidInput("An image is named by something else than its SHA-256.")
