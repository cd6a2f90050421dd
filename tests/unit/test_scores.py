from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from offshelf import scores
from offshelf.errors import DataLoss, InvalidInput, NotFound, UnknownName
from offshelf.scores import FoldScores, ValidationPlan
from offshelf.store import keys
from tests.unit.fakes import MemoryStore

PLAN = ValidationPlan(folds=2, seed=0)
DIGEST = scores.scores_digest("d" * 64, "t" * 64, "LR", PLAN, "accuracy")


def fold_scores(fold: int = 0) -> FoldScores:
    """Make the scores of a fold of three images in two classes."""
    return FoldScores(
        dataset="d" * 64,
        table="t" * 64,
        classifier="LR",
        fold=fold,
        classes=("cat", "dög"),
        items=(fold, 4, 7),
        images=("0" * 64, "1" * 64, "2" * 64),
        labels=(0, 1, 1),
        probabilities=np.array([[0.1 + 0.2, 0.7], [1 / 3, 2 / 3], [0.0, 1.0]]),
        measures={"accuracy": 2 / 3, "mcc": -0.1},
        settings={"C": 0.001},
    )


def test_a_fold_comes_back_as_it_was_written() -> None:
    """Out-of-fold probabilities are kept to the last bit, with what they are of."""
    store = MemoryStore()
    sha256 = scores.write_fold(store, DIGEST, fold_scores())
    found = scores.read_fold(store, DIGEST, 0, sha256=sha256)
    assert np.array_equal(found.probabilities, fold_scores().probabilities)
    same = fold_scores().probabilities
    assert vars(replace(found, probabilities=same)) == vars(replace(fold_scores(), probabilities=same))


def test_equal_scores_are_equal_bytes() -> None:
    """Making a fold again gives the same object."""
    assert scores.encode_fold(DIGEST, fold_scores()) == scores.encode_fold(DIGEST, fold_scores())


@pytest.mark.parametrize("position", range(4, 2000, 97))
def test_an_altered_fold_is_noticed(position: int) -> None:
    """No altered byte ends in another figure without an error."""
    data = bytearray(scores.encode_fold(DIGEST, fold_scores()))
    data[position % len(data)] ^= 0x10
    try:
        found = scores.decode_fold(bytes(data), DIGEST, 0)
    except DataLoss:
        return
    # Some bytes of the format say nothing about the content.
    assert np.array_equal(found.probabilities, fold_scores().probabilities)
    assert found.measures == fold_scores().measures


def test_a_fold_under_another_name_is_noticed() -> None:
    """A copy of another fold is not taken for the one asked for."""
    store = MemoryStore()
    scores.write_fold(store, DIGEST, fold_scores(0))
    store.objects[keys.fold_scores(DIGEST, 1)] = store.objects[keys.fold_scores(DIGEST, 0)]
    with pytest.raises(DataLoss, match=r"Fold 1 .*run again"):
        scores.read_fold(store, DIGEST, 1)


def test_a_resumed_run_finds_what_is_done() -> None:
    """Finished folds are found; missing and truncated ones count as not done, so that they are made again."""
    store = MemoryStore()
    for fold in (0, 2, 3):
        scores.write_fold(store, DIGEST, fold_scores(fold))
    key = keys.fold_scores(DIGEST, 2)
    store.objects[key] = store.objects[key][:-20]
    found = scores.finished_folds(store, DIGEST, 5)
    assert list(found) == [0, 3]
    assert found[3].fold == 3


def test_a_manifest_says_that_all_folds_are_there() -> None:
    """The manifest names every fold with its digest and measures, and reads back as it was written."""
    store = MemoryStore()
    scores.write_fold(store, DIGEST, fold_scores(0))
    with pytest.raises(NotFound):
        scores.write_manifest(store, DIGEST, classes=("cat", "dög"), folds=2)
    assert scores.read_manifest_if_complete(store, DIGEST) is None
    sha256 = scores.write_fold(store, DIGEST, fold_scores(1))
    written = scores.write_manifest(store, DIGEST, classes=("cat", "dög"), folds=2)
    assert scores.read_manifest(store, DIGEST) == written
    assert scores.read_manifest_if_complete(store, DIGEST) == written
    assert written.classifier == "LR"
    assert written.folds[1].sha256 == sha256
    assert written.folds[1].measures == {"accuracy": 2 / 3, "mcc": -0.1}


