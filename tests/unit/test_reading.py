"""Many reads of a store at once."""

from __future__ import annotations

import threading

import pytest

from offshelf.errors import DataLoss
from offshelf.services.orchestrator.runs.reading import read_each


def test_results_come_in_the_order_of_what_was_asked() -> None:
    """However the answers overtake each other, each is where it belongs."""
    assert read_each(lambda number: number * 2, range(500)) == [number * 2 for number in range(500)]
    assert read_each(str, []) == []


def test_several_are_read_at_the_same_time() -> None:
    """A plan over a slow store waits for many answers at once."""
    together = threading.Barrier(4, timeout=10)
    assert len(read_each(lambda _: together.wait(), range(4))) == 4


def test_a_read_may_read_many_itself() -> None:
    """Reading a hundred runs of a hundred events each does not wait for itself."""
    assert read_each(lambda number: sum(read_each(int, range(number))), range(100))[-1] == sum(range(99))


def test_the_first_failure_ends_it() -> None:
    """What cannot be read is said, and the rest is not read in vain."""
    read: list[int] = []

    def fail(number: int) -> int:
        read.append(number)
        if number == 3:
            raise DataLoss("damaged")
        return number

    with pytest.raises(DataLoss, match="damaged"):
        read_each(fail, range(10_000))
    assert len(read) < 1000
