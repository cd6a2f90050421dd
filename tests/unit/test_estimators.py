from __future__ import annotations

import io
import json
import zipfile
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import skops.io

from offshelf.errors import DataLoss, UnknownName
from offshelf.estimators import building, persistence, registry
from offshelf.estimators.margins import CalibratedSVC

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

NAMES = list(registry.CLASSIFIERS)
CASES = [(spec.name, index) for spec in registry.CLASSIFIERS.values() for index in range(len(spec.space))]


def problem(n: int = 60, k: int = 3, d: int = 6) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Make k classes that can nearly be told apart, on features of very different size."""
    rng = np.random.default_rng(0)
    y = np.arange(n) % k
    X = rng.normal(size=(n, d)) + 2.0 * np.eye(k, d)[y]
    return (X * 10.0 ** np.arange(d)).astype(np.float32), y.astype(np.intp)


def fitted(name: str, k: int = 3) -> Any:
    """Fit a classifier with its first setting."""
    X, y = problem(k=k)
    return building.fit(building.build(name, building.search_space(name)[0], seed=1), X, y)


def rewritten(data: bytes, change: Callable[[str, bytes], bytes]) -> bytes:
    """Change the parts of a model file."""
    sink = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(sink, "w") as target:
        for name in source.namelist():
            target.writestr(name, change(name, source.read(name)))
    return sink.getvalue()


def test_the_six_classifiers_of_frimcla_are_there() -> None:
    """Users of FrImCla find what they know, each described in words, with at most four settings to try."""
    assert NAMES == ["RF", "SVM", "KNN", "LR", "MLP", "GB"]
    for spec in registry.CLASSIFIERS.values():
        assert spec.description.endswith(".")
        assert 1 <= len(spec.space) <= 4
    with pytest.raises(UnknownName, match="Did you mean 'SVM'"):
        registry.find("svn")


@pytest.mark.parametrize(("name", "setting"), CASES)
@pytest.mark.parametrize("k", [2, 3])
def test_every_setting_learns(name: str, setting: int, k: int) -> None:
    """Each setting of each classifier gives probabilities that add up to 1 and mostly name the right class."""
    X, y = problem(k=k)
    estimator = building.fit(building.build(name, building.search_space(name)[setting], seed=1), X, y)
    probabilities = building.class_probabilities(estimator, X, k)
    assert probabilities.sum(axis=1) == pytest.approx(1.0)
    assert (probabilities.argmax(axis=1) == y).mean() > 0.7


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_bytes(name: str) -> None:
    """Fitting again gives the same model file to the last byte."""
    assert persistence.save(fitted(name)) == persistence.save(fitted(name))


@pytest.mark.parametrize("name", NAMES)
def test_a_class_without_images_keeps_its_column(name: str) -> None:
    """A class that was missing in training has probability 0, and the others keep their places."""
    X, y = problem(k=2)
    estimator = building.fit(building.build(name, building.search_space(name)[0], seed=1), X, y * 2)
    probabilities = building.class_probabilities(estimator, X, 4)
    assert probabilities.shape == (60, 4)
    assert not probabilities[:, [1, 3]].any()


@pytest.mark.parametrize("name", NAMES)
def test_four_images_are_enough_to_fit(name: str) -> None:
    """The smallest dataset that can be divided does not make any classifier fail."""
    X, y = problem(n=4, k=2)
    for setting in building.search_space(name):
        estimator = building.fit(building.build(name, setting, seed=1), X, y)
        assert np.isfinite(building.class_probabilities(estimator, X, 2)).all()


def test_calibration_changes_confidence_and_no_decision() -> None:
    """Calibrating the support vector machine leaves every decision as it was and keeps confidence honest."""
    rng = np.random.default_rng(3)
    y = np.arange(200) % 2
    X = rng.normal(size=(200, 5)) + 0.4 * y[:, None]
    thirds = np.arange(200) % 3
    folds = [(np.flatnonzero(thirds != part), np.flatnonzero(thirds == part)) for part in range(3)]
    plain, calibrated = CalibratedSVC("linear", 1.0).fit(X, y), CalibratedSVC("linear", 1.0).fit(X, y, folds)
    assert plain.temperature_ == 1.0
    assert calibrated.temperature_ != 1.0
    assert np.array_equal(plain.predict(X), calibrated.predict(X))
    new_y = np.arange(2000) % 2
    new_X = rng.normal(size=(2000, 5)) + 0.4 * new_y[:, None]
    confidence = calibrated.predict_proba(new_X).max(axis=1).mean()
    assert confidence == pytest.approx((calibrated.predict(new_X) == new_y).mean(), abs=0.08)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("k", [2, 3])
def test_a_saved_model_answers_the_same(name: str, k: int) -> None:
    """A model that was saved and loaded gives the same probabilities to the last bit."""
    X, _ = problem(k=k)
    estimator = fitted(name, k)
    loaded = persistence.load(persistence.save(estimator))
    assert np.array_equal(building.class_probabilities(loaded, X, k), building.class_probabilities(estimator, X, k))


def test_a_model_with_a_stranger_inside_is_refused() -> None:
    """A model file that would run a command when opened is refused by the name of what it holds."""

    def infect(name: str, data: bytes) -> bytes:
        if name != "schema.json":
            return data
        schema = json.loads(data)
        command = {"__class__": "str", "__module__": "builtins", "__loader__": "JsonNode"}
        schema["content"]["content"]["memory"] = {
            "__class__": "system",
            "__module__": "os",
            "__loader__": "FunctionNode",
            "content": {**command, "content": '"true"', "is_json": True},
        }
        return json.dumps(schema).encode()

    with pytest.raises(DataLoss, match=r"os\.system.*not opened"):
        persistence.load(rewritten(persistence.save(fitted("LR")), infect))


def test_a_model_of_another_class_is_refused() -> None:
    """A file that skops can read, with a type that no model of ours has, is refused as well."""
    data = skops.io.dumps(np.random.default_rng(0).normal)
    with pytest.raises(DataLoss, match="which no model of Offshelf has"):
        persistence.load(data)


@pytest.mark.parametrize("name", ["RF", "GB"])
def test_trees_that_lead_nowhere_are_refused(name: str) -> None:
    """An altered tree cannot make the process that serves it read foreign memory."""
    estimator = fitted(name)
    members = np.ravel(estimator.named_steps["classifier"].estimators_)
    state = members[0].tree_.__getstate__()
    state["nodes"]["left_child"][0] = 10**6
    members[0].tree_.__setstate__(state)
    with pytest.raises(DataLoss, match="lead nowhere"):
        persistence.load(persistence.save(estimator))


@pytest.mark.parametrize("length", [0, 100, -100])
def test_a_truncated_model_is_an_error_of_one_line(length: int) -> None:
    """A truncated file is named as such, with the fix."""
    with pytest.raises(DataLoss, match=r"damaged.*Fit it again"):
        persistence.load(persistence.save(fitted("LR"))[:length])


def test_nothing_is_saved_that_could_not_be_loaded() -> None:
    """A classifier of a foreign class is found out when it is saved, not by the user who loads it."""

    class Foreign:
        pass

    Foreign.__module__, Foreign.__qualname__ = "somewhere", "Foreign"
    with pytest.raises(ValueError, match="no reader would trust"):
        persistence.save({"classifier": Foreign()})
