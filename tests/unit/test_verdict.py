from __future__ import annotations

import re

import pytest

from offshelf.runs import Combination
from offshelf.services.stats import wording
from offshelf.services.stats.comparison import Comparison, RankedCombination, Spread
from offshelf.services.stats.verdict import verdict


def comparison(*others: bool, measure: str = "accuracy") -> Comparison:
    """Make a comparison of googlenet + SVM with others, each worse than it (True) or not."""
    ranking = [
        RankedCombination(
            combination=Combination("googlenet", "SVM") if rank == 0 else Combination("hog", f"C{rank}"),
            scores=f"{rank:064x}",
            spread=Spread(0.975 - rank / 100, 0.0123),
            measures={},
            p_value=0.01 if worse else 1.0,
            different_from_best=worse,
        )
        for rank, worse in enumerate([False, *others])
    ]
    return Comparison("d" * 64, measure, tuple(range(10)), tuple(ranking))


def test_winner() -> None:
    """The first sentence says which combination is best, and how good it is in familiar figures."""
    found = verdict(comparison(True))
    assert found.headline == (
        "The best is googlenet + SVM: accuracy 97.5 % on average over 10 folds (standard deviation 1.2 points)."
    )


def test_mcc_is_a_number() -> None:
    """A correlation is not written as a percentage."""
    text = str(verdict(comparison(True, measure="mcc")))
    assert "MCC 0.975 on average over 10 folds (standard deviation 0.012)." in text
    assert "%" not in text


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((True,), "The other combination, hog + C1, is clearly worse."),
        ((False,), "The other combination, hog + C1, may be just as good: it cannot be told apart from the best"),
        ((True, True), "Both other combinations are clearly worse."),
        ((True, True, True), "All 3 other combinations are clearly worse."),
        (
            (False, True),
            "Of the 2 other combinations, 1 is clearly worse; hog + C1 may be just as good, since it cannot",
        ),
        (
            (False, False, True, True),
            "Of the 4 other combinations, 2 are clearly worse; hog + C1 and hog + C2 may be just as good, since they",
        ),
        ((False, False), "Neither of the two other combinations is clearly worse: hog + C1 and hog + C2 may be just"),
        ((False,) * 3, "None of the 3 other combinations is clearly worse: hog + C1, hog + C2 and hog + C3 may be"),
        ((False,) * 9, "hog + C1, hog + C2, hog + C3, hog + C4, hog + C5 and 4 more may be just as good, since they"),
    ],
)
def test_others(others: tuple[bool, ...], expected: str) -> None:
    """It says how many are worse and names those that may be as good, in correct English for any number."""
    text = str(verdict(comparison(*others)))
    assert expected in text
    assert "cannot be told apart from the best by this data" in text or all(others)


def test_caveats() -> None:
    """It says what the figures do not: the folds are not independent, and the winner's score is a little optimistic."""
    caveats = " ".join(verdict(comparison(True, False)).caveats)
    assert "not independent" in caveats
    assert "corrected" in caveats
    assert "a little optimistic" in caveats


def test_nothing_to_compare() -> None:
    """A single combination is not called the best of anything, and not a word is said about tests."""
    text = str(verdict(comparison()))
    assert text.startswith("googlenet + SVM was the only combination tried: accuracy 97.5 %")
    assert not re.search(r"best|test|optimistic", text)


def test_figures() -> None:
    """Figures are rounded without turning into something else: no minus zero, no few that are none."""
    assert wording.figure("accuracy", 0.99963) == "100.0"
    assert wording.figure("mcc", -0.0001) == "0.000"
    assert wording.figure("mcc", -0.25) == "-0.250"
    assert [wording.percent(part, 300) for part in (0, 1, 150, 299, 300)] == ["0 %", "< 1 %", "50 %", "> 99 %", "100 %"]
    assert wording.percent(0, 0) == "0 %"
    assert [wording.p_value(each) for each in (1.0, 0.0421, 0.0004, 0.0)] == ["1.000", "0.042", "< 0.001", "< 0.001"]
    assert [wording.count(each, "image") for each in (0, 1, 1200)] == ["0 images", "1 image", "1,200 images"]
