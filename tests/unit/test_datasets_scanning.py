from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING

import pytest

from offshelf.datasets import (
    Dataset,
    Entry,
    ImageUnread,
    Item,
    Unread,
    image_reader,
    open_source,
    scan,
    write_dataset,
)
from offshelf.errors import Cancelled, DataLoss, InvalidDataset, InvalidInput, NotFound
from offshelf.store import keys
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf.datasets import ImageSource


def digest(data: bytes) -> str:
    """SHA-256 of bytes."""
    return hashlib.sha256(data).hexdigest()


def folder(root: Path, count: int = 3) -> ImageSource:
    """Make a folder of two classes whose images hold their own paths, and open it."""
    for label in ("cats", "dogs"):
        (root / label).mkdir()
        for number in range(count):
            (root / label / f"{number:03d}.png").write_bytes(f"{label}/{number:03d}.png".encode())
    return open_source(f"folder:{root}", roots=None)


class EndlessSource:
    """A source with one image whose bytes never end."""

    uri = "endless:"
    ignored = 0

    def __init__(self, began: threading.Event) -> None:
        self._began = began

    def entries(self) -> list[Entry]:
        """List the image."""
        return [Entry("a", "cats", "", 0)]

    def chunks(self, path: str, limit: int = 0) -> Iterator[bytes]:  # noqa: ARG002 - there is but one image
        """Yield for ever."""
        while True:
            self._began.set()
            yield b"x"

    def read(self, path: str, limit: int = 0) -> bytes:
        """Never return."""
        return b"".join(self.chunks(path, limit))

    def close(self) -> None:
        """Do nothing."""


def test_scan_names_every_image_by_its_bytes(tmp_path: Path) -> None:
    """A scan gives every image its SHA-256 and tells how far it is, up to all."""
    progress: list[tuple[int, int]] = []
    dataset, unread = scan(folder(tmp_path, 50), on_progress=lambda done, total: progress.append((done, total)))
    assert len(dataset.items) == 100
    assert all(item.digest == digest(item.path.encode()) for item in dataset.items)
    assert unread == []
    assert progress[-1] == (100, 100)
    assert progress == sorted(progress)


def test_equal_images_are_both_kept(tmp_path: Path) -> None:
    """Two files of the same content are two items with one digest."""
    source = folder(tmp_path)
    (tmp_path / "cats/000.png").write_bytes(b"same")
    (tmp_path / "dogs/000.png").write_bytes(b"same")
    dataset, _ = scan(source)
    assert len(dataset.items) == 6
    assert len({item.digest for item in dataset.items}) == 5


def test_images_that_vanish_are_reported(tmp_path: Path) -> None:
    """An image that is gone when its turn comes, or leads nowhere, is reported with the reason and stops nothing."""
    source = folder(tmp_path)
    listed = source.entries()
    (tmp_path / "cats/001.png").unlink()
    (tmp_path / "dogs/002.png").unlink()
    (tmp_path / "dogs/002.png").symlink_to("nothing.png")
    dataset, unread = scan(source, entries=listed)
    assert len(dataset.items) == 4
    assert unread == [Unread("cats/001.png", "does not exist"), Unread("dogs/002.png", "does not exist")]
    assert scan(source)[1] == [Unread("dogs/002.png", "does not exist")]


def test_link_that_appears_while_scanning_ends_the_scan(tmp_path: Path) -> None:
    """A file exchanged for a link out of the dataset is never read."""
    source = folder(tmp_path)
    listed = source.entries()
    (tmp_path / "cats/001.png").unlink()
    (tmp_path / "cats/001.png").symlink_to("/etc/passwd")
    with pytest.raises(InvalidDataset, match="leads out"):
        scan(source, entries=listed)


def test_scan_can_be_stopped_before_and_within_an_image() -> None:
    """A stop ends a scan at once, in the middle of an image too."""
    began, stop = threading.Event(), threading.Event()
    source = EndlessSource(began)

    def stop_once_it_began() -> None:
        began.wait()
        stop.set()

    watcher = threading.Thread(target=stop_once_it_began)
    watcher.start()
    with pytest.raises(Cancelled):
        scan(source, stop=stop)
    watcher.join()
    with pytest.raises(Cancelled):
        scan(source, stop=stop)


