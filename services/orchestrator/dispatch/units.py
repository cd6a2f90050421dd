"""Units of work, as they are cut by the planner and sent to replicas, and what comes back."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from offshelf.runs import Score


@dataclass(frozen=True, slots=True)
class ExtractionUnit:
    """Images that become one feature segment."""

    extractor: str
    fingerprint: str
    dataset: str
    source: str
    images: tuple[str, ...]
    """Digests, sorted."""

    def __str__(self) -> str:
        return f"{len(self.images)} images for {self.extractor}"

    def halves(self) -> tuple[ExtractionUnit, ...]:
        """Cut the unit in two; nothing for a single image."""
        middle = len(self.images) // 2
        if not middle:
            return ()
        return replace(self, images=self.images[:middle]), replace(self, images=self.images[middle:])


@dataclass(frozen=True, slots=True)
class UnreadImage:
    """An image that was not there, or not what the dataset names."""

    image: str
    reason: str


@dataclass(frozen=True, slots=True)
class ExtractionOutcome:
    """What an extraction unit gave."""

    key: str
    """The segment in the store; empty if no image could be read."""
    extracted: int
    quarantined: int
    unread: tuple[UnreadImage, ...] = ()
    dimension: int = 0
    """Length of a vector; 0 if none was extracted."""
    deadly: tuple[str, ...] = ()
    """Images that ended the extractor's whole process each time; they are in no segment yet."""


@dataclass(frozen=True, slots=True)
class ScoringUnit:
    """Classifiers to evaluate on one fold of one feature table."""

    dataset: str
    table: str
    fingerprint: str
    folds: int
    seed: int
    fold: int
    classifiers: tuple[str, ...]
    measure: str

    def __str__(self) -> str:
        return f"{', '.join(self.classifiers)} on fold {self.fold + 1}"

    def halves(self) -> tuple[ScoringUnit, ...]:
        """Cut the unit in two; nothing for a single classifier."""
        middle = len(self.classifiers) // 2
        if not middle:
            return ()
        return replace(self, classifiers=self.classifiers[:middle]), replace(
            self, classifiers=self.classifiers[middle:]
        )

    def without(self, done: frozenset[str]) -> ScoringUnit:
        """Leave out classifiers that are done."""
        return replace(self, classifiers=tuple(name for name in self.classifiers if name not in done))


@dataclass(frozen=True, slots=True)
class FoldResult:
    """One classifier on one fold."""

    classifier: str
    scores: str
    """Digest that names the scores over all folds."""
    fold: int
    measures: dict[str, float]


@dataclass(frozen=True, slots=True)
class FitUnit:
    """A classifier to fit on all images."""

    dataset: str
    table: str
    fingerprint: str
    extractor: str
    classifier: str
    measure: str
    seed: int


@dataclass(frozen=True, slots=True)
class ComparisonOutcome:
    """What the comparison of all combinations says."""

    comparison: str
    scores: tuple[Score, ...]
    """Best first."""
    verdict: str


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that was not used, and why; `extractor` is empty if none could use it."""

    path: str
    extractor: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportRequest:
    """What the report is made of, besides the comparison itself."""

    comparison: str
    title: str
    skipped: tuple[SkippedImage, ...]
    left_out: tuple[str, ...]
