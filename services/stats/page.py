"""The report's page: what it shows, laid out for the template."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from offshelf.estimators.registry import CLASSIFIERS
from offshelf.measures import MEASURES
from offshelf.runs import Combination
from offshelf.services.stats import wording
from offshelf.services.stats.significance import ALPHA
from offshelf.services.stats.verdict import Verdict, verdict

if TYPE_CHECKING:
    from collections.abc import Mapping

    import jinja2

    from offshelf.services.stats.comparison import Comparison, RankedCombination
    from offshelf.services.stats.predictions import OutOfFoldPredictions

MOST_CLASSES_IN_MATRIX = 40
"""A matrix of more classes fits on no screen; the most frequent mistakes are listed instead."""

MOST_MISTAKES = 200
MOST_CONFUSIONS = 5
MOST_WITHOUT_FOLDING = 12
"""Longer lists are folded up, in a box that scrolls."""

_PLOT_WIDTH = 224.0
_PLOT_MARGIN = 5.0
_FAINTEST, _STRONGEST = 0.08, 0.7
"""Opacity of a shaded cell; text on the strongest can still be read."""

_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class SkippedImage:
    """An image that was not used, and why."""

    path: str
    extractor: str
    """Which could not use it; empty if none could."""
    status: str
    reason: str


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell of the confusion matrix."""

    images: int
    percent: str
    """Of the row, that is of the images of the true class."""
    opacity: float
    correct: bool


@dataclass(frozen=True)
class Scale:
    """Brings values of a measure to a plot's width, so that all means and spreads fit."""

    low: float
    high: float

    @classmethod
    def of(cls, comparison: Comparison) -> Scale:
        """Fit the scale to a comparison."""
        spreads = [each.spread for each in comparison.ranking]
        low = min(spread.mean - spread.standard_deviation for spread in spreads)
        high = max(spread.mean + spread.standard_deviation for spread in spreads)
        return cls(max(low, -1.0), min(high, 1.0))

    def x(self, value: float) -> str:
        """Place a value, in the plot's own units."""
        width = max(self.high - self.low, 1e-9)
        share = min(max((value - self.low) / width, 0.0), 1.0)
        return f"{_PLOT_MARGIN + share * (_PLOT_WIDTH - 2 * _PLOT_MARGIN):.1f}"


@dataclass(frozen=True)
class Page:
    """All that the report's page shows."""

    title: str
    comparison: Comparison
    winner: OutOfFoldPredictions
    skipped: tuple[SkippedImage, ...]
    left_out: tuple[str, ...]
    grouped: bool
    """Whether images belong to groups that were not divided."""
    descriptions: Mapping[str, str]
    """Of the extractors that are known here, by name."""
    version: str
    """Of Offshelf."""
    conditions: tuple[str, ...] = ()
    """What the licences of its extractors forbid most users, a sentence each."""

    @cached_property
    def verdict(self) -> Verdict:
        """The verdict in its parts."""
        return verdict(self.comparison)

    @cached_property
    def scale(self) -> Scale:
        """Scale of the plots."""
        return Scale.of(self.comparison)

    @cached_property
    def extractors(self) -> tuple[str, ...]:
        """Rows of the table: the extractor of the winner first."""
        return tuple(self.comparison.best_of_extractors)

    @cached_property
    def classifiers(self) -> tuple[str, ...]:
        """Columns of the table, in the order in which catalogues list them."""
        found = {each.combination.classifier for each in self.comparison.ranking}
        return (*(name for name in CLASSIFIERS if name in found), *sorted(found - set(CLASSIFIERS)))

    @cached_property
    def ranked(self) -> dict[Combination, RankedCombination]:
        """All combinations by their names."""
        return {each.combination: each for each in self.comparison.ranking}

    def cell(self, extractor: str, classifier: str) -> RankedCombination | None:
        """Find a cell of the table; None if that combination was left out."""
        return self.ranked.get(Combination(extractor, classifier))

    def is_best_of_extractor(self, ranked: RankedCombination) -> bool:
        """Whether no other classifier did better on the same extractor."""
        return self.comparison.best_of_extractors[ranked.combination.extractor] is ranked

    @cached_property
    def skipped_images(self) -> int:
        """How many images were skipped by at least one extractor."""
        return len({image.path for image in self.skipped})

    @cached_property
    def matrix(self) -> tuple[tuple[Cell, ...], ...]:
        """The confusion matrix of the winner."""
        rows = []
        for true, row in enumerate(self.winner.matrix):
            total = max(sum(row), 1)
            rows.append(
                tuple(
                    Cell(
                        images=images,
                        percent=wording.percent(images, total),
                        opacity=round(_FAINTEST + (_STRONGEST - _FAINTEST) * images / total, 3) if images else 0,
                        correct=true == predicted,
                    )
                    for predicted, images in enumerate(row)
                )
            )
        return tuple(rows)

    @property
    def glossary(self) -> tuple[tuple[str, str], ...]:
        """The extractors and classifiers of this report, each with what it does in plain words."""
        extractors = [(name, self.descriptions[name]) for name in self.extractors if name in self.descriptions]
        classifiers = [(name, CLASSIFIERS[name].description) for name in self.classifiers if name in CLASSIFIERS]
        return (*extractors, *classifiers)


def render_page(page: Page) -> str:
    """Render the page as one HTML file that refers to nothing outside it."""
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            page=page,
            comparison=page.comparison,
            best=page.comparison.best,
            measure=page.comparison.measure,
            measures=MEASURES,
            alpha=ALPHA,
            most_classes=MOST_CLASSES_IN_MATRIX,
            most_mistakes=MOST_MISTAKES,
            most_confusions=MOST_CONFUSIONS,
            most_without_folding=MOST_WITHOUT_FOLDING,
            words=wording,
        )
    )


def _environment() -> jinja2.Environment:
    import jinja2

    return jinja2.Environment(
        loader=jinja2.PackageLoader("offshelf.services.stats"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=_shown,
    )


def _shown(value: object) -> object:
    """Write out what cannot be seen: control characters, and those that turn the text after them and so hide a name."""
    if type(value) is not str:  # not Markup, which is a str too
        return value
    return "".join(
        f"\\u{ord(each):04x}" if unicodedata.category(each) == "Cc" or each in _DIRECTION else each for each in value
    )
