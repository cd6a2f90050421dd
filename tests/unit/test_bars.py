"""How a benchmark says that it missed a bar."""

from __future__ import annotations

import json
from typing import Any

import pytest

from benchmarks.bars import Bar, report

FAST = Bar("start_s", "at most", 0.5)
GOOD = Bar("accuracy", "at least", 0.975)


def last_line(capsys: pytest.CaptureFixture[str]) -> Any:
    """Read what a benchmark printed last."""
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.mark.parametrize(("seconds", "accuracy"), [(0.1, 0.99), (0.5, 0.975)])
def test_figures_that_reach_their_bars_pass(
    capsys: pytest.CaptureFixture[str], seconds: float, accuracy: float
) -> None:
    """A benchmark succeeds where every figure is on the right side of its bar, or on it."""
    assert report({"start_s": seconds, "accuracy": accuracy, "photos": 100}, (FAST, GOOD)) == 0
    assert last_line(capsys) == {"start_s": seconds, "accuracy": accuracy, "photos": 100, "missed": []}


@pytest.mark.parametrize(
    ("figures", "missed"),
    [
        (
            {"start_s": 0.6, "accuracy": 0.99},
            [{"name": "start_s", "figure": 0.6, "direction": "at most", "limit": 0.5}],
        ),
        (
            {"start_s": 0.1, "accuracy": 0.9},
            [{"name": "accuracy", "figure": 0.9, "direction": "at least", "limit": 0.975}],
        ),
    ],
)
def test_a_missed_bar_fails_and_is_named(
    capsys: pytest.CaptureFixture[str], figures: dict[str, float], missed: list[dict[str, Any]]
) -> None:
    """A benchmark fails where a bar is missed, and says which, by how much, beside all that it measured."""
    assert report(figures, (FAST, GOOD)) == 1
    assert last_line(capsys) == {**figures, "missed": missed}


def test_what_was_not_measured_misses_its_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """A bar whose figure has another name, or came out as no number, is missed rather than forgotten."""
    assert report({"strat_s": 0.1, "accuracy": float("nan")}, (FAST, GOOD)) == 1
    assert [bar["name"] for bar in last_line(capsys)["missed"]] == ["start_s", "accuracy"]


def test_yes_or_no_can_be_a_bar(capsys: pytest.CaptureFixture[str]) -> None:
    """A figure may be the answer to a question, such as whether two results are the same."""
    assert report({"byte_equal": True}, [Bar("byte_equal", "at least", True)]) == 0
    assert report({"byte_equal": False}, [Bar("byte_equal", "at least", True)]) == 1
    assert last_line(capsys)["missed"] == [
        {"name": "byte_equal", "figure": False, "direction": "at least", "limit": True}
    ]


def test_a_figure_is_held_to_its_bar_as_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody sees a figure that equals its bar and is said to miss it."""
    assert report({"start_s": 0.500_000_1}, [FAST]) == 0
    assert last_line(capsys) == {"start_s": 0.5, "missed": []}
