"""What a dataset is: labelled images, each named by the SHA-256 of its bytes.

The manifest is canonical JSON, ``{"items": [[path, label, group, digest], …], "version": 1}`` sorted by path, and the
digest of the dataset is the SHA-256 of exactly those bytes. Two images may have the same content.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Protocol

from offshelf.digests import canonical_json, digest_of_bytes, is_digest
from offshelf.errors import DataLoss, NotFound

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from offshelf.store.objects import ObjectStore

MAX_IMAGE_BYTES = 256 * 1024 * 1024
"""Largest file that is taken for one image. 100 megapixels as an uncompressed 16-bit BMP or TIFF are about 200 MiB;
more would let one file fill the memory of a service."""

_MANIFEST_VERSION = 1


class ImageUnread(NotFound):
    """An image cannot be read from its source: missing, changed, too long, no permission, damaged archive.

    The message is a reason in one line without the path, such as "no longer exists".
    """


@dataclass(frozen=True, slots=True)
class Entry:
    """An image as a source lists it, not yet read."""

    path: str
    """Relative to the dataset, with "/" between its parts; unique in the dataset."""
    label: str
    """The class; "" if the images of this dataset have none."""
    group: str
    """Images of one group (a patient, a camera) must not be divided between training and test; "" if there are none."""
    size: int
    """Bytes, as the source declares them; 0 if unknown."""


@dataclass(frozen=True, slots=True)
class Item:
    """An image of a dataset."""

    path: str
    label: str
    group: str
    digest: str
    """SHA-256 of the file's bytes, 64 hexadecimal digits."""


@dataclass(frozen=True, slots=True)
class Unread:
    """A listed image that could not be read, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Dataset:
    """Labelled images, sorted by path.

    Raises
    ------
    ValueError
        If the items are not sorted by path, a path is there twice, or a digest is none. `Dataset.of` sorts.
    """

    items: tuple[Item, ...]

    def __post_init__(self) -> None:
        for first, second in pairwise(self.items):
            if first.path >= second.path:
                raise ValueError(f"items out of order or twice: {first.path!r}, {second.path!r}")
        if not all(is_digest(item.digest) for item in self.items):
            raise ValueError("an item's digest is not a SHA-256 in hexadecimal digits")

    @classmethod
    def of(cls, items: Iterable[Item]) -> Dataset:
        """Make a dataset of items in any order."""
        return cls(tuple(sorted(items, key=lambda item: item.path)))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the manifest: of all paths, labels, groups and image digests."""
        return digest_of_bytes(self.to_json())

    @cached_property
    def classes(self) -> tuple[str, ...]:
        """The labels there are, each once, sorted; empty if images have none."""
        return tuple(sorted({item.label for item in self.items if item.label}))

    @cached_property
    def labels(self) -> tuple[str, ...]:
        """The label of each item."""
        return tuple(item.label for item in self.items)

    @cached_property
    def targets(self) -> tuple[int, ...]:
        """The label of each item as an index into `classes`; only where images have labels."""
        index = {label: number for number, label in enumerate(self.classes)}
        return tuple(index[item.label] for item in self.items)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The group of each item; empty if the dataset has none."""
        groups = tuple(item.group for item in self.items)
        return groups if any(groups) else ()

    def to_json(self) -> bytes:
        """The manifest: canonical JSON."""
        rows = tuple((item.path, item.label, item.group, item.digest) for item in self.items)
        return canonical_json({"items": rows, "version": _MANIFEST_VERSION})

    @classmethod
    def from_json(cls, data: bytes) -> Dataset:
        """Read a manifest.

        Raises
        ------
        DataLoss
            If it is not one that `to_json` wrote.
        """
        try:
            document = json.loads(data)
            if document["version"] != _MANIFEST_VERSION:
                raise DataLoss(f"A dataset manifest has version {document['version']!r}, not {_MANIFEST_VERSION}.")
            items = tuple(Item(*map(_text, row)) for row in document["items"])
            return cls(items)
        except (ValueError, TypeError, KeyError) as error:
            raise DataLoss("A dataset manifest cannot be parsed: scan the dataset again.") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError("not a text")
    return value


def write_dataset(store: ObjectStore, dataset: Dataset) -> str:
    """Write a dataset's manifest into the store; return the dataset's digest."""
    from offshelf.store import keys

    store.put(keys.dataset(dataset.digest), dataset.to_json())
    return dataset.digest


def read_dataset(store: ObjectStore, digest: str) -> Dataset:
    """Read a dataset's manifest from the store.

    Raises
    ------
    NotFound
        If the store has no such dataset.
    DataLoss
        If the manifest is not what its name says.
    """
    from offshelf.store import keys

    if not is_digest(digest):
        raise NotFound(f"{digest!r} is not the digest of a dataset.")
    data = store.get(keys.dataset(digest))
    if digest_of_bytes(data) != digest:
        raise DataLoss(f"The manifest of dataset {digest} is not what was written: scan the dataset again.")
    return Dataset.from_json(data)


class ImageSource(Protocol):
    """Where the images of a dataset are read from. Methods block and may be called from several threads."""

    @property
    def uri(self) -> str:
        """The source in one text: as `source_uri` gives it."""
        ...

    @property
    def ignored(self) -> int:
        """Files that the last `entries` passed over since they are no images in a class folder; hidden ones apart."""
        ...

    def entries(self) -> list[Entry]:
        """List the images, sorted by path.

        Raises
        ------
        InvalidDataset
            If the source cannot be used as a dataset; see `check_classes` for what depends on the folds.
        """
        ...

    def chunks(self, path: str, limit: int = MAX_IMAGE_BYTES) -> Iterator[bytes]:
        """Yield an image's bytes in pieces; never more than `limit` bytes in all.

        Raises
        ------
        ImageUnread
            If it cannot be read.
        InvalidDataset
            If the path leads out of the dataset, or the image is not what its archive declares.
        """
        ...

    def read(self, path: str, limit: int = MAX_IMAGE_BYTES) -> bytes:
        """Read an image whole; errors as for `chunks`."""
        ...

    def close(self) -> None:
        """Release what is held open."""
        ...
