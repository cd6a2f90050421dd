"""What users of the SDK see: plain, frozen, typed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from offshelf.runs import Combination, RunFetch, RunGoal, RunState, Score

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class RunSpec:
    """What was asked for. Empty extractors or classifiers mean all that there are."""

    dataset: str
    extractors: tuple[str, ...] = ()
    classifiers: tuple[str, ...] = ()
    measure: str = "accuracy"
    folds: int = 10
    seed: int = 0
    choice: Combination | None = None
    """Fit this combination instead of the best one."""
    goal: RunGoal = RunGoal.COMPARISON
    fetch: RunFetch = RunFetch.AUTO
    """Whether weights that named extractors lack are downloaded."""

    @classmethod
    def of_features(cls, dataset: str, extractors: tuple[str, ...], fetch: RunFetch = RunFetch.AUTO) -> RunSpec:
        """Make the specification of a run for features alone, to which the rest means nothing."""
        return cls(dataset, extractors, measure="", folds=0, goal=RunGoal.FEATURES, fetch=fetch)

    def choosing(self, extractor: str, classifier: str) -> RunSpec:
        """Return the same specification with a choice, which is added to what is compared if it was not part of it."""
        return replace(
            self,
            # Empty means everything, which holds any choice.
            extractors=tuple(dict.fromkeys([*self.extractors, extractor])) if self.extractors else (),
            classifiers=tuple(dict.fromkeys([*self.classifiers, classifier])) if self.classifiers else (),
            choice=Combination(extractor, classifier),
        )


@dataclass(frozen=True, slots=True)
class Progress:
    """Counts and rates; they start again when a run is taken up."""

    images_scanned: int = 0
    """Images read and named by their digest."""
    images_total: int = 0
    images_extracted: int = 0
    """(image, extractor) pairs that this run extracted."""
    images_reused: int = 0
    """(image, extractor) pairs that were in the store."""
    images_remaining: int = 0
    images_per_second: float = 0.0
    scores_computed: int = 0
    """(combination, fold) pairs that this run computed."""
    scores_reused: int = 0
    """(combination, fold) pairs that were in the store."""
    scores_remaining: int = 0
    combinations_done: int = 0
    combinations_total: int = 0
    seconds_left: float | None = None
    """None when it cannot be told."""
    images_skipped: int = 0
    """Images that cannot be used."""
    best: Score | None = None
    """Best finished combination so far."""


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a finished run found. Of one for features alone, there is no more than artefacts, classes and dataset."""

    scores: tuple[Score, ...]
    """All combinations, best first."""
    verdict: str
    model: str
    """Digest of the fitted model."""
    fitted: Combination | None
    """What the fitted model is: the best combination, or the one that was chosen."""
    artifacts: tuple[str, ...]
    classes: tuple[str, ...]
    dataset: str
    """Digest of the dataset."""


@dataclass(frozen=True, slots=True)
class RunStatus:
    """A run as it stood at one moment."""

    id: str
    spec: RunSpec
    state: RunState
    created_at: datetime
    activity: str = ""
    """One line that says what the run is doing."""
    progress: Progress = field(default_factory=Progress)
    error: str = ""
    """Why the run failed."""
    left_out: tuple[str, ...] = ()
    """A sentence for each thing that was left out, with the reason and the fix."""
    result: RunResult | None = None
    """Set when the run has succeeded."""
    notices: tuple[str, ...] = ()
    """A line for each thing that is in the way at the moment, with the fix."""
    user: str = ""
    """Who asked for it."""
    conditions: tuple[str, ...] = ()
    """What the licences of its extractors forbid most users, a sentence each."""


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image of a local dataset that was not uploaded."""

    path: str
    reason: str


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset in the store, as lists show it."""

    digest: str
    name: str
    source: str
    """Where its images are: "store:DIGEST" if they were uploaded, otherwise as "folder:/data/pets"."""
    images: int
    bytes: int
    """Of all images together; 0 if unknown."""
    classes: tuple[str, ...]
    created_at: datetime
    user: str = ""
    """Who made it."""
    skipped: tuple[SkippedImage, ...] = ()
    """Images that could not be read when it was uploaded. Only `Client.upload` knows them."""


@dataclass(frozen=True, slots=True)
class UploadProgress:
    """How an upload stands. All images are read first, to name them by their digest; the missing ones are sent then."""

    images_total: int = 0
    images_hashed: int = 0
    images_to_send: int = 0
    """Images that the server does not have; 0 while all are hashed."""
    images_sent: int = 0
    bytes_to_send: int = 0
    bytes_sent: int = 0
    bytes_per_second: float = 0.0
    seconds_left: float | None = None
    """None when it cannot be told."""
    waiting_for: str = ""
    """Why nothing is sent at the moment, for example a lost connection; empty when all is well."""


@dataclass(frozen=True, slots=True)
class Removal:
    """What was, or would be, removed from the store."""

    images: int = 0
    segments: int = 0
    """Files of features."""
    segments_rewritten: int = 0
    """Files of features that hold those of other datasets too: those are kept."""
    tables: int = 0
    scores: int = 0
    models: int = 0
    reports: int = 0
    datasets: int = 0
    others: int = 0
    """Comparisons, converted networks, remains of interrupted work."""
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class CatalogEntry:
    """A name that users write, and what it means."""

    name: str
    description: str


@dataclass(frozen=True, slots=True)
class CatalogExtractor:
    """An extractor, and whether it can be used on this server."""

    name: str
    description: str
    dimension: int
    """Length of a feature vector; 0 of a network of a user's own, where only the network can tell."""
    available: bool
    reason: str
    """Why it is not available and what to do; empty if it is."""
    downloadable: bool = False
    """Whether what is missing are weights that a run which names it downloads."""
    licence: str = ""
    """Of its weights; empty if it has none."""
    restriction: str = ""
    """What the licence forbids most users, in a sentence; mostly empty."""


@dataclass(frozen=True, slots=True)
class Catalog:
    """All names that a run can be asked for."""

    extractors: tuple[CatalogExtractor, ...]
    classifiers: tuple[CatalogEntry, ...]
    measures: tuple[CatalogEntry, ...]


@dataclass(frozen=True, slots=True)
class ModelSummary:
    """What a model is."""

    digest: str
    extractor: str
    classifier: str
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Prediction:
    """What became of one image: a label with probabilities, or an error."""

    path: str | None
    """As it was given; None if bytes were given."""
    label: str = ""
    """Empty if there is an error."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of every class of the model."""
    error: str = ""
    """Why the image could not be classified; empty if it was."""
