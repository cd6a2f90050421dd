from __future__ import annotations

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import Conflict, DataLoss, InvalidInput, NotFound
from offshelf.store import keys

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.store import ObjectStore
    from tests.contract.conftest import Place

UNSAFE = [
    "",
    "/",
    "a/",
    "/a",
    "a//b",
    ".",
    "..",
    "../a",
    "a/../b",
    "a/.hidden",
    ".embedded/lock",
    "a b",
    "ä",
    "a\\b",
    "a\n",
    "x" * 201,
]


def names(store: ObjectStore, prefix: str = "") -> list[str]:
    """List keys, without the store's own description."""
    return [info.key for info in store.list(prefix) if info.key != keys.FORMAT]


def test_what_is_put_is_got(store: ObjectStore) -> None:
    """A user reads back every byte that was written."""
    data = bytes(range(256)) * 1000
    store.put("a/b/c.bin", data)
    assert store.get("a/b/c.bin") == data


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    """A user can keep an object without content."""
    store.put("empty", b"")
    assert store.get("empty") == b""
    assert store.get("empty", length=4) == b""
    found = store.stat("empty")
    assert found is not None
    assert found.size == 0


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [
        (0, None, b"0123456789"),
        (3, None, b"3456789"),
        (0, 4, b"0123"),
        (3, 4, b"3456"),
        (8, 100, b"89"),
        (10, None, b""),
        (10, 5, b""),
        (1000, 1, b""),
        (3, 0, b""),
        (0, 0, b""),
    ],
)
def test_a_range_is_read(store: ObjectStore, offset: int, length: int | None, expected: bytes) -> None:
    """A user reads a part of an object, and fewer bytes where it ends."""
    store.put("digits", b"0123456789")
    assert store.get("digits", offset=offset, length=length) == expected


def test_an_impossible_range_is_refused(store: ObjectStore) -> None:
    """A user who asks for a negative range is told so."""
    store.put("digits", b"0123456789")
    with pytest.raises(InvalidInput, match="range"):
        store.get("digits", offset=-1)
    with pytest.raises(InvalidInput, match="range"):
        store.get("digits", length=-1)


def test_writing_again_replaces(store: ObjectStore) -> None:
    """A user who writes an object twice reads the second one."""
    store.put("a/b", b"first, and longer")
    store.put("a/b", b"second")
    store.put("a/b", b"second")
    assert store.get("a/b") == b"second"
    assert names(store) == ["a/b"]


def test_a_missing_object_is_not_found(store: ObjectStore, tmp_path: Path) -> None:
    """A user who asks for what is not there is told which object it is."""
    store.put("a/b", b"x")
    target = tmp_path / "target"
    for key in ["nothing", "a", "a/nothing", "no/such/folder", "a/b/c"]:
        assert store.stat(key) is None
        with pytest.raises(NotFound, match=key):
            store.get(key)
        with pytest.raises(NotFound, match=key):
            store.get(key, length=0)
        with pytest.raises(NotFound, match=key):
            store.get(key, offset=2, length=3)
        with pytest.raises(NotFound, match=key):
            store.get_file(key, target)
    assert not target.exists()


def test_what_is_deleted_is_gone(store: ObjectStore) -> None:
    """A user who deletes an object, even twice, finds the others untouched."""
    store.put("a/b", b"x")
    store.put("a/c", b"y")
    store.delete("a/b")
    store.delete("a/b")
    store.delete("never/was")
    assert store.stat("a/b") is None
    assert names(store) == ["a/c"]
    store.put("a/b", b"again")
    assert store.get("a/b") == b"again"


def test_stat_tells_size_and_time(store: ObjectStore) -> None:
    """A user sees how large an object is and when it was written."""
    store.put("a/b", b"12345")
    found = store.stat("a/b")
    assert found is not None
    assert (found.key, found.size) == ("a/b", 5)
    assert abs(found.modified - time.time()) < 3600
    listed = next(store.list("a/b"))
    assert (listed.key, listed.size) == ("a/b", 5)
    assert abs(listed.modified - found.modified) < 2


