from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from offshelf import models
from offshelf.digests import digest_of_bytes
from offshelf.errors import Conflict, DataLoss, NotFound
from offshelf.estimators import building, persistence
from offshelf.models import ModelCard
from offshelf.store import keys
from tests.unit.fakes import MemoryStore

X = np.random.default_rng(0).normal(size=(20, 3))
Y = np.arange(20) % 2
ESTIMATOR = persistence.save(building.fit(building.build("KNN", building.search_space("KNN")[0], 0), X, Y))


def card() -> ModelCard:
    """Make the card of `ESTIMATOR`."""
    return ModelCard(
        digest=models.model_digest("d", "t", "f", "KNN", "accuracy", 0),
        extractor="hog",
        fingerprint="f",
        classifier="KNN",
        settings={"n_neighbors": 11, "metric": "cosine"},
        classes=("cat", "dög"),
        dataset="d",
        table="t",
        images=20,
        measure="accuracy",
        seed=0,
        versions=models.installed_versions(),
        estimator_sha256=digest_of_bytes(ESTIMATOR),
        made_by="a test",
    )


def stored() -> MemoryStore:
    """Make a store with the model in it."""
    store = MemoryStore()
    models.write_model(store, card(), ESTIMATOR)
    return store


def test_a_model_comes_back_as_it_was_written() -> None:
    """Card and estimator can be had by the model's digest alone."""
    store = stored()
    found = models.read_card(store, card().digest)
    assert found == card()
    probabilities = building.class_probabilities(models.read_estimator(store, found), X, 2)
    assert (probabilities.argmax(axis=1) == Y).mean() >= 0.5


def test_an_estimator_says_what_it_was_fitted_on() -> None:
    """Also without its card, a model can be told to be of a dataset that is to be deleted."""
    store = MemoryStore()
    estimator = persistence.load(ESTIMATOR)
    store.put(keys.model("a" * 64), persistence.save(estimator, comment=models.origin_note("d" * 64, "t" * 64)))
    assert models.read_origin(store, "a" * 64) == ("d" * 64, "t" * 64)
    loaded = persistence.load(store.get(keys.model("a" * 64)))
    assert np.array_equal(loaded.predict_proba(X), estimator.predict_proba(X))
    for data in (ESTIMATOR, b"", store.get(keys.model("a" * 64))[:-9]):
        store.put(keys.model("b" * 64), data)
        with pytest.raises(DataLoss):
            models.read_origin(store, "b" * 64)


def test_the_card_is_written_last() -> None:
    """Whoever finds a card finds the estimator."""
    assert list(stored().objects) == [keys.model(card().digest), keys.model_card(card().digest)]


def test_a_card_of_another_estimator_is_not_written() -> None:
    """A defect that mixes models up leaves nothing behind."""
    store = MemoryStore()
    with pytest.raises(ValueError, match="not of this estimator"):
        models.write_model(store, card(), b"another")
    assert not store.objects


def test_an_altered_estimator_is_not_opened() -> None:
    """Bytes that the card does not name are refused before anything looks into them."""
    store = stored()
    store.objects[keys.model(card().digest)] += b"x"
    with pytest.raises(DataLoss, match="fit the model again"):
        models.read_estimator(store, card())
    store.delete(keys.model(card().digest))
    with pytest.raises(DataLoss, match="missing"):
        models.read_estimator(store, card())


def test_another_scikit_learn_is_refused_with_the_fix() -> None:
    """A model of another minor version of scikit-learn says what to install; another patch release is fine."""
    here = models.installed_versions()
    older = replace(card(), versions={**here, "scikit-learn": "0.24.2"})
    with pytest.raises(Conflict, match=r"pip install 'scikit-learn==0\.24\.\*'"):
        models.open_estimator(older, ESTIMATOR)
    minor = ".".join(here["scikit-learn"].split(".")[:2])
    patched = replace(card(), versions={**here, "scikit-learn": f"{minor}.99"})
    assert models.open_estimator(patched, ESTIMATOR) is not None


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"format": 1}', b'{"format": 2, "classes": []}'])
def test_a_damaged_card_is_an_error_of_one_line(data: bytes) -> None:
    """A card that is none is named as such, with the fix."""
    with pytest.raises(DataLoss, match="fit the model again"):
        ModelCard.from_json(data)


def test_a_card_under_another_name_is_noticed() -> None:
    """A copy of another model's card is not taken for the one asked for."""
    store = stored()
    store.objects[keys.model_card("0" * 64)] = store.objects[keys.model_card(card().digest)]
    with pytest.raises(DataLoss, match="another model's"):
        models.read_card(store, "0" * 64)
    with pytest.raises(NotFound):
        models.read_card(store, "../runs")


def test_models_are_named_by_all_they_depend_on() -> None:
    """Another input of the procedure makes another model."""
    base = ("d", "t", "f", "KNN", "accuracy", 0)
    others = [("e",), ("d", "u"), ("d", "t", "g"), ("d", "t", "f", "LR"), ("d", "t", "f", "KNN", "f1")]
    names = {models.model_digest(*other, *base[len(other) :]) for other in others}  # type: ignore[arg-type]
    names |= {models.model_digest(*base), models.model_digest("d", "t", "f", "KNN", "accuracy", 1)}
    assert len(names) == 7