def test_scores_say_what_they_were_made_of() -> None:
    """Each fold and the manifest name the dataset and the table, so that they can go with the dataset."""
    store = MemoryStore()
    for fold in (0, 1):
        scores.write_fold(store, DIGEST, fold_scores(fold))
        found = scores.read_fold(store, DIGEST, fold)
        assert (found.dataset, found.table) == ("d" * 64, "t" * 64)
    scores.write_manifest(store, DIGEST, classes=("cat", "dög"), folds=2)
    manifest = scores.read_manifest(store, DIGEST)
    assert (manifest.dataset, manifest.table) == ("d" * 64, "t" * 64)


def test_folds_of_two_tables_get_no_manifest() -> None:
    """Folds that were not made of one and the same features are not summed up."""
    store = MemoryStore()
    scores.write_fold(store, DIGEST, fold_scores(0))
    scores.write_fold(store, DIGEST, replace(fold_scores(1), table="u" * 64))
    with pytest.raises(DataLoss, match="one table"):
        scores.write_manifest(store, DIGEST, classes=("cat", "dög"), folds=2)


def test_a_manifest_of_another_version_is_not_complete() -> None:
    """Scores of a version that did not say what they were made of are made again."""
    store = MemoryStore()
    for fold in (0, 1):
        scores.write_fold(store, DIGEST, fold_scores(fold))
    written = scores.write_manifest(store, DIGEST, classes=("cat", "dög"), folds=2)
    old = {**json.loads(written.to_json()), "format": 1}
    del old["dataset"], old["table"]
    store.objects[keys.scores(DIGEST)] = json.dumps(old).encode()
    assert scores.read_manifest_if_complete(store, DIGEST) is None
    with pytest.raises(DataLoss, match="another version"):
        scores.read_manifest(store, DIGEST)


def test_a_manifest_over_a_damaged_fold_is_not_complete() -> None:
    """A later run makes damaged scores again instead of failing on them."""
    store = MemoryStore()
    for fold in (0, 1):
        scores.write_fold(store, DIGEST, fold_scores(fold))
    scores.write_manifest(store, DIGEST, classes=("cat", "dög"), folds=2)
    kept = store.objects[keys.fold_scores(DIGEST, 1)]
    store.objects[keys.fold_scores(DIGEST, 1)] += b"x"
    assert scores.read_manifest_if_complete(store, DIGEST) is None
    store.objects[keys.fold_scores(DIGEST, 1)] = kept
    assert scores.read_manifest_if_complete(store, DIGEST) is not None
    whole = store.objects[keys.scores(DIGEST)]
    store.objects[keys.scores(DIGEST)] = whole.replace(b'"mcc":-0.1', b'"mcc":0.99')
    assert scores.read_manifest_if_complete(store, DIGEST) is None
    store.objects[keys.scores(DIGEST)] = b"{}"
    assert scores.read_manifest_if_complete(store, DIGEST) is None
    with pytest.raises(DataLoss, match="run again"):
        scores.read_manifest(store, DIGEST)


def test_folds_of_other_classes_get_no_manifest() -> None:
    """Scores that are not of this dataset are not summed up."""
    store = MemoryStore()
    scores.write_fold(store, DIGEST, fold_scores(0))
    with pytest.raises(DataLoss, match="other classes"):
        scores.write_manifest(store, DIGEST, classes=("cat", "cow"), folds=1)


def test_scores_are_named_by_all_they_depend_on() -> None:
    """Another dataset, table, classifier, plan or measure makes other scores; the same ones the same."""
    names = {
        scores.scores_digest("d", "t", "LR", PLAN, "accuracy"),
        scores.scores_digest("e", "t", "LR", PLAN, "accuracy"),
        scores.scores_digest("d", "u", "LR", PLAN, "accuracy"),
        scores.scores_digest("d", "t", "RF", PLAN, "accuracy"),
        scores.scores_digest("d", "t", "LR", ValidationPlan(3, 0), "accuracy"),
        scores.scores_digest("d", "t", "LR", ValidationPlan(2, 1), "accuracy"),
        scores.scores_digest("d", "t", "LR", PLAN, "f1"),
    }
    assert len(names) == 7
    assert scores.scores_digest("d", "t", "LR", ValidationPlan(2, 0), "accuracy") in names
    with pytest.raises(UnknownName):
        scores.scores_digest("d", "t", "XGB", PLAN, "accuracy")


@pytest.mark.parametrize(("folds", "seed"), [(1, 0), (0, 0), (2, -1), (2, 2**64)])
def test_an_impossible_plan_is_refused(folds: int, seed: int) -> None:
    """One fold, or a seed that no request can carry, is an error of one line."""
    with pytest.raises(InvalidInput):
        ValidationPlan(folds, seed)


def test_a_text_that_is_no_digest_becomes_no_key() -> None:
    """Nothing outside the scores can be read by asking for scores."""
    with pytest.raises(NotFound):
        scores.read_fold(MemoryStore(), "../models", 0)
