from __future__ import annotations

import csv
import io
import json
import threading
from html.parser import HTMLParser

import numpy as np
import pyarrow.parquet as pq
import pytest

from offshelf import measures
from offshelf.datasets import write_dataset
from offshelf.errors import Cancelled, DataLoss, InvalidInput, NotFound
from offshelf.runs import Combination
from offshelf.services.stats.exports import harmless
from offshelf.services.stats.page import MOST_CLASSES_IN_MATRIX, SkippedImage
from offshelf.services.stats.report import ReportRequest, render_report
from offshelf.services.stats.stored import compare_scores
from offshelf.store import keys
from tests.unit.compared import make_comparison, make_dataset, render, write_scores
from tests.unit.fakes import MemoryStore

SCRIPT = "<script>alert(1)</script>"


def test_report_says_whose_images_it_shows() -> None:
    """Before any part of a report is in the store, it is known what dataset it belongs to."""
    store = MemoryStore()
    comparison = make_comparison(store, make_dataset())
    before = len(store.objects)
    written = render_report(store, ReportRequest(comparison.digest, "Pets"), stop=threading.Event())
    first = list(store.objects)[before]
    origin = json.loads(store.objects[first])
    assert (origin["dataset"], origin["comparison"]) == (comparison.dataset, comparison.digest)
    assert first.rpartition("/")[0] == written["report.html"].rpartition("/")[0]
    assert first not in written.values()


class PageText(HTMLParser):
    """Reads a page: its text without white space around, its tags, and the rows of its tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[str]] = []
        self.words: list[str] = []
        self._in_style = self._in_cell = False
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take note of a tag."""
        self.tags.append((tag, dict(attrs)))
        self._in_style = tag == "style"
        if tag == "tr":
            self.rows.append([])
        if tag in {"td", "th"}:
            self._in_cell = True
            self.rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """Leave a cell."""
        self._in_style = self._in_style and tag != "style"
        self._in_cell = self._in_cell and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        """Take text, but no style sheet."""
        if self._in_style or not data.strip():
            return
        self.words.append(data.strip())
        if self._in_cell:
            self.rows[-1][-1] = f"{self.rows[-1][-1]} {data.strip()}".strip()

    @property
    def text(self) -> str:
        """All text, with single spaces."""
        return " ".join(" ".join(self.words).split())


@pytest.fixture
def store() -> MemoryStore:
    """Make an empty store."""
    return MemoryStore()


def test_page(store: MemoryStore) -> None:
    """The report has the verdict, the table, the ranking, and what the winner took for what, image by image."""
    page = PageText(render(store, make_comparison(store, make_dataset()))["report.html"].decode())

    assert "The best is googlenet + SVM: accuracy 90.0 % on average over 3 folds" in page.text
    assert ["Extractor", "RF", "SVM"] in page.rows
    assert next(row for row in page.rows if row[0] == "googlenet")[2].startswith("90.0 (")
    assert next(row for row in page.rows if row[0] == "hog")[1] == "\N{EN DASH}"
    assert next(row for row in page.rows if row[0] == "1")[1] == "googlenet + SVM"
    assert "3 of 30 images were misclassified (10.0 %)" in page.text
    assert ["cat", "12 80 %", "3 20 %"] in page.rows
    assert ["dog", "0", "15 100 %"] in page.rows
    assert ["cat/000.jpg", "cat", "dog", "90 %"] in page.rows
    for name, meaning in measures.MEASURES.items():
        assert " ".join(meaning.split()) in page.text, name


