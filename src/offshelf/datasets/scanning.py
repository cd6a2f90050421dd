"""Reading every image of a source once, to name it by its digest; and reading them again by that name.

Images in the store have such names already: they are looked up and not read.
"""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TYPE_CHECKING

from offshelf.datasets.model import MAX_IMAGE_BYTES, Dataset, ImageUnread, Item, Unread
from offshelf.datasets.stored import StoreSource
from offshelf.digests import digest_of_bytes
from offshelf.errors import Cancelled
from offshelf.store.patience import waits_end_with

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from offshelf.datasets.model import Entry, ImageSource

# Enough to keep a disk or a network file system busy; hashing itself leaves Python's lock alone.
_THREADS = 8
# A future a file would cost more than hashing a small one; many a future would make progress jump.
_BATCH = 16


def scan(
    source: ImageSource,
    *,
    on_progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
    entries: Sequence[Entry] | None = None,
) -> tuple[Dataset, list[Unread]]:
    """Name every image by its digest.

    Parameters
    ----------
    source
        Where the images are.
    on_progress
        Called from this thread with the number of images dealt with, and of all.
    stop
        Set it to end the scan within a chunk of reading.
    entries
        What `source.entries()` has returned, if it has been called already.

    Returns
    -------
    Dataset, list[Unread]
        The images that were read; and those that vanished or cannot be read, sorted by path.

    Raises
    ------
    InvalidDataset
        If the source cannot be used, or an image turns out to lie outside it.
    Cancelled
        If `stop` was set.
    """
    listed = source.entries() if entries is None else entries
    halt = threading.Event()

    def name_all(batch: Sequence[Entry]) -> list[Item | Unread]:
        return [_name(source, entry, (halt, stop) if stop else (halt,)) for entry in batch]

    items: list[Item] = []
    unread: list[Unread] = []
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="scan") as pool:
        batches = [pool.submit(name_all, listed[start : start + _BATCH]) for start in range(0, len(listed), _BATCH)]
        try:
            for batch in as_completed(batches):
                for result in batch.result():
                    if isinstance(result, Item):
                        items.append(result)
                    else:
                        unread.append(result)
                if on_progress is not None:
                    on_progress(len(items) + len(unread), len(listed))
        except BaseException:
            halt.set()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return Dataset.of(items), sorted(unread, key=lambda image: image.path)


def image_reader(
    source: ImageSource, dataset: Dataset, *, stop: threading.Event | None = None
) -> Callable[[str], bytes]:
    """Make the function that reads an image of a dataset by its digest.

    Parameters
    ----------
    source
        Where the images are.
    dataset
        Says under which paths an image lies.
    stop
        Set it to have no read wait on for a store that is away.

    Returns
    -------
    Callable[[str], bytes]
        Takes a digest and returns bytes of exactly this digest. Raises `ImageUnread` if no path holds them any more,
        with the reason for the first path tried, or if the dataset has no such image.
    """
    paths: dict[str, list[str]] = {}
    for item in dataset.items:
        paths.setdefault(item.digest, []).append(item.path)

    def read(digest: str) -> bytes:
        failure: ImageUnread | None = None
        for path in paths.get(digest, ()):
            try:
                with waits_end_with(stop):
                    data = source.read(path, MAX_IMAGE_BYTES)
            except ImageUnread as error:
                failure = failure or error
                continue
            if digest_of_bytes(data) == digest:
                return data
            failure = failure or ImageUnread("has changed since the dataset was scanned")
        raise failure or ImageUnread("is not in the dataset")

    return read


def _name(source: ImageSource, entry: Entry, stops: Sequence[threading.Event]) -> Item | Unread:
    digest = hashlib.sha256()
    if any(event.is_set() for event in stops):
        raise Cancelled("Reading the images was stopped.")
    try:
        with waits_end_with(stops[-1]):
            if isinstance(source, StoreSource):
                # Its name is the digest, of which the store was convinced when the image was uploaded.
                return Item(entry.path, entry.label, entry.group, source.find(entry.path))
            for chunk in source.chunks(entry.path):
                digest.update(chunk)
                if any(event.is_set() for event in stops):
                    raise Cancelled("Reading the images was stopped.")
    except ImageUnread as error:
        return Unread(entry.path, error.message)
    return Item(path=entry.path, label=entry.label, group=entry.group, digest=digest.hexdigest())
