"""What a user asks for, checked and made definite."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from offshelf import measures
from offshelf.digests import digest_of
from offshelf.errors import InvalidInput
from offshelf.estimators import registry as classifiers
from offshelf.runs import Combination, RunFetch, RunGoal

if TYPE_CHECKING:
    from collections.abc import Iterable

    from offshelf.services.orchestrator.catalog import ExtractorCatalog

DEFAULT_FOLDS = 10
DEFAULT_MEASURE = "accuracy"
_MOST_FOLDS = 100
_LARGEST_SEED = 2**32 - 1
"""The largest that scikit-learn's generators take."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """A run's specification with every default filled in."""

    source: str
    """URI of the image source, for example ``folder:/data/pets`` or ``store:<digest of a dataset>``."""
    extractors: tuple[str, ...]
    classifiers: tuple[str, ...]
    measure: str
    folds: int
    seed: int
    choice: Combination | None = None
    """Fit this combination instead of the best one."""
    goal: RunGoal = RunGoal.COMPARISON
    """Where it is features alone, there are no classifiers, and what concerns them is empty or 0."""
    named: bool = False
    """Whether its extractors were named, and are not just all that there are."""
    fetch: RunFetch = RunFetch.AUTO
    """Whether weights may be downloaded for it."""

    def fetches(self, extractor: str) -> bool:
        """Tell whether an extractor's weights are downloaded if they are missing: of one that was asked for by name.

        Who asks for all that there are gets what is here, and does not wait for gigabytes, or without a network for
        nothing; who asks for no downloads gets none.
        """
        if self.fetch is RunFetch.NEVER:
            return False
        return self.named or (self.choice is not None and self.choice.extractor == extractor)

    def hindrance(self, extractor: str, catalog: ExtractorCatalog) -> str:
        """Say why an extractor can neither be used as things are nor be downloaded for this run; nothing if it can."""
        reason = catalog.availability(extractor)
        if not reason or not catalog.fetchable(extractor):
            return reason
        if self.fetch is RunFetch.NEVER:
            return f"{reason} This run was to download nothing (fetch=never)."
        return "" if self.fetches(extractor) else reason

    @property
    def digest(self) -> str:
        """Equal for equal work asked of the same source."""
        return digest_of(self.to_json())

    @property
    def stored_dataset(self) -> str:
        """Digest of the dataset, if the source is one that is in the store already; else empty."""
        kind, _, digest = self.source.partition(":")
        return digest if kind == "store" else ""

    @property
    def needs_labels(self) -> bool:
        """Whether images need labels, and enough of each class."""
        return self.goal is RunGoal.COMPARISON

    def to_json(self) -> dict[str, Any]:
        """Return the specification as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> RunSpec:
        """Rebuild a specification that `to_json` made."""
        choice = data.get("choice")
        return cls(
            source=data["source"],
            extractors=tuple(data["extractors"]),
            classifiers=tuple(data["classifiers"]),
            measure=data["measure"],
            folds=data["folds"],
            seed=data["seed"],
            choice=Combination(**choice) if choice else None,
            goal=RunGoal(data.get("goal", RunGoal.COMPARISON)),
            named=data.get("named", False),
            fetch=RunFetch(data.get("fetch", RunFetch.AUTO)),
        )


def make_features_spec(
    *, source: str, extractors: Iterable[str], fetch: RunFetch, catalog: ExtractorCatalog
) -> RunSpec:
    """Check names and fill in the defaults for a run whose goal is features alone. Raises as `make_spec`."""
    names = tuple(extractors)
    found = chosen(names, catalog)
    return RunSpec(source, found, (), "", 0, 0, goal=RunGoal.FEATURES, named=bool(names), fetch=fetch)


def chosen(extractors: Iterable[str], catalog: ExtractorCatalog) -> tuple[str, ...]:
    """Look extractors up; all there are if none is named."""
    return tuple(dict.fromkeys(catalog.find(name).name for name in extractors)) or catalog.names


def make_spec(
    *,
    source: str,
    extractors: Iterable[str],
    classifier_names: Iterable[str],
    measure: str,
    folds: int,
    seed: int,
    choice: Combination | None,
    fetch: RunFetch,
    catalog: ExtractorCatalog,
) -> RunSpec:
    """Check names and ranges and fill in the defaults; empty names mean everything there is.

    Raises
    ------
    UnknownName
        For an extractor, classifier or measure that does not exist.
    NotFound
        For a network of a user's own that the store does not have.
    InvalidInput
        For folds or a seed out of range, or a chosen combination outside the run.
    """
    names = tuple(extractors)
    chosen_extractors = chosen(names, catalog)
    chosen_classifiers = tuple(dict.fromkeys(classifiers.find(name).name for name in classifier_names)) or tuple(
        classifiers.CLASSIFIERS
    )
    folds = folds or DEFAULT_FOLDS
    if not 2 <= folds <= _MOST_FOLDS:  # noqa: PLR2004  (one fold leaves nothing to compare)
        raise InvalidInput(f"folds must be between 2 and {_MOST_FOLDS}, not {folds}.")
    if not 0 <= seed <= _LARGEST_SEED:
        raise InvalidInput(f"seed must be between 0 and {_LARGEST_SEED}, not {seed}.")
    if choice is not None:
        choice = Combination(catalog.find(choice.extractor).name, classifiers.find(choice.classifier).name)
        if choice.extractor not in chosen_extractors or choice.classifier not in chosen_classifiers:
            raise InvalidInput(f"{choice} is not among the combinations of this run.")
    return RunSpec(
        source=source,
        extractors=chosen_extractors,
        classifiers=chosen_classifiers,
        measure=measures.find(measure or DEFAULT_MEASURE),
        folds=folds,
        seed=seed,
        choice=choice,
        named=bool(names),
        fetch=fetch,
    )
