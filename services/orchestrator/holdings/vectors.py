"""Which segments go with a dataset, and which are written anew without its images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from offshelf import features
from offshelf.errors import Conflict, DataLoss, NotFound
from offshelf.services.orchestrator.holdings.origins import log_damage
from offshelf.services.orchestrator.holdings.references import fingerprint_of
from offshelf.store.reading import read_each as in_parallel

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Set as AbstractSet

    from offshelf.features import FeatureTable
    from offshelf.services.orchestrator.holdings.references import References
    from offshelf.store import ObjectInfo, ObjectStore


@dataclass(frozen=True)
class Separation:
    """How the vectors of some datasets are taken apart from all others."""

    removed: tuple[ObjectInfo, ...] = ()
    rewritten: tuple[ObjectInfo, ...] = ()
    """These are removed too, once their new segments are there."""
    bytes_written: int = 0
    """Of new segments that are not there yet."""
    tables: tuple[FeatureTable, ...] = ()
    """Tables of other datasets as they are to be, because segments they lead to go elsewhere."""
    moves: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Holding:
    """What a segment holds."""

    info: ObjectInfo
    rows: int = 0
    gone: int = 0
    """Rows of images that no other dataset has."""
    shared_with_run: bool = False
    damaged: bool = False


def find_images(store: ObjectStore, references: References, datasets: AbstractSet[str]) -> frozenset[str]:
    """Find the images of datasets whose manifests cannot be read, in the segments that were made for them."""
    own = {key for table in references.tables.values() if table.dataset in datasets for key in table.stored_segments}
    found = in_parallel(lambda info: _images(store, info), [info for info in references.segments() if info.key in own])
    return frozenset().union(*(images for images in found if images is not None))


def separate(
    store: ObjectStore,
    references: References,
    datasets: AbstractSet[str],
    *,
    gone: AbstractSet[str],
    used: AbstractSet[str],
) -> Separation:
    """Decide what becomes of each segment. Nothing is written.

    A segment that tables of other datasets lead to loses its rows of images that go; without such rows it stays. One
    that only tables of these datasets lead to goes. One that no table leads to, which an interrupted run left, is
    treated as if another table did: its other rows may be somebody's.

    Parameters
    ----------
    datasets
        Digests of those that go.
    gone
        Images that no other dataset has.
    used
        Images of datasets that unfinished runs use.

    Raises
    ------
    Conflict
        If a run may be using a segment that would go or be written anew.
    """
    own, others = set[str](), set[str]()
    for table in references.tables.values():
        (own if table.dataset in datasets else others).update(table.stored_segments)
    # A table that cannot be read may lead to any segment of its extractor.
    doubtful = {fingerprint_of(key) for key in references.damaged_tables}
    alone = {key for key in own - others if fingerprint_of(key) not in doubtful}

    def look(info: ObjectInfo) -> _Holding:
        images = _images(store, info)
        if images is None:
            return _Holding(info, damaged=True)
        return _Holding(info, len(images), len(images & gone), not used.isdisjoint(images))

    removed: list[ObjectInfo] = []
    rewritten: list[ObjectInfo] = []
    emptied: dict[str, str] = {}
    for held in in_parallel(look, [info for info in references.segments() if gone or info.key in own]):
        key = held.info.key
        # Nobody can use a damaged one; and what certainly is of these datasets must not stay.
        goes = key in own if held.damaged else key in alone or held.gone == held.rows
        if (goes or held.gone) and held.shared_with_run:
            raise Conflict("A run uses features that lie in one file with this dataset's: wait until it has ended.")
        if goes:
            removed.append(held.info)
            if not held.damaged and held.gone == held.rows:
                emptied[key] = ""
        elif held.gone:
            rewritten.append(held.info)
    return _made_definite(store, references, datasets, gone, removed, rewritten, emptied)


def _made_definite(
    store: ObjectStore,
    references: References,
    datasets: AbstractSet[str],
    gone: AbstractSet[str],
    removed: list[ObjectInfo],
    rewritten: list[ObjectInfo],
    moves: dict[str, str],
) -> Separation:
    """Find out what the new segments will be called, and which tables must say so."""

    def name(info: ObjectInfo) -> tuple[str, int] | None:
        try:
            key, data = features.segment_without(store, info.key, gone)
        except DataLoss as error:
            log_damage(info.key, error)
            return None
        return key, len(data)

    made: dict[str, int] = {}
    definite: list[ObjectInfo] = []
    for info, new in zip(rewritten, in_parallel(name, rewritten), strict=True):
        if new is None:
            removed.append(info)  # nobody can read it; the images that go are in it
            continue
        definite.append(info)
        moves[info.key], made[new[0]] = new
    return Separation(
        removed=tuple(info for info in removed if info.key not in made),
        rewritten=tuple(definite),
        bytes_written=sum(size for key, size in made.items() if key not in references.objects),
        tables=tuple(
            table.moved_to(moves)
            for table in references.tables.values()
            if table.dataset not in datasets and not moves.keys().isdisjoint(table.stored_segments)
        ),
        moves=moves,
    )


def _images(store: ObjectStore, info: ObjectInfo) -> frozenset[str] | None:
    try:
        return features.segment_images(store, info)
    except (DataLoss, NotFound) as error:
        log_damage(info.key, error)
        return None
