"""Deleting a dataset, with everything that no other dataset needs.

Wherever this is cut off, the store works, and a second call finishes the job:

1. The dataset's images are noted under ``deletions/``, so that they are known until the end, whatever else is gone.
2. Card and manifest go: the dataset is in no list any more, and no run can begin on it.
3. Segments that hold vectors of other datasets too are written anew without this one's; then the other datasets' tables
   are told where those went; then the old segments go, and with them those that this dataset alone needed.
4. The images go.
5. What was made of the features goes: first what says that an artefact is whole, then the rest, and last of each what
   says whose it is.
6. The note goes.

The history of the dataset's runs (their specification and events) stays.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

from offshelf import features
from offshelf.digests import canonical_json, is_digest
from offshelf.errors import Conflict, DataLoss, NotFound
from offshelf.services.orchestrator.holdings.origins import log_damage
from offshelf.services.orchestrator.holdings.references import (
    Leaving,
    Removal,
    leaving_of,
    read_images,
    read_references,
)
from offshelf.services.orchestrator.holdings.vectors import find_images, separate
from offshelf.store import keys
from offshelf.store.reading import read_each as in_parallel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from offshelf.digests import JSONValue
    from offshelf.services.orchestrator.holdings.references import References
    from offshelf.services.orchestrator.holdings.vectors import Separation
    from offshelf.store import ObjectInfo, ObjectStore

_log = logging.getLogger(__name__)

_NOTE_VERSION = 1


@dataclass(frozen=True)
class Erasure:
    """Everything that goes with some datasets: decided, not done."""

    images: Mapping[str, frozenset[str]]
    """Images of each dataset, by its digest."""
    gone: frozenset[str]
    """Images that no other dataset has."""
    separation: Separation
    listing: tuple[list[Leaving], ...]
    """Cards, then manifests."""
    steps: tuple[list[Leaving], ...]
    """All else that goes, in the order in which it must go."""

    @property
    def leaving(self) -> list[Leaving]:
        """All objects that go."""
        return list(chain.from_iterable([*self.listing, *self.steps]))

    @property
    def removal(self) -> Removal:
        """All that goes, counted."""
        return Removal.of(
            self.leaving, rewritten=len(self.separation.rewritten), bytes_written=self.separation.bytes_written
        )


def delete_dataset(store: ObjectStore, digest: str, *, dry_run: bool, in_use: frozenset[str]) -> Removal:
    """Delete a dataset and everything that no other dataset needs, or finish a deletion that was cut off.

    No dataset may be made, and nothing else deleted, meanwhile. A run on another dataset that begins meanwhile may find
    segments gone that it meant to reuse; it fails then, and works when it is started again.

    Parameters
    ----------
    store
        The feature store.
    digest
        Of the dataset.
    dry_run
        Say what would go, and delete nothing.
    in_use
        Digests of the datasets that unfinished runs use.

    Returns
    -------
    Removal
        What went, or would go.

    Raises
    ------
    NotFound
        If there is no such dataset.
    Conflict
        If a run uses it, or features that lie in one file with some of its.
    DataLoss
        If the manifest of another dataset is damaged, so that nobody knows which images that one needs. A dataset whose
        own manifest is damaged can be deleted.
    StoreFull, StoreDenied, StoreUnavailable
        What the store raises. A second call finishes the job.
    """
    references = read_references(store) if is_digest(digest) else None
    if references is None or digest not in references.datasets | references.deletions:
        raise NotFound(f"There is no dataset {digest!r}. `offshelf datasets list` shows all.")
    erasure = plan_erasure(store, references, frozenset({digest}), in_use=in_use)
    if not dry_run:
        carry_out(store, erasure)
    return erasure.removal


def plan_erasure(
    store: ObjectStore, references: References, datasets: frozenset[str], *, in_use: frozenset[str]
) -> Erasure:
    """Decide what goes with some datasets; errors as for `delete_dataset`."""
    if not datasets.isdisjoint(in_use):
        raise Conflict("A run uses this dataset: wait until it has ended, or cancel it.")
    known = {dataset: _known_images(store, references, dataset) for dataset in datasets}
    unread = {dataset for dataset, images in known.items() if images is None}
    found = find_images(store, references, unread) if unread else frozenset()
    images = {dataset: found if own is None else own for dataset, own in known.items()}
    gone = _needed_by_no_other(store, references.datasets - datasets, images, give_up=not unread)
    used = [own for dataset in in_use & references.datasets if (own := read_images(store, dataset))]
    separation = separate(store, references, datasets, gone=gone, used=frozenset().union(*used))
    return Erasure(
        images=images,
        gone=gone,
        separation=separation,
        listing=_listing(references, datasets),
        steps=(
            [Leaving(info, "segments") for info in separation.removed]
            + [Leaving(info, None) for info in separation.rewritten],
            [Leaving(info, "images") for info in references.below(keys.IMAGES) if info.key.rpartition("/")[2] in gone],
            *_made_of_features(references, datasets),
        ),
    )


def carry_out(store: ObjectStore, erasure: Erasure) -> None:
    """Delete what was decided on. Errors as for `delete_dataset`."""

    def note(dataset: str) -> None:
        content: JSONValue = {"dataset": dataset, "images": sorted(erasure.images[dataset]), "version": _NOTE_VERSION}
        store.put(keys.deletion(dataset), canonical_json(content))

    def write_anew(info: ObjectInfo) -> None:
        store.put(*features.segment_without(store, info.key, erasure.gone))

    _log.info("deleting datasets", extra={"datasets": sorted(erasure.images), "bytes": erasure.removal.bytes})
    in_parallel(note, erasure.images)
    for step in erasure.listing:
        in_parallel(store.delete, [each.info.key for each in step])
    in_parallel(write_anew, erasure.separation.rewritten)
    in_parallel(lambda table: features.write_table(store, table), erasure.separation.tables)
    for step in erasure.steps:
        in_parallel(store.delete, [each.info.key for each in step])
    in_parallel(store.delete, [keys.deletion(dataset) for dataset in erasure.images])


def _known_images(store: ObjectStore, references: References, dataset: str) -> frozenset[str] | None:
    """List a dataset's images by its manifest, and by what an earlier deletion noted; None if neither can be read."""
    found = [read_images(store, dataset)] if keys.dataset(dataset) in references.objects else []
    if dataset in references.deletions:
        found.append(_read_note(store, dataset))
    known = [images for images in found if images is not None]
    return frozenset().union(*known) if known else None


