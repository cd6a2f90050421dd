"""What lists show of a dataset: a small object beside its manifest, so that a list reads no manifests.

The manifest is what a dataset is and has the same bytes whoever makes it. Its card says who was first to make it, when,
and of what. It is written after the manifest, so that what has a card is there.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from offshelf.digests import canonical_json, is_digest
from offshelf.errors import DataLoss, NotFound
from offshelf.store import keys

if TYPE_CHECKING:
    import builtins

    from offshelf.store.objects import ObjectStore

_FORMAT: Final = 1


@dataclass(frozen=True, slots=True)
class DatasetCard:
    """A dataset as lists show it."""

    digest: str
    """Of the dataset."""
    name: str
    """What people call it."""
    source: str
    """Where its images are read from, as `source_uri` gives it."""
    images: int
    bytes: int
    """Of all images together; 0 if unknown."""
    classes: tuple[str, ...]
    """Sorted."""
    created_at: datetime
    """When it was first made; aware, in UTC."""
    user: str
    """Who made it first."""

    def to_json(self) -> builtins.bytes:
        """Canonical JSON."""
        created_at = self.created_at.astimezone(UTC).isoformat()
        return canonical_json({**asdict(self), "created_at": created_at, "format": _FORMAT})

    @classmethod
    def from_json(cls, data: builtins.bytes) -> DatasetCard:
        """Read a card.

        Raises
        ------
        DataLoss
            If it is not one that `to_json` wrote.
        """
        try:
            document = json.loads(data)
            if document.pop("format") != _FORMAT:
                raise DataLoss("A dataset's card is of another version of Offshelf: make the dataset again.")
            created_at = datetime.fromisoformat(document.pop("created_at")).astimezone(UTC)
            card = cls(**{**document, "classes": tuple(document["classes"])}, created_at=created_at)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise DataLoss("A dataset's card cannot be parsed: make the dataset again.") from error
        counts = (card.images, card.bytes)
        texts = (card.digest, card.name, card.source, card.user, *card.classes)
        if not all(type(count) is int for count in counts) or not all(isinstance(text, str) for text in texts):
            raise DataLoss("A dataset's card holds something else than it should: make the dataset again.")
        return card


def write_card(store: ObjectStore, card: DatasetCard) -> None:
    """Write a dataset's card, after its manifest, unless a usable one is there: the first writer wins.

    Raises
    ------
    StoreFull
        If the store takes no more.
    """
    try:
        read_card(store, card.digest)
    except (NotFound, DataLoss):
        store.put(keys.dataset_card(card.digest), card.to_json())


def read_card(store: ObjectStore, digest: str) -> DatasetCard:
    """Read a dataset's card.

    Raises
    ------
    NotFound
        If there is no such dataset, or it has no card.
    DataLoss
        If the card is not what was written.
    """
    if not is_digest(digest):
        raise NotFound(f"{digest!r} is not the digest of a dataset.")
    card = DatasetCard.from_json(store.get(keys.dataset_card(digest)))
    if card.digest != digest:
        raise DataLoss(f"The card of dataset {digest[:12]} is another dataset's: make the dataset again.")
    return card
