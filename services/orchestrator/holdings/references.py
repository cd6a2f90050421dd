"""What a store holds, and what needs what.

Read once, from one list of all objects and the manifests among them. Every artefact says what it was made from: tables,
scores, models, comparisons and reports all lead to their dataset. What is damaged is named in the log, and counts as if
anything might need it, or it might need anything.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from offshelf import datasets, features
from offshelf.digests import is_digest
from offshelf.errors import DataLoss, NotFound
from offshelf.extraction.own.stored import OwnNetwork, read_network
from offshelf.services.orchestrator.holdings import origins
from offshelf.services.orchestrator.holdings.origins import Artefact, log_damage
from offshelf.services.orchestrator.holdings.traces import RunTrace, read_trace
from offshelf.store import keys
from offshelf.store.reading import read_each as in_parallel

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from offshelf.features import FeatureTable
    from offshelf.store import ObjectInfo, ObjectStore

_SEGMENT: Final = re.compile(rf"{keys.FEATURES}[^/]+/segments/[0-9a-f]{{64}}-[0-9a-f]{{64}}\.parquet")

_OWN_NETWORK: Final = re.compile(rf"{keys.OWN_NETWORKS}[0-9a-f]{{64}}/(network\.[a-z]+|card\.json)")

Kind: TypeAlias = Literal["images", "segments", "tables", "scores", "models", "reports", "datasets", "others"]
"""What an object that goes is counted as."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What is, or would be, removed from the store."""

    images: int = 0
    segments: int = 0
    segments_rewritten: int = 0
    """Segments that hold vectors of other datasets too: those are kept, in a new segment."""
    tables: int = 0
    scores: int = 0
    models: int = 0
    reports: int = 0
    datasets: int = 0
    others: int = 0
    """Files of other kinds: comparisons, converted networks, remains of interrupted work."""
    bytes: int = 0

    @classmethod
    def of(cls, leaving: Iterable[Leaving], *, rewritten: int = 0, bytes_written: int = 0) -> Removal:
        """Count objects that go, less what is written in their place."""
        counts: dict[str, int] = defaultdict(int)
        size = -bytes_written
        for each in leaving:
            size += each.info.size
            if each.kind is not None:
                counts[each.kind] += 1
        return cls(**counts, segments_rewritten=rewritten, bytes=max(size, 0))

    def __add__(self, other: Removal) -> Removal:
        return Removal(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(Removal)))


@dataclass(frozen=True, slots=True)
class Leaving:
    """An object that goes."""

    info: ObjectInfo
    kind: Kind | None
    """None for what is counted with another object."""


@dataclass(frozen=True)
class References:
    """All that a store holds."""

    objects: Mapping[str, ObjectInfo]
    """By key."""
    datasets: frozenset[str] = frozenset()
    """Digests of all that have a manifest or a card."""
    deletions: frozenset[str] = frozenset()
    """Digests of the datasets whose deletion has begun and not ended."""
    tables: Mapping[str, FeatureTable] = field(default_factory=dict)
    """By the key of the manifest."""
    damaged_tables: frozenset[str] = frozenset()
    """Keys of the manifests that cannot be read: each may need any segment of its extractor."""
    scores: Mapping[str, Artefact] = field(default_factory=dict)
    """By digest, like the others."""
    own_networks: Mapping[str, OwnNetwork | None] = field(default_factory=dict)
    """Networks that users brought; None for one whose card is damaged."""
    models: Mapping[str, Artefact] = field(default_factory=dict)
    comparisons: Mapping[str, Artefact] = field(default_factory=dict)
    reports: Mapping[str, Artefact] = field(default_factory=dict)
    runs: Mapping[str, RunTrace] = field(default_factory=dict)
    """By id."""

    def below(self, prefix: str) -> list[ObjectInfo]:
        """List the objects whose key begins so."""
        return [info for key, info in self.objects.items() if key.startswith(prefix)]

    def artefacts(self) -> tuple[tuple[Kind, Mapping[str, Artefact]], ...]:
        """List all that was made of features, with what each is counted as."""
        return (
            ("scores", self.scores),
            ("models", self.models),
            ("reports", self.reports),
            ("others", self.comparisons),
        )

    def own_network_files(self) -> list[ObjectInfo]:
        """List what there is of networks that users brought, cards before files."""
        found = [info for info in self.below(keys.OWN_NETWORKS) if _OWN_NETWORK.fullmatch(info.key)]
        return sorted(found, key=lambda info: not info.key.endswith(".json"))

    def segments(self) -> list[ObjectInfo]:
        """List all segments."""
        return [info for info in self.below(keys.FEATURES) if _SEGMENT.fullmatch(info.key)]


def fingerprint_of(key: str) -> str:
    """Return the extractor's fingerprint in the key of a segment, a table or a converted network."""
    return key.split("/")[1].partition("-")[0]


