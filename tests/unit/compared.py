"""Stores that hold scores and their comparison, without anything having been trained."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from offshelf import measures, scores
from offshelf.datasets import Dataset, Item, write_dataset
from offshelf.digests import digest_of, digest_of_bytes
from offshelf.runs import Combination
from offshelf.services.stats.report import ReportRequest, render_report
from offshelf.services.stats.stored import compare_scores

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offshelf.services.stats.comparison import Comparison
    from tests.unit.fakes import MemoryStore

FOLDS = 3
PLAN = scores.ValidationPlan(FOLDS, 0)


def make_dataset(classes: Sequence[str] = ("cat", "dog"), images: int = 30) -> Dataset:
    """Make a dataset with the classes in turn."""
    labels = [classes[number % len(classes)] for number in range(images)]
    return Dataset.of(
        Item(f"{label}/{number:03d}.jpg", label, "", digest_of_bytes(f"{label}{number}".encode()))
        for number, label in enumerate(labels)
    )


def write_scores(store: MemoryStore, dataset: Dataset, extractor: str, classifier: str, wrong: Sequence[int]) -> str:
    """Write scores in which the items named in `wrong` are taken for the next class."""
    digest = scores.scores_digest(dataset.digest, digest_of(extractor), classifier, PLAN, "accuracy")
    n_classes = len(dataset.classes)
    for fold in range(FOLDS):
        items = list(range(fold, len(dataset.items), FOLDS))
        labels = [dataset.targets[item] for item in items]
        probabilities = np.full((len(items), n_classes), 0.1 / (n_classes - 1))
        for row, (item, label) in enumerate(zip(items, labels, strict=True)):
            probabilities[row, (label + 1) % n_classes if item in wrong else label] = 0.9
        images = tuple(dataset.items[item].digest for item in items)
        found = measures.compute(labels, probabilities, n_classes)
        scores.write_fold(
            store,
            digest,
            scores.FoldScores(
                dataset=dataset.digest,
                table=digest_of(extractor),
                classifier=classifier,
                fold=fold,
                classes=dataset.classes,
                items=tuple(items),
                images=images,
                labels=tuple(labels),
                probabilities=probabilities,
                measures=found,
                settings={"C": 0.1},
            ),
        )
    scores.write_manifest(store, digest, classes=dataset.classes, folds=FOLDS)
    return digest


def make_comparison(
    store: MemoryStore, dataset: Dataset, wrong: Mapping[tuple[str, str], Sequence[int]] | None = None
) -> Comparison:
    """Put scores and their comparison into a store."""
    wrong = wrong or {
        ("googlenet", "SVM"): [0, 3, 4],
        ("googlenet", "RF"): [1, 2, 3, 4, 9],
        ("hog", "SVM"): list(range(15)),
    }
    entries = [(Combination(*names), write_scores(store, dataset, *names, items)) for names, items in wrong.items()]
    write_dataset(store, dataset)
    return compare_scores(store, dataset.digest, "accuracy", entries, stop=threading.Event())


def render(store: MemoryStore, comparison: Comparison, **request: Any) -> dict[str, bytes]:
    """Render a report and read what was written."""
    asked = ReportRequest(**{"comparison": comparison.digest, "title": "Pets", **request})
    return {name: store.get(key) for name, key in render_report(store, asked, stop=threading.Event()).items()}
