from __future__ import annotations

import io
from dataclasses import replace
from datetime import UTC, datetime
from itertools import count
from typing import TYPE_CHECKING

import pytest
from rich.console import Console

from offshelf import Combination, Prediction, Progress, RunSpec, RunState, RunStatus, Score, Table
from offshelf.cli import main
from offshelf.cli.options import split_names
from offshelf.cli.predict import as_document, as_line
from offshelf.cli.progress import BarDisplay, LineDisplay, duration, summary
from offshelf.cli.results import show_table, skipped, work
from offshelf.cli.run import run

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = ("run", "predict", "fit", "catalog", "runs", "watch", "cancel", "datasets", "gc", "up")
PROGRESS = Progress(
    images_scanned=100,
    images_total=100,
    images_extracted=30,
    images_reused=20,
    images_remaining=50,
    images_per_second=12.34,
    scores_computed=3,
    scores_remaining=17,
    combinations_done=1,
    combinations_total=4,
    seconds_left=75,
    best=Score(Combination("hog", "SVM"), 0.9, 0.01),
)
STATUS = RunStatus("01RUN", RunSpec("pets"), RunState.RUNNING, datetime.now(UTC), "extracting hog", PROGRESS)


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (("hog,lab888",), ("hog", "lab888")),
        (("hog", "lab888, hog"), ("hog", "lab888")),
        (("lab:4,4,4,hog",), ("lab:4,4,4", "hog")),
        (("lab:8,8,8",), ("lab:8,8,8",)),
        (("",), ()),
    ],
)
def test_names_may_be_listed_and_repeated(given: tuple[str, ...], names: tuple[str, ...]) -> None:
    """-e takes names separated by commas, or several times; commas between numbers belong to a name."""
    assert split_names(given) == names


def test_a_line_tells_how_a_run_stands() -> None:
    """In a log, one line has the speed, the counts, the time left and the best so far."""
    assert summary(STATUS) == (
        "extracting hog, 50/100 extracted (12.3 images/s), 3/20 folds scored, 1/4 combinations, "
        "about 1 min 15 s left, best so far hog + SVM 90.0 %"
    )


def test_lines_come_every_few_seconds_and_at_the_end() -> None:
    """A log is not flooded: changes between two lines are not printed, the end always is; notes come once."""
    text = io.StringIO()
    seconds = count()
    display = LineDisplay(Console(file=text), seconds=4, clock=lambda: float(next(seconds)))
    with display:
        for done in range(6):
            noted = replace(
                STATUS, left_out=("[weights]: none",), conditions=("not for sale",), activity=f"step {done}"
            )
            display.update(noted)
        display.update(replace(STATUS, activity="done", state=RunState.SUCCEEDED))
    lines = text.getvalue().splitlines()
    notes = ["Licence: not for sale", "Left out: [weights]: none"]
    assert [line.partition(",")[0] for line in lines] == [*notes, "step 0", "step 4", "done"]


def test_bars_are_drawn_on_a_terminal() -> None:
    """On a terminal there are bars for reading, extraction and scoring, with the best so far below."""
    text = io.StringIO()
    with BarDisplay(Console(file=text, force_terminal=True, width=120)) as display:
        display.update(STATUS)
    for word in ("Reading", "Extracting", "12.3 images/s", "1 of 4 combinations", "best so far hog + SVM"):
        assert word in text.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (75, "1 min 15 s"), (3700, "1 h 1 min")])
def test_times_are_told_in_words(seconds: float, text: str) -> None:
    """The time left is as fine as it is known."""
    assert duration(seconds) == text


def test_what_a_run_did_and_found_is_told() -> None:
    """A second run of the same says that there was nothing to compute; skipped images are counted."""
    assert work(PROGRESS) == "Extracted 30 feature vectors (20 found), computed 3 fold scores (0 found)."
    nothing = work(Progress(images_reused=1800, scores_reused=180))
    assert nothing == "Nothing to compute: all 1800 feature vectors and all 180 fold scores were found."
    assert skipped(PROGRESS) == ""
    assert skipped(Progress(images_skipped=1)).startswith("1 image cannot be used")


def test_predictions_are_printed_for_people_and_for_programs() -> None:
    """A line has the label and how sure it is, or what is wrong; JSON has the keys that are promised."""
    cat = Prediction("a.jpg", "cat", {"dog": 0.25, "cat": 0.75})
    assert as_line(cat) == "a.jpg: cat (75.0 %)"
    assert as_document(cat) == {"path": "a.jpg", "label": "cat", "probabilities": {"cat": 0.75, "dog": 0.25}}
    bad = Prediction("b.jpg", error="is text")
    assert as_line(bad) == "b.jpg: error: is text"
    assert as_document(bad) == {"path": "b.jpg", "error": "is text"}


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_command_has_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """--help of each command explains it, and does not start anything."""
    assert main([*command, "--help"]) == 0
    assert "Usage: offshelf" in capsys.readouterr().out


def test_help_warns_of_tokens_on_the_command_line() -> None:
    """Who reads the help knows that a token given as an option can be seen by others."""
    token = next(option for option in run.params if option.name == "token")
    assert "OFFSHELF_TOKEN" in str(token.to_info_dict()["help"])


@pytest.mark.parametrize("arguments", [["runn"], ["run"], ["run", "x", "--folds", "1"], ["predict", "out"]])
def test_wrong_usage_exits_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """A command that cannot be understood says what is wrong, without a traceback."""
    assert main(arguments) == 2
    assert "Error: " in capsys.readouterr().err


def test_an_output_inside_the_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An output there would be one more class for the next run."""
    (tmp_path / "cat").mkdir()
    assert main(["run", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "would become a class" in capsys.readouterr().err


def test_an_output_that_exists_is_refused_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing is started or read for an output that could not be written."""
    assert main(["run", "nowhere", "-o", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith("Error: ")


def test_debug_shows_where_an_error_comes_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only with --debug there is a traceback."""
    assert main(["--debug", "run", "nowhere", "-o", str(tmp_path)]) == 2
    assert "Traceback" in capsys.readouterr().err


def test_the_table_has_rules_on_a_terminal() -> None:
    """On a terminal the table is drawn with rules, under its title and above what its marks mean, each on one line."""
    text = io.StringIO()
    scores = tuple(Score(Combination("hog", name), mean, 0.01) for name, mean in (("SVM", 0.9), ("LR", 0.8)))
    table = Table.of(scores, RunSpec("pets"))
    show_table(table, Console(file=text, force_terminal=True, width=60, color_system=None))
    lines = text.getvalue().splitlines()
    assert lines[0] == table.title
    assert "│ hog │ 80.0 (1.0)~ │ 90.0 (1.0)* │" in lines
    assert lines[-1] == table.legend
