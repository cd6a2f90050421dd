"""The manifest over the folds of one classifier on one feature table."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from offshelf.digests import canonical_json, digest_of, digest_of_bytes
from offshelf.errors import DataLoss, InvalidInput, NotFound
from offshelf.scores.folds import decode_fold
from offshelf.scores.identity import checked
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offshelf.digests import JSONValue
    from offshelf.store.objects import ObjectStore

_FORMAT: Final = 2


@dataclass(frozen=True)
class FoldEntry:
    """One fold in a manifest."""

    fold: int
    key: str
    sha256: str
    """Of the fold's object."""
    measures: Mapping[str, float]


@dataclass(frozen=True)
class ScoresManifest:
    """All folds of one classifier on one feature table; its presence says that they are complete."""

    digest: str
    """What the scores are named by."""
    dataset: str
    """Digest of the dataset."""
    table: str
    """Digest of the feature table."""
    classifier: str
    classes: tuple[str, ...]
    folds: tuple[FoldEntry, ...]
    """In order, from fold 0."""

    def to_json(self) -> bytes:
        """Canonical JSON, with the digest of its own content, so that altered measures are noticed."""
        return canonical_json({**self._content(), "content": digest_of(self._content())})

    def _content(self) -> dict[str, JSONValue]:
        return {
            "format": _FORMAT,
            "scores": self.digest,
            "dataset": self.dataset,
            "table": self.table,
            "classifier": self.classifier,
            "classes": self.classes,
            "folds": [
                {"fold": entry.fold, "key": entry.key, "sha256": entry.sha256, "measures": dict(entry.measures)}
                for entry in self.folds
            ],
        }

    @classmethod
    def from_json(cls, data: bytes) -> ScoresManifest:
        """Read a manifest.

        Raises
        ------
        DataLoss
            If it is not one that `to_json` wrote.
        """
        try:
            document = json.loads(data)
            if document["format"] != _FORMAT:
                raise DataLoss("A manifest of scores is of another version of Offshelf: run again with this one.")
            manifest = cls(
                digest=document["scores"],
                dataset=document["dataset"],
                table=document["table"],
                classifier=document["classifier"],
                classes=tuple(document["classes"]),
                folds=tuple(
                    FoldEntry(entry["fold"], entry["key"], entry["sha256"], entry["measures"])
                    for entry in document["folds"]
                ),
            )
            content = document["content"]
        except (ValueError, TypeError, KeyError) as error:
            raise DataLoss("A manifest of scores cannot be parsed: run again, and it is made again.") from error
        if content != digest_of(manifest._content()):
            raise DataLoss("A manifest of scores is not what was written: run again, and it is made again.")
        return manifest


def write_manifest(store: ObjectStore, digest: str, *, classes: Sequence[str], folds: int) -> ScoresManifest:
    """Write the manifest once all folds are there; every fold is read and checked.

    Parameters
    ----------
    store
        The feature store.
    digest
        What the scores are named by.
    classes
        All classes of the dataset, sorted.
    folds
        How many folds there must be.

    Raises
    ------
    NotFound
        If a fold is not in the store.
    DataLoss
        If a fold is truncated or altered, or has other classes or another origin than the first.
    """
    entries = []
    origins = set()
    for fold in range(folds):
        key = keys.fold_scores(checked(digest), fold)
        data = store.get(key)
        scores = decode_fold(data, digest, fold)
        if scores.classes != tuple(classes):
            raise DataLoss(f"Fold {fold} of scores {digest[:12]} has other classes than the dataset: run again.")
        origins.add((scores.dataset, scores.table, scores.classifier))
        entries.append(FoldEntry(fold, key, digest_of_bytes(data), scores.measures))
    if len(origins) != 1:
        raise DataLoss(f"The folds of scores {digest[:12]} are not of one table: run again, and they are made again.")
    [(dataset, table, classifier)] = origins
    manifest = ScoresManifest(digest, dataset, table, classifier, tuple(classes), tuple(entries))
    store.put(keys.scores(digest), manifest.to_json())
    return manifest


def read_manifest(store: ObjectStore, digest: str) -> ScoresManifest:
    """Read a manifest. The folds it names are checked when they are read with its `sha256`.

    Raises
    ------
    NotFound
        If the scores are not complete.
    DataLoss
        If the manifest is not what was written.
    """
    manifest = ScoresManifest.from_json(store.get(keys.scores(checked(digest))))
    if manifest.digest != digest:
        raise DataLoss(f"The manifest of scores {digest} names other scores: run again, and it is made again.")
    return manifest


def read_manifest_if_complete(store: ObjectStore, digest: str) -> ScoresManifest | None:
    """Read a manifest if it and every fold it names are in the store as they were written; None otherwise.

    What is truncated or altered counts as missing, as in `finished_folds`.
    """
    try:
        manifest = read_manifest(store, digest)
        whole = all(digest_of_bytes(store.get(entry.key)) == entry.sha256 for entry in manifest.folds)
    except (NotFound, DataLoss, InvalidInput):
        return None
    return manifest if whole else None
