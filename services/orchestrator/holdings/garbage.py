"""Collecting garbage: what no dataset, run or model leads to, and what is kept of requests, once it is old enough.

Age keeps what is being written, and what an upload or a run that has just begun is going to need. What is not ours by
its name stays, and so do datasets, runs, their history and the audit log. A deletion that was cut off is finished,
unless its dataset has been made again.
"""

from __future__ import annotations

import logging
import re
import time
from typing import TYPE_CHECKING, Final

from offshelf.errors import Conflict, DataLoss, InvalidInput
from offshelf.services.orchestrator.holdings.deletion import carry_out, plan_erasure
from offshelf.services.orchestrator.holdings.needs import Needs
from offshelf.services.orchestrator.holdings.references import (
    Leaving,
    Removal,
    leaving_of,
    read_images,
    read_references,
)
from offshelf.store import keys
from offshelf.store.reading import read_each as in_parallel

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from offshelf.services.orchestrator.holdings.deletion import Erasure
    from offshelf.services.orchestrator.holdings.references import References
    from offshelf.store import ObjectInfo, ObjectStore

_log = logging.getLogger(__name__)

LEAST_DAYS: Final = 7
"""Nothing younger is garbage: an upload, or a run, may still be going to need it."""

_DAY_SECONDS: Final = 24 * 3600.0
_NETWORK: Final = re.compile(rf"{keys.NETWORKS}[0-9a-f]{{64}}-\d+/[^/]+")

_EXPORT: Final = re.compile(rf"{keys.EXPORTS}[0-9a-f]{{64}}/[0-9a-f]{{64}}\.parquet")

_REQUEST: Final = re.compile(rf"{keys.REQUESTS}[0-9a-f]{{64}}\.json")


def collect_garbage(store: ObjectStore, *, days: int, dry_run: bool, in_use: frozenset[str]) -> Removal:
    """Delete what nothing needs any more.

    No dataset may be made, and nothing else deleted, meanwhile.

    Parameters
    ----------
    store
        The feature store.
    days
        Nothing younger goes; at least 7, and 0 means 7.
    dry_run
        Say what would go, and delete nothing.
    in_use
        Digests of the datasets that unfinished runs use. Those that the store itself tells of are added.

    Returns
    -------
    Removal
        What went, or would go.

    Raises
    ------
    InvalidInput
        For fewer than 7 days.
    StoreFull, StoreDenied, StoreUnavailable
        What the store raises. What is left is found the next time.
    """
    days = days or LEAST_DAYS
    if days < LEAST_DAYS:
        raise InvalidInput(f"Nothing younger than {LEAST_DAYS} days is collected as garbage, so {days} is too few.")
    before = time.time() - days * _DAY_SECONDS
    references = read_references(store)
    needs = Needs(references, in_use=in_use, before=before)
    erasure = _cut_off_deletions(store, references, needs)
    spared = _touched(erasure) if erasure else frozenset()
    if needs.unfinished:
        _log.info("unfinished runs keep what they may need", extra={"runs": needs.unfinished})
    steps = [[each for each in step if each.info.key not in spared] for step in _garbage(store, references, needs)]

    def delete(leaving: Leaving) -> Leaving | None:
        # It may have been written anew since the list was made, by somebody who needs it.
        info = store.stat(leaving.info.key)
        if info is None or needs.is_young([info]):
            return None
        store.delete(info.key)
        return leaving

    if not dry_run:
        if erasure:
            carry_out(store, erasure)
        steps = [[each for each in in_parallel(delete, step) if each] for step in steps]
    removal = Removal.of(each for step in steps for each in step)
    return removal + erasure.removal if erasure else removal


def _garbage(store: ObjectStore, references: References, needs: Needs) -> tuple[list[Leaving], ...]:
    """List what goes, in the order in which it must go, so that what is left at any time is whole or still garbage."""
    first = [Leaving(references.objects[key], "tables") for key in references.tables if not needs.table(key)]
    rest = []
    for kind, artefacts in references.artefacts():
        for artefact in artefacts.values():
            if not needs.artefact(kind, artefact):
                whole, parts = leaving_of(artefact, kind)
                first += whole
                rest += parts
    networks = [info for info in references.below(keys.NETWORKS) if _NETWORK.fullmatch(info.key)]
    first += [Leaving(info, "others") for info in networks if not needs.network(info)]
    for info in references.own_network_files():
        if not needs.own_network(info):
            # The card first: what has none is no network.
            (first if info.key.endswith(".json") else rest).append(Leaving(info, "others"))
    exports = [info for info in references.below(keys.EXPORTS) if _EXPORT.fullmatch(info.key)]
    first += [Leaving(info, "others") for info in exports if not needs.export(info)]
    # A client repeats its request for some minutes, so that its run is found again and not made twice.
    requests = [info for info in references.below(keys.REQUESTS) if _REQUEST.fullmatch(info.key)]
    first += [Leaving(info, "others") for info in requests if not needs.is_young([info])]
    first += [Leaving(info, "images") for info in _images_without_dataset(store, references, needs)]
    segments = [Leaving(info, "segments") for info in references.segments() if not needs.segment(info)]
    return first, rest, segments


def _images_without_dataset(store: ObjectStore, references: References, needs: Needs) -> list[ObjectInfo]:
    uploaded = {info.key.rpartition("/")[2]: info for info in references.below(keys.IMAGES)}
    old = {digest for digest, info in uploaded.items() if keys.image(digest) == info.key and not needs.is_young([info])}

    def needed(dataset: str) -> AbstractSet[str]:
        images = read_images(store, dataset)
        return old if images is None else old & images  # one that cannot be read may need any

    orphans = old.difference(*in_parallel(needed, references.datasets | needs.busy)) if old else old
    return [uploaded[digest] for digest in sorted(orphans)]


def _cut_off_deletions(store: ObjectStore, references: References, needs: Needs) -> Erasure | None:
    """Decide what is still to be deleted of datasets whose deletion was cut off."""
    begun = {
        dataset
        for dataset in references.deletions - references.datasets - needs.busy
        if not needs.is_young([references.objects[keys.deletion(dataset)]])
    }
    if not begun or not needs.sees_all_runs:
        return None
    try:
        return plan_erasure(store, references, frozenset(begun), in_use=needs.busy)
    except (Conflict, DataLoss) as error:
        _log.warning("a deletion that was cut off cannot be finished now", extra={"reason": error.message})
        return None


def _touched(erasure: Erasure) -> frozenset[str]:
    """Keys that the end of a deletion removes, or is going to need."""
    return frozenset({each.info.key for each in erasure.leaving} | set(erasure.separation.moves.values()))
