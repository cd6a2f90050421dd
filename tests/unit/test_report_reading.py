"""How a report reads its scores from a store that takes its time."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import Cancelled
from offshelf.runs import Combination
from offshelf.services.stats import folds
from offshelf.services.stats.report import ReportRequest, render_report
from offshelf.services.stats.stored import compare_scores
from tests.unit.compared import FOLDS, make_comparison, make_dataset, render, write_scores
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.services.stats.comparison import Comparison


class WatchedStore(MemoryStore):
    """Tells how many folds or manifests of scores are being read at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.on_read: Callable[[str], object] = str
        self.reads = self.most = self._now = 0
        self._counting = threading.Lock()

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object or a part of it."""
        if not key.startswith("scores/"):
            return super().get(key, offset=offset, length=length)
        with self._counting:
            self.reads += 1
            self._now += 1
            self.most = max(self.most, self._now)
        try:
            self.on_read(key)
            return super().get(key, offset=offset, length=length)
        finally:
            with self._counting:
                self._now -= 1


def in_threes(store: WatchedStore, name: str) -> None:
    """Let the store answer only where three of what is named so are read at the same time."""
    together = threading.Barrier(3, timeout=10)
    store.on_read = lambda key: together.wait() if name in key else None


@pytest.fixture
def store() -> WatchedStore:
    """Make an empty store."""
    return WatchedStore()


def compared(store: WatchedStore) -> Comparison:
    """Compare three combinations of three folds each."""
    return make_comparison(store, make_dataset())


def test_many_folds_are_read_at_the_same_time(store: WatchedStore) -> None:
    """A report on a hundred combinations in a distant store takes seconds, and shows what it would otherwise."""
    comparison = compared(store)
    expected = render(store, comparison)
    in_threes(store, "fold-")
    assert render(store, comparison) == expected


def test_many_manifests_are_compared_at_the_same_time(store: WatchedStore) -> None:
    """Comparing a hundred combinations in a distant store waits for many answers at once."""
    dataset = make_dataset()
    entries = [
        (Combination(name, "SVM"), write_scores(store, dataset, name, "SVM", [number]))
        for number, name in enumerate(("googlenet", "hog", "haralick"))
    ]
    in_threes(store, "scores.json")
    comparison = compare_scores(store, dataset.digest, "accuracy", entries, stop=threading.Event())
    assert len(comparison.ranking) == 3


def test_large_folds_are_read_one_by_one(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folds that fill the memory are not all held at once."""
    comparison = compared(store)
    few = folds.folds_at_once(make_dataset([f"class {number}" for number in range(5000)], images=20_000), 5)
    assert few == 1
    assert folds.folds_at_once(make_dataset(), FOLDS) > FOLDS
    monkeypatch.setattr(folds, "_HELD_BYTES", 1)
    store.most = 0
    reading = folds.StoredFolds(store, make_dataset(), folds=FOLDS, stop=threading.Event())
    assert len(list(reading.of(comparison.best.scores))) == FOLDS
    assert store.most == 1


def test_a_report_that_is_stopped_reads_no_further(store: WatchedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits for the folds of a report that nobody waits for."""
    comparison = compared(store)
    monkeypatch.setattr(folds, "_HELD_BYTES", 1)
    stop = threading.Event()
    store.reads = 0
    store.on_read = lambda _: stop.set() if store.reads == FOLDS + 2 else None
    with pytest.raises(Cancelled, match="stopped"):
        render_report(store, ReportRequest(comparison.digest, "Pets"), stop=stop)
    assert store.reads == FOLDS + 2
