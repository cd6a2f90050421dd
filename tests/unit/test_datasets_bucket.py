from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import pytest

from offshelf.datasets import ImageUnread, Unread, image_reader, open_source, scan, source_uri
from offshelf.datasets.bucket import MAX_OBJECTS, BucketSource
from offshelf.datasets.folder import FolderSource
from offshelf.errors import (
    InvalidDataset,
    InvalidInput,
    NotFound,
    PermissionDenied,
    StoreDenied,
    StoreUnavailable,
)
from offshelf.store.bucket import Piece

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf.errors import OffshelfError

BUCKETS = ("s3://photos", "s3://shared/public")


class MemoryBucket:
    """A bucket in a dictionary; a test may change its objects, or make one fail."""

    url = "s3://photos?endpoint=http://s3:9000"

    def __init__(self, *names: str) -> None:
        self.objects = {name: name.encode() for name in names}
        self.errors: dict[str, OffshelfError] = {}
        self.reads = 0

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield what begins so, in the order it was put."""
        yield from ((name, len(data)) for name, data in self.objects.items() if name.startswith(prefix))

    def size(self, name: str) -> int | None:
        """Look an object up."""
        return len(self.objects[name]) if name in self.objects else None

    def read(self, name: str, *, offset: int = 0, length: int) -> Piece:
        """Read a part of an object."""
        self.reads += 1
        if name in self.errors:
            raise self.errors[name]
        if name not in self.objects:
            raise NotFound(f"There is no {name!r}.")
        data = self.objects[name]
        return Piece(data[offset : offset + length], len(data), hashlib.sha256(data).hexdigest())

    def put_file(self, name: str, path: Path) -> None:
        """Write an object."""
        self.objects[name] = path.read_bytes()


def test_a_bucket_is_listed_as_a_folder_is(tmp_path: Path) -> None:
    """A user gets the same images, labels and number of ignored files from a bucket as from a folder with the same."""
    names = [
        "dogs/2.png",
        "cats/1.JPG",
        "cats/deep/er/3.tiff",
        "cats/with space, ü.bmp",
        "cats/notes.txt",
        "cats/.hidden.png",
        "cats/.thumbs/1.png",
        "cats/.png",
        "__MACOSX/1.png",
        ".git/1.png",
        "README.md",
        "top.png",
        "dogs/noext",
    ]
    for name in names:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(f"pets/{name}".encode())
    folder = FolderSource(str(tmp_path), str(tmp_path))
    source = BucketSource("s3://photos/pets", MemoryBucket(*(f"pets/{name}" for name in names), "pets-not/cats/1.png"))
    assert source.entries() == folder.entries()
    assert [entry.path for entry in source.entries()] == [
        "cats/1.JPG",
        "cats/deep/er/3.tiff",
        "cats/with space, ü.bmp",
        "dogs/2.png",
    ]
    assert source.ignored == folder.ignored > 0
    assert scan(source)[0].digest == scan(folder)[0].digest
    assert source.uri == "s3://photos/pets"
    source.close()


def test_a_whole_bucket_can_be_a_dataset() -> None:
    """A user may name a bucket without a prefix, and folder markers that consoles make are no images."""
    source = BucketSource("s3://photos", MemoryBucket("cats/", "cats/1.png", "dogs/1.png", "dogs/sub/"))
    assert [(entry.path, entry.label) for entry in source.entries()] == [("cats/1.png", "cats"), ("dogs/1.png", "dogs")]
    assert source.ignored == 0


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "holds nothing: one folder a class is expected"),
        (["1.png", "2.png"], "holds files but no class folders"),
        (["cats/1.txt"], "no images in them"),
        (["cats/1.png", "dogs/1.txt"], "'dogs' holds no images"),
        (["cats/1.png", "dogs/"], "'dogs' holds no images"),
        (["cats/1.png", "do\ngs/1.png"], "control characters"),
        (["cats/1\n.png"], "control characters"),
        (["C:/1.png"], "leaves the dataset"),
    ],
)
def test_a_bucket_that_is_no_dataset_is_refused(names: list[str], words: str) -> None:
    """A user whose bucket has no class folders, an empty one, or names that break a line is told which."""
    source = BucketSource("s3://photos/pets", MemoryBucket(*(f"pets/{name}" for name in names)))
    with pytest.raises(InvalidDataset, match=words):
        source.entries()


def test_a_bucket_with_too_many_objects_is_refused() -> None:
    """A user who names a bucket of a hundred million objects is told to name a prefix, not left waiting for hours."""

    class Endless(MemoryBucket):
        def list(self, prefix: str) -> Iterator[tuple[str, int]]:
            while True:
                yield f"{prefix}.x", 1

    with pytest.raises(InvalidDataset, match=f"more than {MAX_OBJECTS} objects: name a prefix"):
        BucketSource("s3://photos", Endless()).entries()


def test_images_are_read_whole_and_in_pieces() -> None:
    """A user's images come out of a bucket as they are: empty, small, or larger than what is asked for at a time."""
    bucket = MemoryBucket()
    source = BucketSource("s3://photos/pets", bucket)
    for size in (0, 1, 8 << 20, (8 << 20) + 1, 17 << 20):
        bucket.objects["pets/cats/1.png"] = b"x" * size
        assert source.read("cats/1.png") == b"x" * size
    bucket.reads = 0
    bucket.objects["pets/cats/1.png"] = b"a usual photo"
    source.read("cats/1.png")
    assert bucket.reads == 1
    with pytest.raises(ImageUnread, match="longer than the limit of 3 bytes"):
        source.read("cats/1.png", 3)
    with pytest.raises(InvalidDataset, match="leaves the dataset"):
        source.read("../other/1.png")