def test_page_stands_alone(store: MemoryStore) -> None:
    """The file can be mailed and opened without a network: it refers to nothing outside it and runs nothing."""
    page = render(store, make_comparison(store, make_dataset()))["report.html"].decode()
    for reference in ("://", "src=", "href=", "url(", "@import", "javascript:"):
        assert reference not in page
    tags = {tag for tag, _ in PageText(page).tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    assert "default-src 'none'" in page


def test_headings_of_tables_can_be_told(store: MemoryStore) -> None:
    """A screen reader says which row and column a figure belongs to, and what each table is."""
    page = PageText(render(store, make_comparison(store, make_dataset()))["report.html"].decode())
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    assert next(attributes for tag, attributes in page.tags if tag == "html")["lang"] == "en"


def test_hostile_names(store: MemoryStore) -> None:
    """Whatever a file, a class or a title is called, it is shown as it is and never becomes part of the page."""
    names = (f"{SCRIPT}cat", "\"'><img src=x>")
    dataset = make_dataset(names)
    page = render(
        store,
        make_comparison(store, dataset),
        title=f"{SCRIPT}{{{{ 7 * 7 }}}}",
        skipped=(SkippedImage(f"{SCRIPT}\u202egpj.exe", SCRIPT, SCRIPT, f"{SCRIPT} is no image\x1b[2J"),),
        left_out=(f"{SCRIPT} is left out.",),
    )["report.html"].decode()

    found = PageText(page)

    assert "<script" not in page
    assert "<img" not in page
    assert f"{SCRIPT}{{{{ 7 * 7 }}}}" in found.text
    assert f"{names[1]}/001.jpg" in found.text
    assert f"{SCRIPT}\\u202egpj.exe" in found.text
    assert "\x1b" not in page


def test_skipped_images(store: MemoryStore) -> None:
    """Every skipped image is listed with its reason, however many; a long list is folded up."""
    comparison = make_comparison(store, make_dataset())
    none = PageText(render(store, comparison)["report.html"].decode())
    one = PageText(
        render(store, comparison, skipped=(SkippedImage("cat/x.jpg", "", "unreadable", "it is empty"),))[
            "report.html"
        ].decode()
    )
    many = PageText(
        render(
            store,
            comparison,
            skipped=tuple(SkippedImage(f"cat/{each:03}.jpg", "hog", "too_large", "") for each in range(300)),
            left_out=("vgg16 is left out: its weights are missing.",),
        )["report.html"].decode()
    )

    assert "Every image could be used." in none.text
    assert "No extractor and no classifier was left out." in none.text
    assert "1 image could not be used." in one.text
    assert ["cat/x.jpg", "any extractor", "it is empty"] in one.rows
    assert "At least one extractor could not use 300 images." in many.text
    assert sum(row[1:] == ["hog", "too_large"] for row in many.rows) == 300
    assert "vgg16 is left out: its weights are missing." in many.text
    assert [tag for tag, _ in many.tags].count("details") == 2


def test_what_licences_forbid_is_in_the_report(store: MemoryStore) -> None:
    """Who gets a report with a network for research alone reads so, once; other reports say nothing of licences."""
    comparison = make_comparison(store, make_dataset(), {("overfeat", "SVM"): [], ("overfeat:-2", "SVM"): []})
    page = PageText(render(store, comparison)["report.html"].decode())
    assert page.text.count("Licence. OverFeat's weights may be used for your own research and evaluation alone") == 1
    other = make_comparison(store, make_dataset(), {("hog", "SVM"): []})
    assert "Licence." not in PageText(render(store, other)["report.html"].decode()).text


def test_one_combination(store: MemoryStore) -> None:
    """A run with one combination has a report that compares nothing."""
    comparison = make_comparison(store, make_dataset(), {("hog", "SVM"): []})
    page = PageText(render(store, comparison)["report.html"].decode())
    assert "hog + SVM was the only combination tried" in page.text
    assert "None of 30 images was misclassified." in page.text
    assert "From best to worst" not in page.text
    assert "t-test" not in page.text


def test_many_classes(store: MemoryStore) -> None:
    """With more classes than a matrix can show, the most frequent mistakes are listed instead."""
    classes = [f"species {number:03}" for number in range(MOST_CLASSES_IN_MATRIX + 1)]
    dataset = make_dataset(classes, images=6 * len(classes))
    page = PageText(render(store, make_comparison(store, dataset))["report.html"].decode())
    assert f"A matrix of {len(classes)} classes fits on no page" in page.text
    assert "3 images of species 000 taken for species 001" in page.text


def test_same_request_same_bytes(store: MemoryStore) -> None:
    """The same data gives the same files under the same keys, today and tomorrow; another request gives others."""
    comparison = make_comparison(store, make_dataset())
    again = MemoryStore()
    assert make_comparison(again, make_dataset()) == comparison
    request = ReportRequest(comparison.digest, "Pets")

    assert render(store, comparison) == render(again, comparison)
    assert render_report(store, request, stop=threading.Event()) == {
        name: keys.report(request.digest, name) for name in ("report.html", "table.csv", "scores.parquet")
    }
    assert ReportRequest(comparison.digest, "Pests").digest != request.digest


def test_table_csv(store: MemoryStore) -> None:
    """The table opens in a spreadsheet: a row a combination, best first, with all digits and every measure."""
    comparison = make_comparison(store, make_dataset())
    rows = list(csv.DictReader(io.StringIO(render(store, comparison)["table.csv"].decode())))

    assert [(row["extractor"], row["classifier"]) for row in rows] == [
        ("googlenet", "SVM"),
        ("googlenet", "RF"),
        ("hog", "SVM"),
    ]
    assert list(rows[0])[:6] == ["extractor", "classifier", "mean", "sd", "p_value", "different_from_best"]
    assert list(rows[0])[6:] == [f"{name}_{figure}" for name in measures.MEASURES for figure in ("mean", "sd")]
    assert float(rows[0]["mean"]) == comparison.best.spread.mean == float(rows[0]["accuracy_mean"])
    assert {row["different_from_best"] for row in rows} <= {"true", "false"}


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1"])
def test_no_formula_in_a_spreadsheet(text: str) -> None:
    """A name that a spreadsheet would run as a formula is written so that it stays a name."""
    assert harmless(text) == f"'{text}"
    assert harmless(f"a{text}") == f"a{text}"


def test_scores_parquet(store: MemoryStore) -> None:
    """The scores of every fold are there for an analysis of one's own, with the settings that were chosen."""
    comparison = make_comparison(store, make_dataset())
    table = pq.read_table(io.BytesIO(render(store, comparison)["scores.parquet"]))
    rows = table.to_pylist()
    assert table.column_names == ["extractor", "classifier", "fold", *measures.MEASURES, "settings"]
    assert [row["fold"] for row in rows] == [0, 1, 2] * 3
    assert np.mean([row["accuracy"] for row in rows[:3]]) == pytest.approx(comparison.best.spread.mean)
    assert json.loads(rows[0]["settings"]) == {"C": 0.1}


def test_altered_scores(store: MemoryStore) -> None:
    """Scores that were altered or lost after the comparison are found out and not reported."""
    comparison = make_comparison(store, make_dataset())
    key = keys.fold_scores(comparison.best.scores, 1)
    store.objects[key] = store.objects[keys.fold_scores(comparison.ranking[1].scores, 1)]
    with pytest.raises(DataLoss, match="run again"):
        render(store, comparison)
    del store.objects[key]
    with pytest.raises((NotFound, DataLoss)):
        render(store, comparison)


def test_scores_of_other_data(store: MemoryStore) -> None:
    """Predictions are never shown beside the images of another dataset."""
    dataset, other = make_dataset(), make_dataset(images=24)
    digest = write_scores(store, dataset, "hog", "SVM", [])
    write_dataset(store, other)
    comparison = compare_scores(
        store, other.digest, "accuracy", [(Combination("hog", "SVM"), digest)], stop=threading.Event()
    )
    with pytest.raises(DataLoss, match="not about the dataset"):
        render(store, comparison)


def test_scores_of_another_classifier(store: MemoryStore) -> None:
    """Scores cannot be passed off as those of another classifier."""
    digest = write_scores(store, make_dataset(), "hog", "SVM", [])
    with pytest.raises(InvalidInput, match=r"hog \+ RF are those of SVM"):
        compare_scores(store, "0" * 64, "accuracy", [(Combination("hog", "RF"), digest)], stop=threading.Event())


def test_stopping(store: MemoryStore) -> None:
    """A report or comparison that nobody waits for any more is given up."""
    comparison = make_comparison(store, make_dataset())
    stop = threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        render_report(store, ReportRequest(comparison.digest, "Pets"), stop=stop)
    with pytest.raises(Cancelled):
        compare_scores(
            store, comparison.dataset, "accuracy", [(Combination("hog", "SVM"), comparison.best.scores)], stop=stop
        )
