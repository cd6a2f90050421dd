"""Stores with everything that runs leave in them, made by the product's own parts without its services."""

from __future__ import annotations

import io
import tempfile
import threading
import time
import zipfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq

from offshelf import datasets, features, models, scores
from offshelf.datasets import Dataset, DatasetCard, Item
from offshelf.digests import digest_of_bytes
from offshelf.errors import StoreUnavailable
from offshelf.extraction import registry
from offshelf.extraction import spec as extractor_spec
from offshelf.features import FeatureTable, SegmentRow
from offshelf.images import ImageStatus
from offshelf.runs import Combination
from offshelf.services.orchestrator.runs import runlog
from offshelf.services.orchestrator.runs.planning import ExtractionPlanner
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.runs.segment_shelf import SegmentShelf
from offshelf.services.stats.report import ReportRequest, render_report
from offshelf.services.stats.stored import compare_scores
from offshelf.services.trainer.evaluation import evaluate_fold
from offshelf.services.trainer.fitting import fit_model
from offshelf.store import keys
from offshelf.store.objects import ObjectInfo
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offshelf.features import Features
    from offshelf.store import ObjectStore

DIMENSION = 3
FOLDS = 2
CLASSIFIER = "KNN"
MEASURE = "accuracy"
MAX_PIXELS = 1000
DAY = 24 * 3600.0
UNREADABLE = 7
"""Number of an image that no extractor can use."""


def content(number: int) -> bytes:
    """Bytes of a made-up image."""
    return f"image {number}".encode()


def image(number: int) -> str:
    """Digest of a made-up image."""
    return digest_of_bytes(content(number))


