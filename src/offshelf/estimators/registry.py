"""The classifiers there are, in words and settings; needs no numeric library."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final, TypeAlias

from offshelf.errors import UnknownName

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.digests import JSONValue

Setting: TypeAlias = "Mapping[str, float | int | str]"
"""Hyperparameters by name; what they mean is known to `offshelf.estimators.building`."""


@dataclass(frozen=True)
class ClassifierSpec:
    """A classifier and the settings among which the search chooses."""

    name: str
    """The name that users write, as FrImCla has it."""
    description: str
    """What it does, in words for people who do not know machine learning."""
    version: int
    """Raised by hand whenever the way it is built or fitted changes, which makes all its scores new."""
    space: tuple[Setting, ...]
    """The settings to try, the simplest first: of equally good ones the first is taken."""
    scaled: bool
    """Whether each feature is brought to mean 0 and standard deviation 1 first, measured on the training part."""

    def identity(self) -> JSONValue:
        """What of this classifier its scores and models depend on."""
        return {
            "name": self.name,
            "version": self.version,
            "space": [dict(setting) for setting in self.space],
            "scaled": self.scaled,
        }


_SPECS: Final = (
    ClassifierSpec(
        name="RF",
        description="Random forest: 100 decision trees, each grown on a random part of the images, vote. "
        "Robust, and needs little tuning.",
        version=1,
        space=({"min_samples_leaf": 3}, {"min_samples_leaf": 1}),
        scaled=False,
    ),
    ClassifierSpec(
        name="SVM",
        description="Support vector machine: finds the boundary that keeps the classes as far apart as possible. "
        "Often among the best with features of neural networks.",
        version=1,
        # From a straight boundary that gives way easily to a curved one.
        space=(
            {"kernel": "linear", "C": 0.001},
            {"kernel": "linear", "C": 0.01},
            {"kernel": "rbf", "C": 1.0},
            {"kernel": "rbf", "C": 10.0},
        ),
        scaled=True,
    ),
    ClassifierSpec(
        name="KNN",
        description="Nearest neighbours: an image gets the class that most of the images similar to it have. "
        "The easiest to explain.",
        version=1,
        # The more neighbours, the smoother the boundary.
        space=(
            {"n_neighbors": 11, "metric": "cosine"},
            {"n_neighbors": 5, "metric": "cosine"},
            {"n_neighbors": 11, "metric": "euclidean"},
            {"n_neighbors": 5, "metric": "euclidean"},
        ),
        scaled=True,
    ),
    ClassifierSpec(
        name="LR",
        description="Logistic regression: adds up the features, each with a weight of its own. "
        "Fast, and hard to beat with features of neural networks.",
        version=1,
        space=({"C": 0.001}, {"C": 0.03}, {"C": 1.0}, {"C": 30.0}),
        scaled=True,
    ),
    ClassifierSpec(
        name="MLP",
        description="Neural network with one hidden layer of 64 units, trained on the features. "
        "Finds curved boundaries; slower to train.",
        version=1,
        space=({"alpha": 1.0}, {"alpha": 0.01}),
        scaled=True,
    ),
    ClassifierSpec(
        name="GB",
        description="Gradient boosting: many small decision trees, each correcting the errors of those before it. "
        "Strong on colour and texture; the slowest with many classes.",
        version=1,
        # One setting: a search would cost six times as much and, at this learning rate, changed no result by a point.
        space=({"max_depth": 3},),
        scaled=False,
    ),
)

CLASSIFIERS: Final[Mapping[str, ClassifierSpec]] = MappingProxyType({spec.name: spec for spec in _SPECS})
"""All classifiers by name, in the order in which tables show them."""


def find(name: str) -> ClassifierSpec:
    """Return a classifier's specification.

    Raises
    ------
    UnknownName
        With all names and the nearest match.
    """
    if name not in CLASSIFIERS:
        raise UnknownName.among("classifier", name, CLASSIFIERS)
    return CLASSIFIERS[name]
