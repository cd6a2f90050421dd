"""What a comparison says, in plain words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from offshelf.services.stats.wording import count, figure, is_share, listing, measure_name, with_unit

if TYPE_CHECKING:
    from offshelf.services.stats.comparison import Comparison

_MOST_NAMES = 5

_CORRECTED = (
    "Folds of one dataset are not independent, since they learn from largely the same images; "
    "so a test that is corrected for this was used."
)
_OPTIMISTIC = (
    "The score of the best is a little optimistic, because it was picked for being the highest: "
    "expect slightly less on new images."
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """The verdict in its parts; as a text, all of them one after the other."""

    headline: str
    """Which combination is best, and how good it is."""
    others: str
    """How many are worse, and which may be just as good; empty if there is no other."""
    caveats: tuple[str, ...]
    """What to bear in mind."""

    def __str__(self) -> str:
        return " ".join(part for part in (self.headline, self.others, *self.caveats) if part)


def verdict(comparison: Comparison) -> Verdict:
    """Say in plain words what a comparison found."""
    best = comparison.best
    measure = comparison.measure
    points = " points" if is_share(measure) else ""
    score = (
        f"{measure_name(measure)} {with_unit(measure, best.spread.mean)} on average over "
        f"{count(len(comparison.folds), 'fold')} "
        f"(standard deviation {figure(measure, best.spread.standard_deviation)}{points})"
    )
    if len(comparison.ranking) == 1:
        return Verdict(f"{best.combination} was the only combination tried: {score}.", "", ())
    return Verdict(f"The best is {best.combination}: {score}.", _others(comparison), (_CORRECTED, _OPTIMISTIC))


def _others(comparison: Comparison) -> str:
    others = comparison.ranking[1:]
    equals = [str(each.combination) for each in others if not each.different_from_best]
    worse = len(others) - len(equals)
    if len(others) == 1:
        name = str(others[0].combination)
        if worse:
            return f"The other combination, {name}, is clearly worse."
        return (
            f"The other combination, {name}, may be just as good: it cannot be told apart from the best by this data."
        )
    if not equals:
        return f"{_all(worse)} other combinations are clearly worse."
    names = listing(equals, _MOST_NAMES)
    them = "it" if len(equals) == 1 else "they"
    may_be = f"may be just as good, since {them} cannot be told apart from the best by this data"
    if not worse:
        return f"{_none(len(others))} other combinations is clearly worse: {names} {may_be}."
    verb = "is" if worse == 1 else "are"
    return f"Of the {len(others)} other combinations, {worse} {verb} clearly worse; {names} {may_be}."


# English has its own words for all, and none, of two.


def _all(number: int) -> str:
    return "Both" if number == 2 else f"All {number}"  # noqa: PLR2004


def _none(number: int) -> str:
    return "Neither of the two" if number == 2 else f"None of the {number}"  # noqa: PLR2004