def vector(number: int, extractor: str) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Make the vector of an image, which no other image has."""
    seed = [number, *extractor.encode()]
    return np.random.default_rng(seed).normal(size=DIMENSION).astype(np.float32)


def dataset_of(name: str, numbers: range) -> Dataset:
    """Make a dataset of two classes, with paths that no other dataset has."""
    return Dataset.of(
        Item(f"{name}/{number % 2}/{number:03}.png", ("cat", "dog")[number % 2], "", image(number))
        for number in numbers
    )


def fingerprint(extractor: str) -> str:
    """Fingerprint of a registered extractor."""
    return extractor_spec.fingerprint(registry.find(extractor))


class AgedStore(MemoryStore):
    """A store in memory whose objects have an age, and which can be taken away after some calls."""

    def __init__(self, objects: dict[str, bytes] | None = None, *, calls: float = float("inf")) -> None:
        super().__init__()
        self.objects = dict(objects or {})
        self.modified: dict[str, float] = {}
        self.calls = 0
        self._most_calls = calls
        self._counting = threading.Lock()

    def age(self, days: float) -> None:
        """Make everything in it so old."""
        self.modified = dict.fromkeys(self.objects, time.time() - days * DAY)

    def put(self, key: str, data: bytes) -> None:
        """Write an object, now."""
        self._count()
        super().put(key, data)
        self.modified[key] = time.time()

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object or a part of it."""
        self._count()
        return super().get(key, offset=offset, length=length)

    def stat(self, key: str) -> ObjectInfo | None:
        """Look an object up."""
        self._count()
        info = super().stat(key)
        return None if info is None else self._with_age(info)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield the objects whose key begins with the prefix, sorted."""
        self._count()
        yield from map(self._with_age, super().list(prefix))

    def delete(self, key: str) -> None:
        """Remove an object."""
        self._count()
        super().delete(key)

    def _with_age(self, info: ObjectInfo) -> ObjectInfo:
        return ObjectInfo(info.key, info.size, self.modified.get(info.key, time.time()))

    def _count(self) -> None:
        with self._counting:
            self.calls += 1
            if self.calls > self._most_calls:
                raise StoreUnavailable("The store is away.")


class Workshop:
    """Carries out runs over a store."""

    def __init__(self, store: ObjectStore, *, epoch: int = 1) -> None:
        self.store = store
        self.log = RunLog(store, epoch)

    def upload(self, dataset: Dataset, *, images: bool = True) -> None:
        """Put a dataset into the store as an upload does; as a run over a folder does, without its images."""
        if images:
            for number in range(1000):
                if image(number) in {item.digest for item in dataset.items}:
                    self.store.put(keys.image(image(number)), content(number))
        datasets.write_dataset(self.store, dataset)
        created_at = datetime(2026, 1, 2, tzinfo=UTC)
        source = f"store:{dataset.digest}" if images else "folder:/photos"
        datasets.write_card(
            self.store,
            DatasetCard(dataset.digest, "photos", source, len(dataset.items), 0, dataset.classes, created_at, "ann"),
        )

    def extract(self, dataset: Dataset, extractor: str, *, units: int | None = None) -> FeatureTable | None:
        """Make a feature table; with `units`, only the segments of the first units that are missing."""
        numbers = {image(number): number for number in range(1000)}
        plan = ExtractionPlanner(
            SegmentShelf(self.store, fingerprint(extractor), MAX_PIXELS),
            spec=registry.find(extractor),
            fingerprint=fingerprint(extractor),
            dataset=dataset,
            source="folder:/photos",
            unit_seconds=4 * registry.find(extractor).cost_seconds,
        ).plan()
        if plan.table is not None:
            return plan.table
        made = []
        for part in plan.parts if units is None else plan.units[:units]:
            if isinstance(part, str):
                made.append(part)
                continue
            rows = [
                SegmentRow(digest, ImageStatus.UNREADABLE, "half a picture", None)
                if numbers[digest] == UNREADABLE
                else SegmentRow(digest, ImageStatus.OK, "", vector(numbers[digest], extractor))
                for digest in part.images
            ]
            segment = features.write_segment(
                self.store, fingerprint(extractor), part.images, rows, max_pixels=MAX_PIXELS, dimension=DIMENSION
            )
            made.append(segment)
        if units is not None:
            return None
        table = FeatureTable(dataset.digest, fingerprint(extractor), DIMENSION, tuple(made))
        features.write_table(self.store, table)
        return table

    def export(self, dataset: Dataset, *extractors: str) -> str:
        """Put the features of extractors into one file for a user; returns its key."""
        tables = {name: table for name in extractors if (table := self.extract(dataset, name))}
        key = keys.export(dataset.digest, features.export_digest(tables, dataset))
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "features.parquet"
            features.export_features(self.store, dataset, tables, path, stop=threading.Event())
            self.store.put_file(key, path)
        return key

    def score(self, dataset: Dataset, table: FeatureTable, *, folds: int = FOLDS) -> str:
        """Score one classifier; with fewer folds than there are, without the manifest."""
        plan = scores.ValidationPlan(FOLDS, 0)
        digest = scores.scores_digest(dataset.digest, table.digest, CLASSIFIER, plan, MEASURE)
        loaded = features.load_features(self.store, table, dataset)
        for fold in range(folds):
            found = evaluate_fold(
                loaded, dataset, plan, table=table.digest, fold=fold, classifier=CLASSIFIER, measure=MEASURE
            )
            scores.write_fold(self.store, digest, found)
        if folds == FOLDS:
            scores.write_manifest(self.store, digest, classes=dataset.classes, folds=FOLDS)
        return digest

    def fit(self, dataset: Dataset, extractor: str, table: FeatureTable) -> str:
        """Fit a model."""
        digest = models.model_digest(dataset.digest, table.digest, table.fingerprint, CLASSIFIER, MEASURE, 0)
        card, estimator = fit_model(
            features.load_features(self.store, table, dataset),
            dataset,
            digest=digest,
            table=table.digest,
            fingerprint=table.fingerprint,
            extractor=extractor,
            classifier=CLASSIFIER,
            measure=MEASURE,
            seed=0,
        )
        models.write_model(self.store, card, estimator)
        return digest

    def begin(
        self, run_id: str, dataset: Dataset, *, extractors: tuple[str, ...] = ("hog", "lab888")
    ) -> runlog.History:
        """Begin a run and let it read its dataset."""
        self.upload(dataset, images=False)
        spec = {
            "source": "folder:/photos",
            "extractors": extractors,
            "classifiers": (CLASSIFIER,),
            "measure": MEASURE,
            "folds": FOLDS,
            "seed": 0,
            "choice": None,
        }
        history = self.log.create(run_id, spec, request_id=run_id)
        self.log.append(history, runlog.DATASET_READ, dataset=dataset.digest, images=len(dataset.items))
        return history

    def run(self, run_id: str, dataset: Dataset, *, extractors: tuple[str, ...] = ("hog", "lab888")) -> dict[str, str]:
        """Carry out a whole run; returns its artefacts."""
        history = self.begin(run_id, dataset, extractors=extractors)
        tables = {name: self.extract(dataset, name) for name in extractors}
        found = {name: self.score(dataset, table) for name, table in tables.items() if table}
        entries = [(Combination(name, CLASSIFIER), digest) for name, digest in found.items()]
        comparison = compare_scores(self.store, dataset.digest, MEASURE, entries, stop=threading.Event())
        self.log.append(history, runlog.COMPARED, comparison=comparison.digest)
        best = comparison.best.combination.extractor
        table = tables[best]
        assert table is not None
        model = self.fit(dataset, best, table)
        self.log.append(history, runlog.FITTED, model=model, extractor=best, classifier=CLASSIFIER)
        rendered = render_report(self.store, ReportRequest(comparison.digest, run_id), stop=threading.Event())
        own = {name: keys.run_artifact(run_id, name) for name in ("run.json", "skipped.csv")}
        self.store.put(own["run.json"], f'{{"dataset": "{dataset.digest}"}}'.encode())
        self.store.put(own["skipped.csv"], f"path\n{dataset.items[0].path}\n".encode())
        artifacts = {**rendered, **own, "model.json": keys.model_card(model), "model.skops": keys.model(model)}
        result = {
            "dataset": dataset.digest,
            "classes": dataset.classes,
            "scores": [],
            "verdict": "",
            "model": model,
            "fitted": {"extractor": best, "classifier": CLASSIFIER},
            "artifacts": artifacts,
        }
        self.log.append(history, runlog.SUCCEEDED, result=result)
        return artifacts


def load(store: ObjectStore, dataset: Dataset, extractor: str) -> Features:
    """Load a dataset's features by its finished table."""
    found = [
        table
        for table in SegmentShelf(store, fingerprint(extractor), MAX_PIXELS).tables()
        if table.dataset == dataset.digest
    ]
    [table] = found
    return features.load_features(store, table, dataset)


def everything_said(data: bytes) -> bytes:
    """What an object says, out of whatever it is packed in."""
    said = [data]
    if data.startswith(b"PAR1"):
        table = pq.read_table(io.BytesIO(data))
        said += [str(table.schema.metadata).encode()]
        for column in table.columns:
            for value in column.to_pylist():
                if isinstance(value, list):
                    said += [np.array(value, np.float32).tobytes()]
                else:
                    said += [value.hex().encode() if isinstance(value, bytes) else str(value).encode()]
    elif data.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            said += [archive.read(name) for name in archive.namelist()]
            said += [archive.comment]
    return b"\0".join(said)
