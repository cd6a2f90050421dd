"""The table of the paper: extractors down, classifiers across, mean (standard deviation) in per cent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from offshelf.errors import NotFound
from offshelf.runs import Combination

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from offshelf.client.records import (
        RunSpec,
    )
    from offshelf.runs import Score

BEST = "*"
NOT_DIFFERENT = "~"


@dataclass(frozen=True, slots=True)
class TableRow:
    """One extractor and how each classifier did on its features."""

    extractor: str
    scores: Mapping[str, Score]
    """By classifier; a combination that was left out is absent."""


@dataclass(frozen=True, slots=True)
class Table:
    """All combinations of a run. Iterating gives the rows, the best extractor first; printing gives the whole table."""

    scores: tuple[Score, ...]
    """All combinations, best first."""
    measure: str
    folds: int
    classifiers: tuple[str, ...]
    """The columns, in the order asked for."""
    rows: tuple[TableRow, ...]

    @classmethod
    def of(cls, scores: tuple[Score, ...], spec: RunSpec) -> Table:
        """Arrange scores (best first) as a table."""
        found = {score.classifier for score in scores}
        asked = [name for name in spec.classifiers if name in found]
        cells: dict[str, dict[str, Score]] = {}
        for score in scores:
            cells.setdefault(score.extractor, {})[score.classifier] = score
        return cls(
            scores=scores,
            measure=spec.measure,
            folds=spec.folds,
            classifiers=tuple(dict.fromkeys([*asked, *sorted(found)])),
            rows=tuple(TableRow(extractor, row) for extractor, row in cells.items()),
        )

    @property
    def best(self) -> Score:
        """The winner."""
        return self.scores[0]

    @property
    def title(self) -> str:
        """What the figures are."""
        return f"{self.measure} in %, mean (standard deviation) over {self.folds} folds"

    @property
    def legend(self) -> str:
        """What the marks mean; empty if there is nothing to compare."""
        if len(self.scores) < 2:  # noqa: PLR2004  (a comparison takes two)
            return ""
        return (
            f"{BEST} best   {NOT_DIFFERENT} not shown to be worse than the best (corrected resampled t-test, Holm, 5 %)"
        )

    def score(self, extractor: str, classifier: str) -> Score:
        """Find one combination.

        Raises
        ------
        NotFound
            If it is not in the table.
        """
        wanted = Combination(extractor, classifier)
        for score in self.scores:
            if score.combination == wanted:
                return score
        raise NotFound(f"{wanted} is not among the combinations of this run.")

    def behind(self, extractor: str, classifier: str) -> float:
        """By how many points (hundredths of the measure) a combination is behind the winner.

        Raises
        ------
        NotFound
            If it is not in the table.
        """
        return 100 * (self.best.mean - self.score(extractor, classifier).mean)

    def cell(self, score: Score | None) -> str:
        """Write a score as in the paper, with its mark."""
        if score is None:
            return "-"
        mark = BEST if score is self.best else " " if score.different_from_best else NOT_DIFFERENT
        mark = mark if self.legend else ""
        return f"{100 * score.mean:.1f} ({100 * score.standard_deviation:.1f}){mark}"

    def __iter__(self) -> Iterator[TableRow]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        header = ["", *self.classifiers]
        body = [[row.extractor, *(self.cell(row.scores.get(name)) for name in self.classifiers)] for row in self.rows]
        widths = [max(len(line[column]) for line in [header, *body]) for column in range(len(header))]
        lines = [
            "  ".join(
                text.ljust(width) if column == 0 else text.rjust(width)
                for column, (text, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in [header, *body]
        ]
        return "\n".join(line for line in [self.title, *lines, self.legend] if line)