def test_lists_are_sorted_by_key(store: ObjectStore) -> None:
    """A user gets objects in the order of their whole keys, not folder by folder."""
    written = ["b", "a/x", "a-b/x", "a.b", "ab", "a/y/z", "a/y-z", "A", "a0/x", "a_", "a=b/c"]
    for key in written:
        store.put(key, b"x")
    assert names(store) == sorted(written)


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("a", ["a-b/x", "a/x", "a/xy/z", "ab"]),
        ("a/", ["a/x", "a/xy/z"]),
        ("a/x", ["a/x", "a/xy/z"]),
        ("a/xy", ["a/xy/z"]),
        ("a/xy/", ["a/xy/z"]),
        ("a/xy/z", ["a/xy/z"]),
        ("ab", ["ab"]),
        ("ab/", []),
        ("zz", []),
        ("zz/yy/", []),
    ],
)
def test_a_prefix_may_end_anywhere(store: ObjectStore, prefix: str, expected: list[str]) -> None:
    """A user lists all objects whose key begins so, wherever the beginning ends."""
    for key in ["a/x", "a/xy/z", "a-b/x", "ab", "b"]:
        store.put(key, b"x")
    assert names(store, prefix) == expected


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [
        ("", ["a", "a-b", "ab", "b"]),
        ("a/", ["x", "xy"]),
        ("a/xy/", ["y", "z"]),
        ("a/xy/z/", ["deep"]),
        ("a-b/", ["x"]),
        ("ab/", []),
        ("zz/", []),
        ("zz/yy/", []),
    ],
)
def test_children_are_the_next_parts(store: ObjectStore, prefix: str, expected: list[str]) -> None:
    """A user who asks what lies directly below a prefix gets each name once, sorted, whether object or folder."""
    for key in ["a/x", "a/xy/z/deep", "a/xy/y", "a/xy/z/deep", "a-b/x", "ab", "b"]:
        store.put(key, b"x")
    assert [name for name in store.children(prefix) if name != keys.FORMAT] == expected


def test_children_go_with_the_last_object(store: ObjectStore) -> None:
    """A user who deletes everything of a run does not see the run any more."""
    for key in ["runs/1/spec.json", "runs/1/events/1.json", "runs/2/spec.json"]:
        store.put(key, b"x")
    store.delete("runs/1/spec.json")
    assert list(store.children("runs/")) == ["1", "2"]
    store.delete("runs/1/events/1.json")
    assert list(store.children("runs/")) == ["2"]
    store.delete("runs/2/spec.json")
    assert list(store.children("runs/")) == []
    store.put("runs/1/spec.json", b"again")
    assert list(store.children("runs/")) == ["1"]


def test_a_long_list_is_complete(store: ObjectStore) -> None:
    """A user with more objects than fit into one answer of a server gets them all, once."""
    written = [f"many/{number % 7}/{number:05d}" for number in range(1100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b""), written))
    assert names(store, "many/") == sorted(written)
    assert list(store.children("many/")) == [str(number) for number in range(7)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.put(f"wide/{number:05d}/x", b""), range(1100)))
    assert list(store.children("wide/")) == [f"{number:05d}" for number in range(1100)]


@pytest.mark.parametrize("size", [0, 5, 1 << 20, (33 << 20) + 7])
def test_files_go_in_and_come_out(store: ObjectStore, tmp_path: Path, size: int) -> None:
    """A user stores a file of any size and gets the same file back."""
    source, target = tmp_path / "source", tmp_path / "target"
    content = os.urandom(size)
    source.write_bytes(content)
    store.put_file("files/one", source)
    store.get_file("files/one", target)
    assert target.read_bytes() == content
    found = store.stat("files/one")
    assert found is not None
    assert found.size == size
    assert store.get("files/one", offset=max(0, size - 3)) == content[-3:]
    assert names(store) == ["files/one"]


def test_large_bytes_go_in_and_come_out(store: ObjectStore) -> None:
    """A user stores more bytes at once than fit into one part of an upload."""
    content = os.urandom(17 << 20)
    store.put("large", content)
    assert store.get("large") == content


def test_a_source_that_is_missing_writes_nothing(store: ObjectStore, tmp_path: Path) -> None:
    """A user who names a file that is not there leaves no object behind."""
    with pytest.raises(FileNotFoundError):
        store.put_file("files/one", tmp_path / "missing")
    assert names(store) == []


@pytest.mark.parametrize("key", UNSAFE)
def test_an_unsafe_key_is_refused(store: ObjectStore, tmp_path: Path, key: str) -> None:
    """A user cannot leave the store, or reach its own files, by the name of an object."""
    path = tmp_path / "file"
    path.write_bytes(b"x")
    with pytest.raises(InvalidInput):
        store.put(key, b"x")
    with pytest.raises(InvalidInput):
        store.put_file(key, path)
    with pytest.raises(InvalidInput):
        store.get(key)
    with pytest.raises(InvalidInput):
        store.get_file(key, path)
    with pytest.raises(InvalidInput):
        store.stat(key)
    with pytest.raises(InvalidInput):
        store.delete(key)
    assert path.read_bytes() == b"x"


