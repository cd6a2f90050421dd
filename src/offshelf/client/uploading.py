"""From a dataset on this machine to one in the store of a server."""

from __future__ import annotations

import threading
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from offshelf import datasets
from offshelf.client.dataset_gateway import ASKED_AT_ONCE
from offshelf.client.patience import PASSING, Attempts, Pauses
from offshelf.client.records import SkippedImage
from offshelf.client.sending import Outgoing, Sender
from offshelf.client.tally import Tally
from offshelf.errors import Cancelled, Conflict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from offshelf.client.dataset_gateway import DatasetGateway
    from offshelf.client.records import Dataset, UploadProgress
    from offshelf.datasets import Entry, ImageSource, Item
    from offshelf.errors import OffshelfError

PAUSES = Pauses(attempts=12, first=0.5, longest=15.0, attempts_if_busy=40)
"""About a minute, in which a server that was moved to another machine is back; longer for one that is only busy."""

_LONGEST_NAME = 200
"""Longer ones are refused by servers."""

_ROUNDS = 3
"""Times that images may be missing when the dataset is made, since somebody has deleted others that shared them."""


def upload(
    gateway: DatasetGateway,
    uri: str,
    *,
    name: str = "",
    folds: int | None = 2,
    on_progress: Callable[[UploadProgress], None] | None = None,
    pauses: Pauses = PAUSES,
) -> Dataset:
    """Upload what the server does not have of a local dataset, and make it a dataset there.

    Parameters
    ----------
    uri
        The dataset, as `datasets.source_uri` gives it.
    name
        What people shall call it; by default after its folder or file.
    folds
        What it shall be enough for; see `datasets.check_classes`. None if labels do not matter.
    on_progress
        Called in this thread, often.
    pauses
        Says for how long to go on after failures.

    Returns
    -------
    Dataset
        With the images that could not be read as `skipped`.

    Raises
    ------
    InvalidDataset
        If it is not enough for so many folds.
    QuotaExceeded, StoreFull
        If the server takes no more.
    Unavailable
        If the server stays away. What was uploaded is kept, and not sent again the next time.
    """
    gateway.find_missing([])  # a server that is not there, or does not know this user, is told before hours of reading
    with closing(datasets.open_source(uri, roots=None, labelled=folds is not None)) as source:
        return _Upload(gateway, source, folds, on_progress, pauses).carry_out(
            name or datasets.display_name(uri)[:_LONGEST_NAME]
        )


class _Upload:
    def __init__(
        self,
        gateway: DatasetGateway,
        source: ImageSource,
        folds: int | None,
        on_progress: Callable[[UploadProgress], None] | None,
        pauses: Pauses,
    ) -> None:
        self._gateway = gateway
        self._source = source
        self._folds = folds
        self._on_progress = on_progress
        self._stop = threading.Event()
        self._tally = Tally()
        self._attempts = partial(Attempts, pauses, self._wait)
        self._sender = Sender(gateway, source, self._tally, attempts=self._attempts, stop=self._stop)
        self._items: dict[str, Item] = {}
        self._sizes: dict[str, int] = {}
        self._skipped: dict[str, str] = {}

    def carry_out(self, name: str) -> Dataset:
        try:
            return self._carry_out(name)
        except PASSING as error:
            raise type(error)(
                f"{error.message} What was uploaded is kept: the same command goes on from there."
            ) from error

    def _carry_out(self, name: str) -> Dataset:
        entries = self._source.entries()
        self._check(entries)
        self._hash(entries, on_progress=self._tally.hash)
        rounds = 0
        while True:
            rounds += 1
            self._bring()
            items = [self._items[path] for path in sorted(self._items)]
            self._check(items)  # what could be read may be less than what was listed
            try:
                made = self._attempts().insist(partial(self._gateway.create, name, items), on=PASSING)
            except Conflict:
                if rounds == _ROUNDS:
                    raise
            else:
                skipped = tuple(SkippedImage(path, self._skipped[path]) for path in sorted(self._skipped))
                return replace(made, skipped=skipped)

    def _check(self, images: Sequence[Entry] | Sequence[Item]) -> None:
        if self._folds is None:
            datasets.check_any(images)
        else:
            datasets.check_classes(images, self._folds)

    def _bring(self) -> None:
        """Send what is missing. What has changed since it was hashed is hashed again, once."""
        hashed_again: set[str] = set()
        while True:
            wanted = {item.digest: Outgoing(item.digest, path, self._sizes[path]) for path, item in self._items.items()}
            missing = [wanted[digest] for digest in self._missing(list(wanted))]
            self._tally.expect(len(missing), sum(image.size for image in missing))
            failed = self._sender.send(missing, self._tell)
            self._tell()
            if not failed:
                return
            paths = [path for path, item in self._items.items() if item.digest in failed]
            for path in paths:
                digest = self._items.pop(path).digest
                if path in hashed_again:
                    self._skipped[path] = failed[digest]
            again = set(paths) - hashed_again
            hashed_again |= again
            listed = {entry.path: entry for entry in self._source.entries()}
            self._skipped |= dict.fromkeys(again - listed.keys(), "no longer exists")
            self._hash([listed[path] for path in sorted(again & listed.keys())])

    def _hash(self, entries: Sequence[Entry], *, on_progress: Callable[[int, int], None] | None = None) -> None:
        def note(done: int, total: int) -> None:
            if on_progress is not None:
                on_progress(done, total)
            self._tell()

        dataset, unread = datasets.scan(self._source, on_progress=note, stop=self._stop, entries=entries)
        self._sizes |= {entry.path: entry.size for entry in entries}
        self._items |= {item.path: item for item in dataset.items}
        self._skipped |= {image.path: image.reason for image in unread}

    def _missing(self, digests: list[str]) -> Iterable[str]:
        for start in range(0, len(digests), ASKED_AT_ONCE):
            page = digests[start : start + ASKED_AT_ONCE]
            yield from self._attempts().insist(partial(self._gateway.find_missing, page), on=PASSING)

    def _tell(self) -> None:
        if self._on_progress is not None:
            self._on_progress(self._tally.progress())

    def _wait(self, pause: float, error: OffshelfError) -> None:
        thread = threading.get_ident()
        self._tally.wait(thread, error.message)
        if self._stop.wait(pause):
            raise Cancelled("The upload was stopped.") from error
        self._tally.wait(thread, "")
