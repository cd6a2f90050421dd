"""A run's images: read and named, or found in the store."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from offshelf import datasets
from offshelf.datasets import Unread
from offshelf.datasets.names import IMAGE_SUFFIXES
from offshelf.errors import DataLoss, InvalidDataset, NotFound
from offshelf.services.orchestrator.dispatch.patience import outwait_store
from offshelf.services.orchestrator.runs import runlog

if TYPE_CHECKING:
    import threading
    from collections.abc import Sequence

    from offshelf.datasets import Dataset, Entry, Item
    from offshelf.services.orchestrator.runs.journal import Journal, Workbench
    from offshelf.services.orchestrator.runs.specification import RunSpec
    from offshelf.store import ObjectStore


@dataclass(frozen=True, slots=True)
class Inputs:
    """What a run works on."""

    dataset: Dataset
    unread: tuple[Unread, ...] = ()
    """Files that could not be read; they are not part of the dataset."""
    ignored: int = 0
    """Files that were passed over since they are no images by name."""
    bytes: int = 0
    """Of the images that were read; 0 if unknown."""


async def read_inputs(bench: Workbench, journal: Journal, stop: threading.Event) -> Inputs:
    """Have a run's images named and say so in its log.

    A run that its server takes up again by itself goes on with what it has read. Setting `stop` ends the reading.

    Raises
    ------
    InvalidDataset
        If the images cannot be used as a dataset, or the dataset has been deleted.
    PermissionDenied
        If they lie where this server may not read.
    """
    journal.say("reading the images")
    # A deletion that has begun knows nothing of this run, and may remove or rewrite what it would find now.
    await _undisturbed(bench, journal)
    inputs = await _read_before(bench, journal)
    if inputs is None:
        if journal.status.spec.stored_dataset:
            inputs = Inputs(await journal.with_store(read_stored, bench.store, journal.status.spec.stored_dataset))
        else:
            inputs = await _scan(bench, journal, stop)
            # What could be read may be less than what was listed.
            check_images(journal.status.spec, inputs.dataset.items, folds=2)
            await _undisturbed(bench, journal)  # nor of this dataset; nothing may be awaited before it is named
            journal.status.dataset = inputs.dataset.digest  # so that from now on nobody deletes it
            await journal.with_store(_keep, bench.store, inputs, journal.status.spec.source, journal.status.user)
        await journal.append(runlog.DATASET_READ, **_to_json(inputs))
    if inputs.ignored:
        await journal.append(runlog.LEFT_OUT, reason=_ignored(inputs.ignored))
    progress = journal.status.progress
    progress.images_total = progress.images_scanned = len(inputs.dataset.items) + len(inputs.unread)
    return inputs


def check_images(spec: RunSpec, images: Sequence[Entry | Item], folds: int | None = None) -> None:
    """Refuse images of which a run can make nothing; `folds` if not those of the run. Raises `InvalidDataset`."""
    if spec.needs_labels:
        datasets.check_classes(images, spec.folds if folds is None else folds)
    else:
        datasets.check_any(images)


def read_stored(store: ObjectStore, digest: str) -> Dataset:
    """Read a dataset that should be in the store. Raises `InvalidDataset` if there is none."""
    try:
        return datasets.read_dataset(store, digest)
    except NotFound:
        raise InvalidDataset(
            f"There is no dataset {digest} in the store: `offshelf datasets list` shows those there are."
        ) from None


def title_of(store: ObjectStore, source: str, dataset: str) -> str:
    """What people call a dataset: of one in the store, its card says it."""
    if source.startswith("store:"):
        try:
            return datasets.read_card(store, dataset).name
        except (NotFound, DataLoss):
            pass
    return datasets.display_name(source)


async def _undisturbed(bench: Workbench, journal: Journal) -> None:
    with journal.status.notices.topic() as tell:
        tell("The run waits until a deletion has ended.")
        await bench.undisturbed()  # in no task of its own: then something else could come between


async def _read_before(bench: Workbench, journal: Journal) -> Inputs | None:
    """What this run has read before its server was restarted; None if nothing, or if its user asks anew."""
    before = journal.status.dataset_read
    if before is None:
        return None
    try:
        dataset = await journal.with_store(datasets.read_dataset, bench.store, before["dataset"])
    except (NotFound, DataLoss):
        return None
    unread = tuple(Unread(path, reason) for path, reason in before.get("unread", ()))
    return Inputs(dataset, unread, before.get("ignored", 0))


async def _scan(bench: Workbench, journal: Journal, stop: threading.Event) -> Inputs:
    status = journal.status

    def on_progress(done: int, total: int) -> None:
        # From another thread: plain assignments, which watchers see when they next look.
        status.progress.images_scanned, status.progress.images_total = done, total

    def scan() -> Inputs:
        source = datasets.open_source(
            status.spec.source,
            roots=bench.roots,
            store=bench.store,
            buckets=bench.buckets,
            labelled=status.spec.needs_labels,
        )
        try:
            entries = source.entries()
            dataset, unread = datasets.scan(source, entries=entries, on_progress=on_progress, stop=stop)
        finally:
            source.close()
        sizes = {entry.path: entry.size for entry in entries}
        read = [sizes[item.path] for item in dataset.items]
        return Inputs(dataset, tuple(unread), source.ignored, sum(read) if all(read) else 0)

    with status.notices.topic() as tell:
        return await outwait_store(lambda: asyncio.to_thread(scan), tell)


def _keep(store: ObjectStore, inputs: Inputs, source: str, user: str) -> None:
    """Write the manifest of what was read, and its card for lists."""
    dataset = inputs.dataset
    datasets.write_dataset(store, dataset)
    card = datasets.DatasetCard(
        digest=dataset.digest,
        name=datasets.display_name(source),
        source=source,
        images=len(dataset.items),
        bytes=inputs.bytes,
        classes=dataset.classes,
        created_at=datetime.now(UTC),
        user=user,
    )
    datasets.write_card(store, card)


def _to_json(inputs: Inputs) -> dict[str, Any]:
    return {
        "dataset": inputs.dataset.digest,
        "images": len(inputs.dataset.items),
        "unread": [[image.path, image.reason] for image in inputs.unread],
        "ignored": inputs.ignored,
    }


def _ignored(files: int) -> str:
    what = "One file" if files == 1 else f"{files} files"
    known = ", ".join(sorted(IMAGE_SUFFIXES))
    return f"{what} of the dataset not looked at: no image in a class folder by name ({known})."