def _needed_by_no_other(
    store: ObjectStore, others: AbstractSet[str], images: Mapping[str, frozenset[str]], *, give_up: bool
) -> frozenset[str]:
    """Find the images that no other dataset has.

    Parameters
    ----------
    images
        Of the datasets that go.
    give_up
        Whether to raise `DataLoss` if another dataset's images are not known, or else to keep all images.
    """
    candidates = frozenset().union(*images.values())

    def needed(other: str) -> frozenset[str] | None:
        found = read_images(store, other)
        return None if found is None else found & candidates

    found = dict(zip(others, in_parallel(needed, others), strict=True))
    unknown = sorted(other for other, shared in found.items() if shared is None)
    if unknown and give_up:
        raise DataLoss(
            f"The manifest of dataset {unknown[0]} is damaged, so nobody can tell which images it needs: delete that "
            f"dataset first (offshelf datasets delete {unknown[0]})."
        )
    return frozenset() if unknown else candidates.difference(*(shared for shared in found.values() if shared))


def _listing(references: References, datasets: AbstractSet[str]) -> tuple[list[Leaving], ...]:
    """Cards, then manifests: until the card is gone, the dataset is whole."""
    objects = references.objects
    cards = [objects[key] for dataset in datasets if (key := keys.dataset_card(dataset)) in objects]
    manifests = [objects[key] for dataset in datasets if (key := keys.dataset(dataset)) in objects]
    counted = {info.key.partition(".")[0]: info for info in (*cards, *manifests)}.values()
    return tuple(
        [Leaving(info, "datasets" if info in counted else None) for info in step] for step in (cards, manifests)
    )


def _made_of_features(references: References, datasets: AbstractSet[str]) -> tuple[list[Leaving], list[Leaving]]:
    """Tables and all that was made of them, and the own artefacts of runs: what goes first, and the rest."""
    runs = {run_id for run_id, trace in references.runs.items() if trace.dataset in datasets}
    first = [
        Leaving(references.objects[key], "tables")
        for key, table in references.tables.items()
        if table.dataset in datasets
    ]
    rest = []
    for dataset in datasets:
        first += [Leaving(info, "others") for info in references.below(keys.exports(dataset))]
    for info in references.below(keys.RUNS):
        run_id = info.key.split("/")[1]
        if run_id in runs and info.key.startswith(keys.run_artifact(run_id, "")):
            first.append(Leaving(info, "others"))
    for kind, artefacts in references.artefacts():
        for artefact in artefacts.values():
            if artefact.dataset in datasets:
                whole, parts = leaving_of(artefact, kind)
                first += whole
                rest += parts
    return first, rest


def _read_note(store: ObjectStore, dataset: str) -> frozenset[str] | None:
    try:
        return _noted_images(store.get(keys.deletion(dataset)))
    except (NotFound, DataLoss) as error:
        log_damage(keys.deletion(dataset), error)
        return None


def _noted_images(data: bytes) -> frozenset[str]:
    try:
        document = json.loads(data)
        images = frozenset(document["images"])
        known = document["version"] == _NOTE_VERSION and all(map(is_digest, images))
    except (ValueError, KeyError, TypeError) as error:
        raise DataLoss("The note of a deletion cannot be parsed.") from error
    if not known:
        raise DataLoss("The note of a deletion is of another version, or names no images.")
    return images