@pytest.mark.parametrize("prefix", ["/", "../", "a//", "a/../", ".embedded/", "a/."])
def test_an_unsafe_prefix_is_refused(store: ObjectStore, prefix: str) -> None:
    """A user cannot list what lies outside the store, or its own files."""
    with pytest.raises(InvalidInput):
        list(store.list(prefix))


@pytest.mark.parametrize("prefix", ["/", "a", "a/b", "../", "a//", ".embedded/", "a/./"])
def test_what_is_no_folder_has_no_children(store: ObjectStore, prefix: str) -> None:
    """A user who asks for the children of what is no folder, or lies outside the store, is told so."""
    with pytest.raises(InvalidInput):
        list(store.children(prefix))


def test_readers_see_whole_objects(store: ObjectStore) -> None:
    """A user who reads while others write the same object sees one of the writes, never a mixture."""
    versions = [bytes([number]) * 300_000 for number in range(4)]
    store.put("contended", versions[0])
    done = threading.Event()

    def write(data: bytes) -> None:
        for _ in range(8):
            store.put("contended", data)

    def read() -> list[bytes]:
        seen = []
        while not done.is_set():
            try:
                seen.append(store.get("contended"))
            except NotFound:
                # rclone takes the old file away before the new one is there. Amazon does not, nor does a directory.
                if not store.url.startswith("s3://"):
                    raise
        return seen

    with ThreadPoolExecutor(5) as pool:
        reading = pool.submit(read)
        try:
            list(pool.map(write, versions))
        finally:
            done.set()
        seen = reading.result()
    assert all(data in versions for data in seen)
    assert store.get("contended") in versions


def test_a_store_is_found_again(place: Place) -> None:
    """A user who opens a store a second time finds in it what was there."""
    place.open().put("a/b", b"kept")
    again = place.open(create=False)
    assert again.get("a/b") == b"kept"
    assert again.url == place.open().url


def test_no_store_is_made_where_none_is_wanted(place: Place) -> None:
    """A user who mistypes an address is told that there is no store, and none appears."""
    for _ in range(2):
        with pytest.raises(NotFound, match="no Offshelf store"):
            place.open(create=False)


@pytest.mark.parametrize(("version", "word"), [(2, "newer"), (0, "older")])
def test_a_store_of_another_version_is_refused(place: Place, version: int, word: str) -> None:
    """A user whose store has another layout is told which one and what to do, and nothing is touched."""
    content = b'{"store_version":%d}' % version
    place.open().put(keys.FORMAT, content)
    with pytest.raises(Conflict, match=rf"{word} Offshelf \(version {version} here 1\): \w+"):
        place.open()
    with pytest.raises(Conflict, match=word):
        place.open(create=False)


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"{}", b'{"store_version": "1"}', b'{"store_version": true}', b"\xff"]
)
def test_a_damaged_description_is_reported(place: Place, content: bytes) -> None:
    """A user whose store describes itself wrongly is told which file is damaged."""
    place.open().put(keys.FORMAT, content)
    with pytest.raises(DataLoss, match=r"store\.json"):
        place.open()


def test_what_is_no_store_is_not_littered(place: Place) -> None:
    """A user who points at a place with files of another kind gets an error, and no file more."""
    store = place.open()
    store.put("holiday.jpg", b"x")
    store.delete(keys.FORMAT)
    with pytest.raises(Conflict, match="not empty and is no Offshelf store"):
        place.open()
    assert [info.key for info in store.list("")] == ["holiday.jpg"]


def test_two_can_make_a_store_at_once(place: Place) -> None:
    """A user who starts several processes on a new store has one store that all of them use."""
    with ThreadPoolExecutor(6) as pool:
        stores = list(pool.map(lambda _: place.open(), range(6)))
        list(pool.map(lambda pair: pair[1].put(f"from/{pair[0]}", b"x"), enumerate(stores)))
    assert names(stores[0]) == [f"from/{number}" for number in range(6)]


def test_an_address_shows_no_secret(place: Place, store: ObjectStore) -> None:
    """A user can show a store's address to anybody."""
    for secret in place.environ.values():
        assert secret not in store.url + repr(store) + str(vars(store))
