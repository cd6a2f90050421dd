"""One unit of extraction: images of a dataset in, one immutable segment in the store out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING

from offshelf.datasets import image_reader, open_source, read_dataset
from offshelf.digests import is_digest
from offshelf.errors import Conflict, InvalidInput
from offshelf.features import write_segment
from offshelf.images import ImageStatus

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable
    from pathlib import Path

    from offshelf.extraction.pipeline import Extraction, UnreadImage
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


class SegmentExtractor:
    """Makes segments with one extractor.

    Parameters
    ----------
    extraction
        The extractor, started.
    store
        Where datasets are read from and segments written to.
    roots
        Folders that sources must lie in; None for any.
    buckets
        What sources in buckets must lie under.
    max_pixels
        The extraction's limit, which a segment records.
    """

    def __init__(
        self,
        extraction: Extraction,
        store: ObjectStore,
        *,
        roots: tuple[Path, ...] | None,
        max_pixels: int,
        buckets: tuple[str, ...] = (),
    ) -> None:
        self._extraction = extraction
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
            If it names no image.
        NotFound
            If the dataset is not in the store.
        PermissionDenied
            If the source lies outside the data roots or buckets.
        Cancelled
            If `stop` was set.
        OffshelfError
            What the source or the store raises.
        """
        self._check(request)
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
            found = self._extraction.extract(read, images, on_done=count, stop=stop)
        finally:
            source.close()
        key = ""
        if found.rows:
            key = write_segment(
                self._store,
                self._extraction.fingerprint,
                images,
                found.rows,
                max_pixels=self._max_pixels,
                dimension=self._extraction.spec.dimension,
            )
        extracted = sum(row.status is ImageStatus.OK for row in found.rows)
        return SegmentOutcome(key, extracted, len(found.rows) - extracted, found.unread)

    def _check(self, request: SegmentRequest) -> None:
        name, fingerprint = self._extraction.spec.name, self._extraction.fingerprint
        if request.extractor != name:
            # No fault of the request's: an address may have passed from one pod to another.
            raise Conflict(f"This replica serves {name}, not {request.extractor!r}.")
        if request.fingerprint != fingerprint:
            raise Conflict(
                f"This replica's {name} has another fingerprint than the one asked for: all services must have the "
                "same version of Offshelf."
            )
        if not request.images:
            raise InvalidInput("No image is named.")
        if not all(is_digest(image) for image in request.images):
            raise InvalidInput("An image is named by something else than its SHA-256.")
