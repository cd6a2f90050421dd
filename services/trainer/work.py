"""What a worker process does: reads features from the store, trains, and writes what came out.

Requests and answers are small JSON objects; features and results go through the store.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from offshelf import measures, models, scores
from offshelf.datasets import read_dataset
from offshelf.errors import Conflict, DataLoss, InvalidInput, NotFound
from offshelf.estimators import building, registry
from offshelf.features import load_features, read_table
from offshelf.services.trainer.evaluation import evaluate_fold
from offshelf.services.trainer.fitting import fit_model
from offshelf.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from offshelf.datasets import Dataset
    from offshelf.features import Features
    from offshelf.store import ObjectStore

Header = dict[str, Any]

CACHED_BYTES: Final = 256 * 2**20
"""How many bytes of features a worker keeps for the next call; the table in use is kept however large it is."""


def make_handler(setup: Mapping[str, Any]) -> Callable[[Header, bytes], tuple[Header, bytes]]:
    """Make what answers a worker's calls; see `offshelf.workers.WorkerPool`.

    Parameters
    ----------
    setup
        `store`: address of the feature store.
    """
    work = TrainerWork(open_store(setup["store"], create=False))

    def handle(header: Header, payload: bytes) -> tuple[Header, bytes]:
        del payload
        arguments = {key: value for key, value in header.items() if key != "task"}
        match header["task"]:
            case "evaluate":
                return work.evaluate(**arguments), b""
            case "fit":
                return work.fit(**arguments), b""
            case "warm_up":
                work.warm_up()
                return {}, b""
        raise ValueError(f"unknown task {header['task']!r}")

    return handle


class TrainerWork:
    """The trainer's work over one store, with the features used last kept in memory."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store
        self._tables: OrderedDict[tuple[str, str, str], tuple[Dataset, Features]] = OrderedDict()

    def evaluate(
        self,
        *,
        dataset: str,
        table: str,
        fingerprint: str,
        folds: int,
        seed: int,
        fold: int,
        classifier: str,
        measure: str,
    ) -> Header:
        """Evaluate a classifier on one fold and write its scores, unless they are there already.

        Returns
        -------
        dict
            `scores` (their digest) and `measures` (by name).
        """
        plan = scores.ValidationPlan(folds, seed)
        digest = scores.scores_digest(dataset, table, classifier, plan, measures.find(measure))
        try:
            result = scores.read_fold(self._store, digest, fold)
        except (NotFound, DataLoss):
            data, features = self._load(dataset, table, fingerprint)
            result = evaluate_fold(features, data, plan, table=table, fold=fold, classifier=classifier, measure=measure)
            scores.write_fold(self._store, digest, result)
        return {"scores": digest, "measures": dict(result.measures)}

    def fit(
        self,
        *,
        dataset: str,
        table: str,
        fingerprint: str,
        extractor: str,
        classifier: str,
        measure: str,
        seed: int,
    ) -> Header:
        """Fit a classifier on all usable images and write the model, unless a usable one is there already.

        Returns
        -------
        dict
            `model`: its digest.
        """
        digest = models.model_digest(dataset, table, fingerprint, classifier, measures.find(measure), seed)
        if not self._is_usable(digest):
            data, features = self._load(dataset, table, fingerprint)
            card, estimator = fit_model(
                features,
                data,
                digest=digest,
                table=table,
                fingerprint=fingerprint,
                extractor=extractor,
                classifier=classifier,
                measure=measure,
                seed=seed,
            )
            models.write_model(self._store, card, estimator)
        return {"model": digest}

    def warm_up(self) -> None:
        """Fit every classifier once to a tiny problem, so that the first call finds all code loaded."""
        y = np.arange(12) % 2
        X = np.random.default_rng(0).normal(size=(len(y), 3)).astype(np.float32)
        for spec in registry.CLASSIFIERS.values():
            estimator = building.fit(building.build(spec.name, spec.space[0], 0), X, y)
            measures.compute(y, building.class_probabilities(estimator, X, 2), 2)

    def _is_usable(self, digest: str) -> bool:
        try:
            models.read_estimator(self._store, models.read_card(self._store, digest))
        except (NotFound, DataLoss, Conflict):
            # Damaged, or fitted with a scikit-learn that is not here any more: fitting again mends both.
            return False
        return True

    def _load(self, dataset: str, table: str, fingerprint: str) -> tuple[Dataset, Features]:
        key = (dataset, table, fingerprint)
        if key not in self._tables:
            manifest = read_table(self._store, fingerprint, table)
            if manifest.dataset != dataset:
                raise InvalidInput(f"The feature table {table} is not of the dataset {dataset}.")
            data = read_dataset(self._store, dataset)
            self._tables[key] = (data, load_features(self._store, manifest, data))
        self._tables.move_to_end(key)
        while len(self._tables) > 1 and sum(part.X.nbytes for _, part in self._tables.values()) > CACHED_BYTES:
            self._tables.popitem(last=False)
        return self._tables[key]