def test_images_that_cannot_be_read_are_reported() -> None:
    """A user is told which images are gone, may not be read, or changed since; the others are used."""
    bucket = MemoryBucket("cats/1.png", "cats/2.png", "cats/3.png", "dogs/1.png")
    source = BucketSource("s3://photos", bucket)
    listed = source.entries()
    del bucket.objects["cats/2.png"]
    bucket.errors["cats/3.png"] = PermissionDenied("no")
    dataset, unread = scan(source, entries=listed)
    assert [item.path for item in dataset.items] == ["cats/1.png", "dogs/1.png"]
    assert unread == [
        Unread("cats/2.png", "does not exist"),
        Unread("cats/3.png", "may not be read (permission denied)"),
    ]
    bucket.objects["cats/1.png"] = b"another"
    read = image_reader(source, dataset)
    with pytest.raises(ImageUnread, match="has changed since the dataset was scanned"):
        read(dataset.items[0].digest)
    assert read(dataset.items[1].digest) == b"dogs/1.png"


def test_an_image_that_changes_while_it_is_read_is_not_mixed() -> None:
    """A user never gets an image made of the beginning of one version and the end of another."""
    bucket = MemoryBucket()
    bucket.objects["cats/1.png"] = b"x" * (9 << 20)
    chunks = BucketSource("s3://photos", bucket).chunks("cats/1.png")
    next(chunks)
    bucket.objects["cats/1.png"] = b"y" * (9 << 20)
    with pytest.raises(ImageUnread, match="has changed while it was read"):
        next(chunks)


@pytest.mark.parametrize("error", [StoreUnavailable("away"), StoreDenied("wrong keys")])
def test_a_bucket_that_is_away_is_no_missing_image(error: OffshelfError) -> None:
    """A user whose bucket is away, or whose keys are withdrawn, is told so rather than that the images are gone."""
    bucket = MemoryBucket("cats/1.png", "dogs/1.png")
    source = BucketSource("s3://photos", bucket)
    listed = source.entries()
    bucket.errors["cats/1.png"] = error
    with pytest.raises(type(error)):
        scan(source, entries=listed)


@pytest.mark.parametrize(
    ("path", "uri"),
    [
        ("s3://photos", "s3://photos"),
        ("s3://photos/", "s3://photos"),
        ("s3://photos/pets/2024/", "s3://photos/pets/2024"),
        ("s3://photos/My Pets (ü)", "s3://photos/My Pets (ü)"),
        ("s3://shared/public", "s3://shared/public"),
        ("s3://shared/public/pets", "s3://shared/public/pets"),
    ],
)
def test_a_bucket_is_named_by_its_address(path: str, uri: str) -> None:
    """A user names a prefix of an allowed bucket as everywhere."""
    assert source_uri(path, buckets=BUCKETS) == uri


@pytest.mark.parametrize(
    "path", ["s3://other", "s3://photos-not/x", "s3://shared", "s3://shared/private", "s3://shared/publication/x"]
)
def test_other_buckets_are_not_read(path: str) -> None:
    """A user cannot read what else the installation's keys open: its store, for one, or other people's buckets."""
    for buckets in (BUCKETS, ()):
        with pytest.raises(PermissionDenied, match="OFFSHELF_DATA_BUCKETS"):
            source_uri(path, buckets=buckets)
        with pytest.raises(PermissionDenied, match="OFFSHELF_DATA_BUCKETS"):
            open_source(path, roots=None, buckets=buckets)


@pytest.mark.parametrize(
    "path",
    [
        "s3://",
        "s3:///x",
        "s3://Photos/x",
        "s3://photos/../shared/private",
        "s3://photos/./x",
        "s3://photos//x",
        "s3://photos/x?endpoint=http://169.254.169.254",
        "s3://photos?endpoint=http://169.254.169.254",
        "s3://photos/x\ny",
        "s3://key:secret@photos/x",
        "s3://photos:9000/x",
    ],
)
def test_what_is_no_address_of_a_bucket_is_refused(path: str) -> None:
    """A user cannot make a service call another machine, or leave the prefix, by what stands in an address."""
    with pytest.raises(InvalidDataset, match="write s3://bucket/prefix and nothing more"):
        source_uri(path, buckets=BUCKETS)
    with pytest.raises((InvalidDataset, InvalidInput)):
        open_source(path, roots=None, buckets=BUCKETS)


def test_a_bucket_is_opened_with_the_installations_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of an installation without S3 is told which variables its operator has to set."""
    for name in ("OFFSHELF_S3_ENDPOINT", "OFFSHELF_S3_ACCESS_KEY", "OFFSHELF_S3_SECRET_KEY", "OFFSHELF_STORE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(InvalidInput, match="OFFSHELF_S3_ENDPOINT"):
        open_source("s3://photos/pets", roots=None, buckets=BUCKETS)
    monkeypatch.setenv("OFFSHELF_S3_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InvalidInput, match="OFFSHELF_S3_ACCESS_KEY"):
        open_source("s3://photos/pets", roots=None, buckets=BUCKETS)
    monkeypatch.setenv("OFFSHELF_S3_ACCESS_KEY", "access")
    monkeypatch.setenv("OFFSHELF_S3_SECRET_KEY", "secret")
    assert open_source("s3://photos/pets", roots=(), buckets=BUCKETS).uri == "s3://photos/pets"
