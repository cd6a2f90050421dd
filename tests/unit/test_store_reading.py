"""Many reads of a store at once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import DataLoss
from offshelf.store import reading
from offshelf.store.reading import read_ahead, read_each

if TYPE_CHECKING:
    from collections.abc import Iterator


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


def test_no_more_is_read_ahead_than_asked_for() -> None:
    """Whoever reads large things one by one holds few of them, however slowly they are looked at."""
    begun: list[int] = []

    def read(number: int) -> int:
        begun.append(number)
        return number

    for number in read_ahead(read, range(50), ahead=3):
        assert len(begun) <= number + 3
    assert sorted(begun) == list(range(50))


def test_what_is_read_ahead_is_read_at_the_same_time() -> None:
    """The first of a long list is there as soon as a store that answers slowly allows."""
    together = threading.Barrier(4, timeout=10)
    assert len(list(read_ahead(lambda _: together.wait(), range(8), ahead=4))) == 8


def test_a_reader_that_leaves_waits_for_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stops reading is free at once, however long the store keeps others waiting."""
    answer = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        monkeypatch.setattr(reading, "_readers", lambda: threads)

        def values() -> Iterator[int]:
            yield 0
            threads.submit(answer.wait, 10)  # somebody else's
            yield 1

        found = read_ahead(int, values(), ahead=2)
        assert next(found) == 0
        too_late = threading.Timer(5, answer.set)
        too_late.start()
        found.close()
        too_late.cancel()
        assert not answer.is_set()
        answer.set()


def test_a_reader_that_leaves_ends_the_reading() -> None:
    """Nothing is read for somebody who has stopped looking, and nothing goes on behind their back."""
    begun: list[int] = []
    found = read_ahead(begun.append, range(1000), ahead=4)
    next(found)
    found.close()
    seen = len(begun)
    assert seen <= 4
    read_each(int, range(100))  # the same threads
    assert len(begun) == seen
