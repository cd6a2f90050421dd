"""A dataset as a prefix of an S3 bucket, with one "folder" a class: the same rules as for folders.

The bucket is read with the installation's own keys and from its own S3 server: an address from a user names a bucket
and a prefix and nothing else, so it can make a service call no other machine. The images stay where they are.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from offshelf.datasets.model import MAX_IMAGE_BYTES, Entry, ImageUnread
from offshelf.datasets.names import (
    check_class_folders,
    check_label,
    check_path,
    has_image_suffix,
    is_hidden,
    is_plain,
)
from offshelf.datasets.tree import too_long
from offshelf.errors import InvalidDataset, NotFound, PermissionDenied, StoreDenied

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offshelf.store.bucket import Bucket

MAX_OBJECTS = 1_000_000
"""Most objects below a prefix that are looked at: ten times the 100,000 images that we are built for. Listing a bucket
of a hundred million would take hours."""

_PIECE_BYTES = 8 * 1024 * 1024
"""How much is asked for at a time: nearly every image whole, since each question to a bucket takes a while."""

_ADDRESS = re.compile(r"s3://([a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(.*))?")


def check_bucket(uri: str, buckets: tuple[str, ...]) -> str:
    """Return the address of a dataset in a bucket if it may be read.

    Parameters
    ----------
    uri
        "s3://bucket" or "s3://bucket/prefix", without a slash at its end.
    buckets
        What it must lie under: "s3://bucket" or "s3://bucket/prefix" each.

    Raises
    ------
    InvalidDataset
        If it has another form.
    PermissionDenied
        If it lies under none of the buckets.
    """
    found = _ADDRESS.fullmatch(uri) if is_plain(uri) else None
    parts = found[2].split("/") if found and found[2] is not None else []
    if found is None or any(part in {"", ".", ".."} for part in parts) or "?" in uri:
        raise InvalidDataset(
            f"{uri!a} cannot be the address of a dataset: write s3://bucket/prefix and nothing more. "
            "Server and keys are those of this installation."
        )
    if not any(uri == bucket or uri.startswith(f"{bucket}/") for bucket in buckets):
        raise PermissionDenied(
            f"{uri!r} is not in a bucket that this server reads datasets from: copy it there, or add its bucket to "
            "OFFSHELF_DATA_BUCKETS."
        )
    return uri


class BucketSource:
    """Images below a prefix of a bucket.

    Parameters
    ----------
    uri
        "s3://bucket/prefix", already checked.
    bucket
        The bucket.
    labelled
        As for `FolderSource`.
    """

    def __init__(self, uri: str, bucket: Bucket, *, labelled: bool = True) -> None:
        self._labelled = labelled
        prefix = uri.removeprefix("s3://").partition("/")[2]
        self._bucket = bucket
        self._start = f"{prefix}/" if prefix else ""
        self.uri = uri
        self.ignored = 0

    @classmethod
    def open(cls, uri: str, *, beside: str, labelled: bool = True) -> BucketSource:
        """Open a bucket with this installation's keys.

        Parameters
        ----------
        uri
            "s3://bucket/prefix", already checked.
        beside
            Address of the installation's store; see `open_bucket`.
        labelled
            As for `FolderSource`.

        Raises
        ------
        InvalidInput
            If there are no keys, or no S3 server is known.
        """
        from offshelf.store import open_bucket

        # Only the bucket's name: what else the user wrote must not be taken for a part of the server's address.
        name = uri.removeprefix("s3://").partition("/")[0]
        return cls(uri, open_bucket(f"s3://{name}", beside=beside), labelled=labelled)

    def entries(self) -> list[Entry]:
        """List the images, sorted by path; see `ImageSource`. May also raise what the store raises."""
        self.ignored = 0
        classes: set[str] = set()
        found: list[Entry] = []
        loose: list[tuple[str, int]] = []
        for number, (name, size) in enumerate(self._bucket.list(self._start)):
            if number >= MAX_OBJECTS:
                raise InvalidDataset(f"{self.uri!r} holds more than {MAX_OBJECTS} objects: name a prefix with fewer.")
            path = name.removeprefix(self._start)
            label, below, rest = path.partition("/")
            # A name that ends in "/" is no file: consoles make it to show an empty folder.
            is_file = not path.endswith("/")
            if not path or any(is_hidden(part) for part in path.split("/")):
                continue
            if below and label not in classes:
                classes.add(check_label(label, where="The class folder"))
            if below and is_file and has_image_suffix(rest.rpartition("/")[2]):
                found.append(Entry(path=check_path(path), label=label, group="", size=size))
            elif is_file and not below and has_image_suffix(path):
                loose.append((path, size))
            elif is_file:
                self.ignored += 1
        if loose and not classes and not self._labelled:
            return [Entry(path=check_path(path), label="", group="", size=size) for path, size in sorted(loose)]
        self.ignored += len(loose)
        if not classes:
            what = "holds files but no class folders" if self.ignored else "holds nothing"
            raise InvalidDataset(
                f"{self.uri!r} {what}: one folder a class is expected, such as cats/1.jpg and dogs/1.jpg."
            )
        check_class_folders(classes, {entry.label for entry in found}, shown=self.uri)
        found.sort(key=lambda entry: entry.path)
        return found

    def chunks(self, path: str, limit: int = MAX_IMAGE_BYTES) -> Iterator[bytes]:
        """Yield an image's bytes; see `ImageSource`. May also raise what the store raises."""
        name = self._start + check_path(path)
        total = 0
        version = None
        while True:
            try:
                piece = self._bucket.read(name, offset=total, length=_PIECE_BYTES)
            except NotFound as error:
                raise ImageUnread("does not exist") from error
            except StoreDenied:
                raise
            except PermissionDenied as error:
                raise ImageUnread("may not be read (permission denied)") from error
            if piece.size > limit:
                raise too_long(limit)
            # Pieces of two versions would make an image that never was.
            if piece.version != (version or piece.version):
                raise ImageUnread("has changed while it was read")
            version = piece.version
            total += len(piece.data)
            if piece.data:
                yield piece.data
            if total >= piece.size or not piece.data:
                return

    def read(self, path: str, limit: int = MAX_IMAGE_BYTES) -> bytes:
        """Read an image whole; see `ImageSource`."""
        return b"".join(self.chunks(path, limit))

    def close(self) -> None:
        """Release nothing: connections close by themselves."""
