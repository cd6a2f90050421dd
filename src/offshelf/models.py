"""Models: a fitted classifier and its card, named by the digest of the procedure that made it.

The estimator is written first and the card last, so that a card in the store says that the model is whole. The
estimator's file says by itself what it was fitted on, for when there is no card yet, or no more.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from offshelf.digests import canonical_json, digest_of, digest_of_bytes, is_digest
from offshelf.errors import Conflict, DataLoss, NotFound
from offshelf.estimators import registry
from offshelf.scores import TRAINER_VERSION
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.store.objects import ObjectStore

_FORMAT: Final = 1
_LIBRARIES: Final = ("offshelf", "scikit-learn", "numpy", "skops")


def model_digest(dataset: str, table: str, fingerprint: str, classifier: str, measure: str, seed: int) -> str:
    """Name a model by all that the procedure which fits it depends on.

    Parameters
    ----------
    dataset, table
        Digests of the dataset (with its labels) and of the feature table.
    fingerprint
        Fingerprint of the extractor that made the table.
    classifier
        Name of the classifier; its settings to search and its version are part of the digest.
    measure
        What the search maximises.
    seed
        Seed of the run.

    Raises
    ------
    UnknownName
        For a classifier that does not exist.
    """
    return digest_of(
        {
            "artefact": "model",
            "dataset": dataset,
            "table": table,
            "fingerprint": fingerprint,
            "classifier": registry.find(classifier).identity(),
            "measure": measure,
            "seed": seed,
            "trainer": TRAINER_VERSION,
        }
    )


@dataclass(frozen=True)
class ModelCard:
    """What a model is, what it was made of, and with what."""

    digest: str
    """What the model is named by."""
    extractor: str
    fingerprint: str
    """Of the extractor: what a reader's own extractor must have to give the same features."""
    classifier: str
    settings: registry.Setting
    """The setting that the search chose."""
    classes: tuple[str, ...]
    """Sorted; the estimator knows them as indexes into this."""
    dataset: str
    table: str
    images: int
    """How many images it was fitted on."""
    measure: str
    """What the search maximised."""
    seed: int
    versions: Mapping[str, str]
    """Of offshelf, scikit-learn, numpy and skops, when it was fitted."""
    estimator_sha256: str
    """Of the estimator's file."""
    made_by: str
    """All this in one sentence for a person."""

    def to_json(self) -> bytes:
        """Canonical JSON."""
        return canonical_json(
            {**asdict(self), "settings": dict(self.settings), "versions": dict(self.versions), "format": _FORMAT}
        )

    @classmethod
    def from_json(cls, data: bytes) -> ModelCard:
        """Read a card.

        Raises
        ------
        DataLoss
            If it is not one that `to_json` wrote.
        """
        try:
            document = json.loads(data)
            known = document.pop("format") == _FORMAT
            card = cls(**{**document, "classes": tuple(document["classes"])}) if known else None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataLoss("A model's card (model.json) cannot be parsed: fit the model again.") from error
        if card is None:
            raise DataLoss("A model's card (model.json) is of another version of Offshelf: fit the model again.")
        return card


def origin_note(dataset: str, table: str) -> bytes:
    """Say what an estimator was fitted on, for `persistence.save`."""
    return canonical_json({"dataset": dataset, "table": table})


def read_origin(store: ObjectStore, digest: str) -> tuple[str, str]:
    """Read from an estimator's file, without loading it, the digests of the dataset and table it was fitted on.

    Raises
    ------
    NotFound
        If there is no such file.
    DataLoss
        If the file does not say it, or is damaged.
    """
    from offshelf.estimators import persistence

    note = persistence.read_comment(store.get(keys.model(digest)))
    try:
        document = json.loads(note)
        dataset, table = document["dataset"], document["table"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataLoss(f"The estimator of model {digest[:12]} does not say what it was fitted on.") from error
    return str(dataset), str(table)


def installed_versions() -> dict[str, str]:
    """Versions of the libraries that a model depends on, as a card lists them."""
    return {name: metadata.version(name) for name in _LIBRARIES}


def write_model(store: ObjectStore, card: ModelCard, data: bytes) -> None:
    """Write the estimator, then the card.

    Raises
    ------
    ValueError
        If the card names other bytes than these.
    StoreFull
        If the store takes no more.
    """
    if digest_of_bytes(data) != card.estimator_sha256:
        raise ValueError("the card is not of this estimator")
    store.put(keys.model(card.digest), data)
    store.put(keys.model_card(card.digest), card.to_json())


def read_card(store: ObjectStore, digest: str) -> ModelCard:
    """Read a model's card.

    Raises
    ------
    NotFound
        If there is no such model.
    DataLoss
        If the card is not what was written.
    """
    if not is_digest(digest):
        raise NotFound(f"{digest!r} is not the digest of a model.")
    card = ModelCard.from_json(store.get(keys.model_card(digest)))
    if card.digest != digest:
        raise DataLoss(f"The card of model {digest[:12]} is another model's: fit the model again.")
    return card


def read_estimator(store: ObjectStore, card: ModelCard) -> Any:
    """Read a model's estimator; errors as for `open_estimator`.

    Raises
    ------
    DataLoss
        If the store has no such file.
    """
    try:
        data = store.get(keys.model(card.digest))
    except NotFound as error:
        raise DataLoss(f"The estimator of model {card.digest[:12]} is missing: fit the model again.") from error
    return open_estimator(card, data)


def open_estimator(card: ModelCard, data: bytes) -> Any:
    """Make an estimator out of a model's file, wherever it was read from.

    Parameters
    ----------
    card
        The model's card.
    data
        Bytes of `model.skops`.

    Returns
    -------
    sklearn.pipeline.Pipeline
        For `offshelf.estimators.building.class_probabilities`; its classes are indexes into the card's.

    Raises
    ------
    Conflict
        If the model was fitted with another minor version of scikit-learn: such models may load and answer wrongly.
    DataLoss
        If the file is not the one that the card names, or holds what no model of ours does.
    """
    from offshelf.estimators import persistence

    if digest_of_bytes(data) != card.estimator_sha256:
        raise DataLoss(f"The estimator of model {card.digest[:12]} is not what was written: fit the model again.")
    fitted, here = card.versions.get("scikit-learn", "unknown"), metadata.version("scikit-learn")
    if _minor(fitted) != _minor(here):
        raise Conflict(
            f"Model {card.digest[:12]} was fitted with scikit-learn {fitted}, and here is {here}. Install the same "
            f"one (pip install 'scikit-learn=={_minor(fitted)}.*'), or fit the model again here."
        )
    return persistence.load(data)


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])
