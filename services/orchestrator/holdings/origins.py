"""Whose an artefact is: the dataset it was made of, read from the artefact itself."""

from __future__ import annotations

import json
import logging
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from offshelf import models, scores
from offshelf.digests import is_digest
from offshelf.errors import DataLoss, NotFound
from offshelf.store import keys
from offshelf.store.reading import read_each as in_parallel

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from typing import TypeAlias

    from offshelf.store import ObjectInfo, ObjectStore

    Reader: TypeAlias = Callable[[ObjectStore, str, str], "Origin | None"]

_log = logging.getLogger(__name__)

_FOLD: Final = re.compile(r"fold-(\d{4})\.parquet")
_REPORT_ORIGIN: Final = "report.json"


@dataclass(frozen=True, slots=True)
class Origin:
    """What an artefact was made from."""

    dataset: str = ""
    """Digest; empty if unknown."""
    made_from: frozenset[str] = frozenset()
    """Digests: of the table for scores and a model, of the scores for a comparison, of the comparison for a report."""
    fingerprint: str = ""
    """Of a model's extractor; empty if unknown, and for anything else."""


@dataclass(frozen=True, slots=True)
class Artefact:
    """Scores, a model, a comparison or a report: its objects, and what it was made from."""

    digest: str
    objects: tuple[ObjectInfo, ...]
    """Sorted by key."""
    origin: Origin

    @property
    def dataset(self) -> str:
        """Digest of the dataset; empty if unknown."""
        return self.origin.dataset

    @property
    def has_manifest(self) -> bool:
        """Whether the JSON object is there: what is written last of scores and of a model."""
        return any(info.key.endswith(".json") for info in self.objects)


def read_artefacts(
    store: ObjectStore, objects: Mapping[str, ObjectInfo], prefix: str, origin: Reader
) -> dict[str, Artefact]:
    """Find the artefacts below a prefix, and read what each was made from.

    Parameters
    ----------
    objects
        All of the store, by key.
    origin
        Reads it from one object, given the store, the artefact's digest and the object's key; None if that object never
        says it. What is damaged is logged, and another object of the artefact is asked.
    """
    parts: dict[str, list[ObjectInfo]] = defaultdict(list)
    for key, info in objects.items():
        digest = key.removeprefix(prefix).partition("/")[0].removesuffix(".json")
        if key.startswith(prefix) and is_digest(digest):
            parts[digest].append(info)

    def read(digest: str) -> Artefact:
        infos = sorted(parts[digest], key=lambda info: info.key)
        # The manifest first: what it says need not be looked for in the rest.
        for info in sorted(infos, key=lambda info: not info.key.endswith(".json")):
            try:
                found = origin(store, digest, info.key)
            except (NotFound, DataLoss) as error:
                log_damage(info.key, error)
                continue
            if found is not None:
                return Artefact(digest, tuple(infos), found)
        return Artefact(digest, tuple(infos), Origin())

    return {artefact.digest: artefact for artefact in in_parallel(read, parts)}


def of_scores(store: ObjectStore, digest: str, key: str) -> Origin | None:
    """Read what scores were made from: from their manifest, or from one of the folds."""
    if key == keys.scores(digest):
        manifest = scores.read_manifest(store, digest)
        return Origin(manifest.dataset, frozenset({manifest.table}))
    if number := _FOLD.fullmatch(key.rpartition("/")[2]):
        fold = scores.read_fold(store, digest, int(number[1]))
        return Origin(fold.dataset, frozenset({fold.table}))
    return None


def of_model(store: ObjectStore, digest: str, key: str) -> Origin | None:
    """Read what a model was made from: from its card, or from the estimator."""
    if key == keys.model_card(digest):
        card = models.read_card(store, digest)
        return Origin(card.dataset, frozenset({card.table}), card.fingerprint)
    if key == keys.model(digest):
        dataset, table = models.read_origin(store, digest)
        return Origin(dataset, frozenset({table}))
    return None


def of_comparison(store: ObjectStore, digest: str, key: str) -> Origin | None:
    """Read what a comparison was made from."""
    document = _read_json(store, key)
    try:
        return Origin(str(document["dataset"]), frozenset(str(each["scores"]) for each in document["ranking"]))
    except (KeyError, TypeError) as error:
        raise DataLoss(f"The comparison {digest[:12]} cannot be read: run again.") from error


def of_report(store: ObjectStore, digest: str, key: str) -> Origin | None:
    """Read what a report was made from."""
    if key != keys.report(digest, _REPORT_ORIGIN):
        return None
    document = _read_json(store, key)
    try:
        return Origin(str(document["dataset"]), frozenset({str(document["comparison"])}))
    except (KeyError, TypeError) as error:
        raise DataLoss(f"The report {digest[:12]} does not say what it was made from: run again.") from error


def log_damage(key: str, error: Exception) -> None:
    """Name an object that cannot be read."""
    _log.warning("an object of the store is damaged", extra={"key": key, "reason": str(error)})


def _read_json(store: ObjectStore, key: str) -> dict[str, Any]:
    try:
        document = json.loads(store.get(key))
    except ValueError as error:
        raise DataLoss(f"{key} in the store cannot be parsed: run again.") from error
    if not isinstance(document, dict):
        raise DataLoss(f"{key} in the store is something else than it should be: run again.")
    return document