def leaving_of(artefact: Artefact, kind: Kind) -> tuple[list[Leaving], ...]:
    """Return the objects of an artefact in two steps.

    First goes what says that the artefact is whole, so that nobody takes the rest for it; last what says whose it is,
    so that a deletion that was cut off finds it again. In scores and models, each object says that.
    """
    first: list[ObjectInfo] = []
    rest: list[ObjectInfo] = []
    for info in artefact.objects:
        (first if info.key.endswith(".json") != (kind == "reports") else rest).append(info)
    if kind in {"scores", "models"} and not first:
        return [], [Leaving(info, "others") for info in rest]
    counted = (first or rest)[0]
    return tuple([Leaving(info, kind if info is counted else None) for info in step] for step in (first, rest))


def read_references(store: ObjectStore) -> References:
    """Find out what a store holds and what needs what.

    Raises
    ------
    StoreDenied, StoreUnavailable
        What the store raises. Damaged objects raise nothing.
    """
    objects = {info.key: info for info in store.list("")}
    tables, damaged_tables = _read_tables(store, objects)
    return _with_fallbacks(
        References(
            objects=objects,
            datasets=_digests(objects, keys.DATASETS),
            deletions=_digests(objects, keys.DELETIONS),
            tables=tables,
            damaged_tables=damaged_tables,
            scores=origins.read_artefacts(store, objects, keys.SCORES, origins.of_scores),
            models=origins.read_artefacts(store, objects, keys.MODELS, origins.of_model),
            comparisons=origins.read_artefacts(store, objects, keys.COMPARISONS, origins.of_comparison),
            reports=origins.read_artefacts(store, objects, keys.REPORTS, origins.of_report),
            own_networks=_read_own_networks(store, objects),
            runs=_read_runs(store, objects),
        )
    )


def read_images(store: ObjectStore, dataset: str) -> frozenset[str] | None:
    """List a dataset's images by its manifest; None if that is missing or damaged, which is logged."""
    try:
        return frozenset(item.digest for item in datasets.read_dataset(store, dataset).items)
    except (NotFound, DataLoss) as error:
        log_damage(keys.dataset(dataset), error)
        return None


def _read_tables(
    store: ObjectStore, objects: Mapping[str, ObjectInfo]
) -> tuple[dict[str, FeatureTable], frozenset[str]]:
    def read(key: str) -> FeatureTable | None:
        try:
            return features.read_table(store, fingerprint_of(key), key.rpartition("/")[2].removesuffix(".json"))
        except (NotFound, DataLoss) as error:
            log_damage(key, error)
            return None

    listed = [
        key for key in objects if key.startswith(keys.FEATURES) and key.startswith(keys.tables(fingerprint_of(key)))
    ]
    found = dict(zip(listed, in_parallel(read, listed), strict=True))
    whole = {key: table for key, table in found.items() if table is not None}
    return whole, frozenset(found.keys() - whole.keys())


def _read_own_networks(store: ObjectStore, objects: Mapping[str, ObjectInfo]) -> dict[str, OwnNetwork | None]:
    def read(digest: str) -> OwnNetwork | None:
        try:
            return read_network(store, digest)
        except (NotFound, DataLoss) as error:
            log_damage(keys.own_network_card(digest), error)
            return None

    names = {key.removeprefix(keys.OWN_NETWORKS).partition("/")[0] for key in objects if _OWN_NETWORK.fullmatch(key)}
    whole = sorted(name for name in names if keys.own_network_card(name) in objects)
    return dict(zip(whole, in_parallel(read, whole), strict=True))


def _read_runs(store: ObjectStore, objects: Mapping[str, ObjectInfo]) -> dict[str, RunTrace]:
    names: dict[str, list[str]] = defaultdict(list)
    for key in objects:
        if key.startswith(keys.RUNS):
            run_id, _, name = key.removeprefix(keys.RUNS).partition("/")
            names[run_id].append(name)
    found = in_parallel(lambda run_id: read_trace(store, run_id, names[run_id]), names)
    return {trace.run_id: trace for trace in found if trace is not None}


def _with_fallbacks(found: References) -> References:
    """Find out from what names them whose the artefacts are that cannot say it themselves."""
    traces = [trace for trace in found.runs.values() if trace.dataset]
    of_reports = {report: trace.dataset for trace in traces for report in trace.reports}
    of_models = {trace.model: trace.dataset for trace in traces}
    comparisons = _fill_in(found.comparisons, {trace.comparison: trace.dataset for trace in traces})
    of_scores = {name: each.dataset for each in comparisons.values() for name in each.origin.made_from}
    return replace(
        found,
        comparisons=comparisons,
        reports=_fill_in(found.reports, of_reports),
        models=_fill_in(found.models, of_models),
        scores=_fill_in(found.scores, of_scores),
    )


def _fill_in(artefacts: Mapping[str, Artefact], known: Mapping[str, str]) -> dict[str, Artefact]:
    return {
        digest: each if each.dataset else replace(each, origin=replace(each.origin, dataset=known.get(digest, "")))
        for digest, each in artefacts.items()
    }


def _digests(objects: Iterable[str], prefix: str) -> frozenset[str]:
    names = (key.removeprefix(prefix).partition(".")[0] for key in objects if key.startswith(prefix))
    return frozenset(filter(is_digest, names))
