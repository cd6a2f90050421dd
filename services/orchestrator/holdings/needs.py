"""What must stay in a store because a dataset, a run or a model leads to it, or may."""

from __future__ import annotations

from collections import defaultdict
from functools import cached_property
from typing import TYPE_CHECKING

from offshelf.extraction import registry
from offshelf.extraction.spec import PRECISIONS, fingerprint, fingerprints
from offshelf.services.orchestrator.holdings.references import fingerprint_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.services.orchestrator.holdings.origins import Artefact
    from offshelf.services.orchestrator.holdings.references import Kind, References
    from offshelf.services.orchestrator.holdings.traces import RunTrace
    from offshelf.store import ObjectInfo


class Needs:
    """Tells what of a store must stay, by what leads to it or by its age.

    An unfinished run keeps everything of its dataset, also scores that lack folds, and every segment of its extractors:
    it may be taken up after weeks and must not lose what it has done. What is damaged and does not say what it needs
    keeps everything that it may need.

    Parameters
    ----------
    in_use
        Digests of datasets that unfinished runs use; those that the store itself tells of are added.
    before
        Seconds since the epoch; what was written later stays.
    """

    def __init__(self, references: References, *, in_use: frozenset[str], before: float) -> None:
        self._references = references
        self._in_use = in_use
        self._before = before

    @property
    def unfinished(self) -> list[str]:
        """Ids of the runs that have not ended, or of which that cannot be read."""
        return [trace.run_id for trace in self._unfinished]

    @cached_property
    def busy(self) -> frozenset[str]:
        """Datasets that unfinished runs use."""
        return self._in_use | {trace.dataset for trace in self._unfinished if trace.dataset}

    @cached_property
    def sees_all_runs(self) -> bool:
        """Whether it is known of every unfinished run which dataset it uses."""
        return all(trace.dataset and trace.readable for trace in self._unfinished)

    def is_young(self, infos: Iterable[ObjectInfo]) -> bool:
        """Tell whether any of some objects is too young to go, and so all of them."""
        return any(info.modified >= self._before for info in infos)

    def table(self, key: str) -> bool:
        """Tell whether a table stays, by the key of its manifest."""
        table = self._references.tables.get(key)
        return (
            table is None
            or table.dataset in self._known
            or table.digest in self._tables_of_models
            or self._has_unknown_model
            or self.is_young([self._references.objects[key]])
        )

    def segment(self, info: ObjectInfo) -> bool:
        """Tell whether a segment stays."""
        return (
            info.key in self._segments
            or fingerprint_of(info.key) in self._busy_fingerprints
            or self._needs_any_extractor
            or self.is_young([info])
        )

    def artefact(self, kind: Kind, artefact: Artefact) -> bool:
        """Tell whether scores, a model, a report or a comparison stay; kinds as in `References.artefacts`."""
        if self.is_young(artefact.objects):
            return True
        match kind:
            case "models":
                return artefact.has_manifest or artefact.digest in self._models
            case "scores":
                return self._scores(artefact)
            case "reports":
                return artefact.digest in self._reports or self._may_be_needed(artefact)
            case _:
                return artefact.digest in self._comparisons or not artefact.dataset or self._may_be_needed(artefact)

    def export(self, info: ObjectInfo) -> bool:
        """Tell whether features in a file stay: a copy, which whoever asks again gets anew in seconds or minutes."""
        return info.key.split("/")[1] in self.busy or not self.sees_all_runs or self.is_young([info])

    def network(self, info: ObjectInfo) -> bool:
        """Tell whether a file of a converted network stays."""
        return (
            fingerprint_of(info.key) in self._fingerprints
            or self._has_unknown_model
            or self._needs_any_extractor
            or self.is_young([info])
        )

    def own_network(self, info: ObjectInfo) -> bool:
        """Tell whether the file of a network that a user brought stays, or its card."""
        digest = _digest_of(info)
        if self.is_young(self._own_networks[digest]):
            return True
        if digest not in self._references.own_networks:
            return False  # its upload did not come to its end
        network = self._references.own_networks[digest]
        return (
            network is None
            or any(fingerprint(network.named(f"{network.name}:{each}")) in self._fingerprints for each in PRECISIONS)
            or self._has_unknown_model
            or self._needs_any_extractor
        )

    def _scores(self, artefact: Artefact) -> bool:
        if not artefact.dataset or self._may_be_needed(artefact):
            return True
        whole = artefact.has_manifest
        return whole and (artefact.dataset in self._known or artefact.digest in self._compared)

    def _may_be_needed(self, artefact: Artefact) -> bool:
        """Tell whether an unfinished run may be going to need what no run names yet."""
        return artefact.dataset in self.busy or not self.sees_all_runs

    @cached_property
    def _own_networks(self) -> dict[str, list[ObjectInfo]]:
        """What there is of each network that a user brought."""
        parts: dict[str, list[ObjectInfo]] = defaultdict(list)
        for info in self._references.own_network_files():
            parts[_digest_of(info)].append(info)
        return parts

    @cached_property
    def _unfinished(self) -> list[RunTrace]:
        return [trace for trace in self._references.runs.values() if not trace.ended]

    @cached_property
    def _known(self) -> frozenset[str]:
        """Datasets that are there, or that a run leads to: its folder may be read again."""
        return self._references.datasets | self.busy | {trace.dataset for trace in self._references.runs.values()}

    @cached_property
    def _has_unknown_model(self) -> bool:
        models = self._references.models.values()
        return any(model.has_manifest and not model.origin.fingerprint for model in models)

    @cached_property
    def _tables_of_models(self) -> frozenset[str]:
        models = self._references.models.values()
        return frozenset().union(*(model.origin.made_from for model in models if model.has_manifest))

    @cached_property
    def _segments(self) -> frozenset[str]:
        tables = self._references.tables
        return frozenset(segment for key in tables if self.table(key) for segment in tables[key].stored_segments)

    @cached_property
    def _needs_any_extractor(self) -> bool:
        """Whether a run goes on of which it is not known what extractors it uses."""
        explained = {trace.dataset for trace in self._unfinished}
        names = {name for trace in self._unfinished for name in trace.extractors}
        return (
            any(not trace.readable for trace in self._unfinished)
            or not self._in_use <= explained
            or any(self._spec(name) is None for name in names)
        )

    @cached_property
    def _busy_fingerprints(self) -> frozenset[str]:
        """Extractors that unfinished runs use, and those of which a table cannot be read."""
        names = {name for trace in self._unfinished for name in trace.extractors}
        # Which engine they use is a setting, which may have changed since.
        used = {each for name in names if (spec := self._spec(name)) for each in fingerprints(spec)}
        return frozenset(used | {fingerprint_of(key) for key in self._references.damaged_tables})

    def _spec(self, name: str) -> ExtractorSpec | None:
        """Find an extractor that a run names; None if there is none, as of another version."""
        own = (each for each in self._references.own_networks.values() if each is not None and each.goes_by(name))
        if (network := next(own, None)) is not None:
            return network.named(name)
        return registry.lookup(name)

    @cached_property
    def _fingerprints(self) -> frozenset[str]:
        """Extractors of this version, and those of the tables and models that stay."""
        tables = {table.fingerprint for key, table in self._references.tables.items() if self.table(key)}
        models = {model.origin.fingerprint for model in self._references.models.values()}
        here = {fingerprint(spec) for spec in registry.EXTRACTORS.values()}
        return frozenset(here | tables | models | self._busy_fingerprints)

    @cached_property
    def _models(self) -> frozenset[str]:
        return frozenset(trace.model for trace in self._references.runs.values())

    @cached_property
    def _reports(self) -> frozenset[str]:
        return frozenset().union(*(trace.reports for trace in self._references.runs.values()))

    @cached_property
    def _comparisons(self) -> frozenset[str]:
        """Comparisons that runs and the reports that stay lead to."""
        reports = [report for report in self._references.reports.values() if self.artefact("reports", report)]
        named = frozenset().union(*(report.origin.made_from for report in reports))
        return named | {trace.comparison for trace in self._references.runs.values()}

    @cached_property
    def _compared(self) -> frozenset[str]:
        """Scores that the comparisons that stay lead to."""
        stay = [each for each in self._references.comparisons.values() if self.artefact("others", each)]
        return frozenset().union(*(each.origin.made_from for each in stay))


def _digest_of(info: ObjectInfo) -> str:
    """Digest of the network that an object is part of."""
    return info.key.split("/")[1]
