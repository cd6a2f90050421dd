"""What scores depend on, and what they are named by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from offshelf.digests import digest_of, is_digest
from offshelf.errors import InvalidInput, NotFound
from offshelf.estimators import registry

TRAINER_VERSION: Final = 1
"""Version of the procedure around the classifiers: folds, inner folds, search, seeds, measures. Raised by hand."""


@dataclass(frozen=True, slots=True)
class ValidationPlan:
    """How images are divided into folds.

    Raises
    ------
    InvalidInput
        If there are fewer than two folds, or the seed is not an unsigned 64-bit number.
    """

    folds: int
    seed: int

    def __post_init__(self) -> None:
        if self.folds < 2:  # noqa: PLR2004  (one fold would leave nothing to learn from)
            raise InvalidInput(f"Cross-validation needs at least 2 folds, not {self.folds}.")
        if not 0 <= self.seed < 2**64:
            raise InvalidInput(f"A seed is a number from 0 to 2^64 - 1, not {self.seed}.")


def scores_digest(dataset: str, table: str, classifier: str, plan: ValidationPlan, measure: str) -> str:
    """Name the scores of a classifier by all they depend on.

    Parameters
    ----------
    dataset, table
        Digests of the dataset (with its labels) and of the feature table.
    classifier
        Name of the classifier; its settings to search and its version are part of the digest.
    plan
        Folds and seed.
    measure
        What the search inside the training part maximises.

    Raises
    ------
    UnknownName
        For a classifier that does not exist.
    """
    return digest_of(
        {
            "artefact": "scores",
            "dataset": dataset,
            "table": table,
            "classifier": registry.find(classifier).identity(),
            "folds": plan.folds,
            "seed": plan.seed,
            "measure": measure,
            "trainer": TRAINER_VERSION,
        }
    )


def checked(digest: str) -> str:
    """Return what names scores, if it has the form of a digest; raises `NotFound` otherwise."""
    if not is_digest(digest):
        raise NotFound(f"{digest!r} is not the digest of scores.")
    return digest