def test_error_in_the_progress_callback_ends_the_scan(tmp_path: Path) -> None:
    """A caller that fails is told so, and no thread goes on."""

    def fail(done: int, total: int) -> None:
        raise RuntimeError(f"{done} of {total}")

    with pytest.raises(RuntimeError):
        scan(folder(tmp_path, 40), on_progress=fail)
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("scan")]


def test_images_are_read_by_their_digest(tmp_path: Path) -> None:
    """An image is read by its digest from any path that still holds it, and never with other bytes."""
    source = folder(tmp_path)
    (tmp_path / "cats/000.png").write_bytes(b"same")
    (tmp_path / "dogs/000.png").write_bytes(b"same")
    dataset, _ = scan(source)
    read = image_reader(source, dataset)
    assert read(digest(b"cats/001.png")) == b"cats/001.png"
    (tmp_path / "cats/000.png").unlink()
    assert read(digest(b"same")) == b"same"
    (tmp_path / "dogs/000.png").write_bytes(b"else")
    with pytest.raises(ImageUnread, match="does not exist"):
        read(digest(b"same"))
    (tmp_path / "cats/001.png").write_bytes(b"edited")
    with pytest.raises(ImageUnread, match="has changed"):
        read(digest(b"cats/001.png"))
    with pytest.raises(ImageUnread, match="not in the dataset"):
        read(digest(b"edited"))


def test_uploaded_images_are_read_from_the_store() -> None:
    """Images in the store are listed and read like files; one that is missing or too long is reported."""
    store = MemoryStore()
    large = b"0123456789" * 200_000
    items = [Item(f"{label}/1", label, "", digest(data)) for label, data in (("a", b"x"), ("b", large), ("c", b"gone"))]
    dataset = Dataset.of(items)
    store.put(keys.image(digest(b"x")), b"x")
    store.put(keys.image(digest(large)), large)
    source = open_source(f"store:{dataset.digest}", roots=(), store=store, dataset=dataset)
    assert source.uri == f"store:{dataset.digest}"
    assert [(entry.path, entry.label) for entry in source.entries()] == [("a/1", "a"), ("b/1", "b"), ("c/1", "c")]
    assert source.read("b/1") == large
    assert source.read("b/1", len(large)) == large
    with pytest.raises(ImageUnread, match="limit"):
        source.read("b/1", len(large) - 1)
    for path in ("c/1", "d/1"):
        with pytest.raises(ImageUnread, match="does not exist"):
            source.read(path)
    with pytest.raises(InvalidInput):
        open_source(f"store:{dataset.digest}", roots=None)


def test_uploaded_images_are_found_by_their_names() -> None:
    """A run over uploaded images begins at once: they are looked up and not read again; a missing one is reported."""
    store = MemoryStore()
    items = [Item(f"{label}/1", label, label * 2, digest(label.encode())) for label in "abc"]
    dataset = Dataset.of(items)
    for label in "ab":
        store.put(keys.image(digest(label.encode())), b"never looked at")
    scanned, unread = scan(open_source(f"store:{dataset.digest}", roots=(), store=store, dataset=dataset))
    assert scanned.items == dataset.items[:2]
    assert unread == [Unread("c/1", "does not exist")]


def test_an_uploaded_dataset_is_found_by_its_digest() -> None:
    """A dataset in the store needs nothing but its digest; one that is not there, or is damaged, is an error."""
    store = MemoryStore()
    dataset = Dataset.of([Item("a/1", "a", "", digest(b"x"))])
    other = Dataset.of([Item("b/1", "b", "", digest(b"x"))])
    uri = f"store:{dataset.digest}"
    with pytest.raises(NotFound):
        open_source(uri, roots=None, store=store)
    write_dataset(store, dataset)
    for known in (None, dataset, other):
        source = open_source(uri, roots=(), store=store, dataset=known)
        assert [entry.path for entry in source.entries()] == ["a/1"]
    store.objects[keys.dataset(dataset.digest)] = other.to_json()
    with pytest.raises(DataLoss):
        open_source(uri, roots=None, store=store)
