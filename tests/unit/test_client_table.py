from __future__ import annotations

import pytest

from offshelf import Combination, NotFound, RunSpec, Score, Table

SPEC = RunSpec("pets", extractors=("googlenet", "hog"), classifiers=("SVM", "KNN"), measure="f1", folds=5)


def score(extractor: str, classifier: str, mean: float, *, different: bool = False) -> Score:
    """Make a score with a standard deviation of one point."""
    return Score(Combination(extractor, classifier), mean, 0.01, different_from_best=different)


SCORES = (
    score("googlenet", "KNN", 0.968),
    score("googlenet", "SVM", 0.961),
    score("hog", "SVM", 0.702, different=True),
)


def test_the_table_reads_like_the_one_of_the_paper() -> None:
    """Extractors are rows, classifiers columns in the order asked for, and marks say what is best or as good."""
    assert str(Table.of(SCORES, SPEC)).splitlines() == [
        "f1 in %, mean (standard deviation) over 5 folds",
        "                   SVM          KNN",
        "googlenet  96.1 (1.0)~  96.8 (1.0)*",
        "hog        70.2 (1.0)             -",
        "* best   ~ not shown to be worse than the best (corrected resampled t-test, Holm, 5 %)",
    ]


def test_rows_are_typed_and_can_be_looped_over() -> None:
    """A script gets each extractor with its scores by classifier, the best extractor first."""
    table = Table.of(SCORES, SPEC)
    assert [row.extractor for row in table] == ["googlenet", "hog"]
    assert len(table) == 2
    assert table.rows[0].scores["SVM"].mean == 0.961
    assert "KNN" not in table.rows[1].scores
    assert (table.best.extractor, table.best.classifier) == ("googlenet", "KNN")


def test_a_single_combination_gets_no_marks() -> None:
    """Where there is nothing to compare, nothing is called best."""
    assert "*" not in str(Table.of(SCORES[:1], SPEC))


def test_how_far_a_combination_is_behind_is_told_in_points() -> None:
    """Points are hundredths of the measure; a combination that was not compared is an error that names it."""
    table = Table.of(SCORES, SPEC)
    assert table.behind("hog", "SVM") == pytest.approx(26.6)
    assert table.behind("googlenet", "KNN") == 0
    with pytest.raises(NotFound, match=r"hog \+ KNN"):
        table.behind("hog", "KNN")


def test_a_choice_is_added_to_what_is_compared() -> None:
    """Choosing a combination that was not part of a run compares it as well; nothing is added to "everything"."""
    chosen = SPEC.choosing("lab888", "SVM")
    assert chosen.extractors == ("googlenet", "hog", "lab888")
    assert chosen.classifiers == ("SVM", "KNN")
    assert RunSpec("pets").choosing("lab888", "SVM").extractors == ()
