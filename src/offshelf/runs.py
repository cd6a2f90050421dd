"""The words of a run that services and users share: its goals, downloads and states, combinations and how they did."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class RunGoal(StrEnum):
    """What a run is to come to."""

    COMPARISON = "comparison"
    """A comparison of all combinations, a report, and the best one fitted."""
    FEATURES = "features"
    """The features alone, in one file."""


class RunFetch(StrEnum):
    """Whether a run downloads weights that its extractors lack."""

    AUTO = "auto"
    """Those of extractors that are named, if the services download any."""
    NEVER = "never"
    """None: an extractor that lacks its weights is left out."""


class RunState(StrEnum):
    """Where a run stands."""

    PENDING = "pending"
    RUNNING = "running"
    INTERRUPTED = "interrupted"
    """Its server stopped before it ended; the same request takes it up again."""
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """Whether nothing follows any more."""
        return self in {RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED}

    @property
    def at_rest(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.ended or self is RunState.INTERRUPTED


@dataclass(frozen=True, order=True, slots=True)
class Combination:
    """An extractor and a classifier, by name."""

    extractor: str
    classifier: str

    def __str__(self) -> str:
        return f"{self.extractor} + {self.classifier}"


@dataclass(frozen=True, slots=True)
class Score:
    """How one combination did over the folds of a run."""

    combination: Combination
    mean: float
    """Mean of the measure over the folds, from 0 to 1 (mcc: from -1)."""
    standard_deviation: float
    p_value: float = 1.0
    """Corrected resampled t-test (Nadeau and Bengio 2003) against the winner, adjusted after Holm; 1 for the winner."""
    different_from_best: bool = False
    """True if that test says that the combination is worse than the winner."""

    @property
    def extractor(self) -> str:
        """Name of the extractor."""
        return self.combination.extractor

    @property
    def classifier(self) -> str:
        """Name of the classifier."""
        return self.combination.classifier

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON."""
        return {
            "extractor": self.extractor,
            "classifier": self.classifier,
            "mean": self.mean,
            "standard_deviation": self.standard_deviation,
            "p_value": self.p_value,
            "different_from_best": self.different_from_best,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Score:
        """Rebuild what `to_json` made."""
        combination = Combination(data["extractor"], data["classifier"])
        return cls(combination, data["mean"], data["standard_deviation"], data["p_value"], data["different_from_best"])
