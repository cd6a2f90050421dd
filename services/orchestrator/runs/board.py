"""The scores of one extractor's classifiers as they come in."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from offshelf.runs import Score

if TYPE_CHECKING:
    from offshelf.runs import Combination
    from offshelf.services.orchestrator.dispatch.units import FoldResult
    from offshelf.services.orchestrator.runs.planning import ScoringPlan


class ScoreBoard:
    """Knows which folds of which classifier are done, beginning with what the store held."""

    def __init__(self, plan: ScoringPlan, *, measure: str, folds: int) -> None:
        self._plan = plan
        self._folds = folds
        self._measure = measure
        self._values = {
            classifier: {fold: measures[measure] for fold, measures in finished.items()}
            for classifier, finished in plan.finished.items()
        }
        self._dropped: set[str] = set()

    @property
    def folds_done(self) -> int:
        """(classifier, fold) pairs that are done."""
        return sum(len(values) for values in self._values.values())

    def add(self, result: FoldResult) -> None:
        """Take a result."""
        self._values[result.classifier][result.fold] = result.measures[self._measure]

    def drop(self, classifier: str) -> bool:
        """Give a classifier up; tells whether this is news."""
        news = classifier not in self._dropped
        self._dropped.add(classifier)
        return news

    def is_complete(self, classifier: str) -> bool:
        """Whether every fold is done."""
        return len(self._values[classifier]) == self._folds

    def is_written(self, classifier: str) -> bool:
        """Whether the store had the manifest of all folds from the beginning."""
        return classifier in self._plan.complete

    def digest(self, classifier: str) -> str:
        """What names the classifier's scores."""
        return self._plan.digests[classifier]

    def summary(self, combination: Combination) -> Score:
        """Mean and standard deviation over the folds."""
        values = list(self._values[combination.classifier].values())
        return Score(combination, statistics.fmean(values), statistics.stdev(values))
