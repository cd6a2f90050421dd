"""What only a directory can get wrong: links, modes, full disks, processes that die while they write."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import Conflict, InvalidInput, NotFound, StoreDenied, StoreUnavailable
from offshelf.store import open_store
from offshelf.store.directory import DirectoryStore

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """A new directory store."""
    store = DirectoryStore(tmp_path / "store")
    store.create()
    return store


def test_a_store_is_private(tmp_path: Path) -> None:
    """A user's store can be entered by no other account of the machine, nor can its objects be read."""
    root = tmp_path / "home" / "store"
    open_store(str(root)).put("a/b", b"x")
    assert root.stat().st_mode & 0o777 == 0o700
    assert (root / "a").stat().st_mode & 0o777 == 0o700
    assert (root / "a/b").stat().st_mode & 0o777 == 0o600


def test_a_link_to_an_object_is_not_followed(store: DirectoryStore, tmp_path: Path) -> None:
    """A user's files outside the store are neither read nor written through a link inside it."""
    outside = tmp_path / "outside"
    outside.write_bytes(b"private")
    (store.root / "link").symlink_to(outside)
    assert store.stat("link") is None
    assert list(store.list("")) == []
    with pytest.raises(NotFound):
        store.get("link")
    store.put("link", b"ours")
    assert store.get("link") == b"ours"
    assert outside.read_bytes() == b"private"


def test_a_link_to_a_folder_is_not_followed(store: DirectoryStore, tmp_path: Path) -> None:
    """A user's folders outside the store are neither read nor written through a link inside it."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "b").write_bytes(b"private")
    (store.root / "a").symlink_to(outside)
    assert store.stat("a/b") is None
    assert list(store.list("")) == []
    assert list(store.list("a/")) == []
    with pytest.raises(NotFound):
        store.get("a/b")
    with pytest.raises(StoreDenied, match="is a link"):
        store.put("a/b", b"ours")
    with pytest.raises(StoreDenied, match="is a link"):
        store.put("a/c/d", b"ours")
    store.delete("a/b")
    assert (outside / "b").read_bytes() == b"private"
    assert [path.name for path in outside.iterdir()] == ["b"]


def test_a_store_behind_a_link_works(tmp_path: Path) -> None:
    """A user may keep the store on another disk and link to it."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    open_store(str(tmp_path / "store")).put("a/b", b"x")
    assert (tmp_path / "disk/a/b").read_bytes() == b"x"


def test_what_is_no_file_is_no_object(store: DirectoryStore) -> None:
    """A user's run does not hang on a pipe that lies in the store."""
    os.mkfifo(store.root / "pipe")
    assert store.stat("pipe") is None
    assert list(store.list("")) == []
    with pytest.raises(NotFound):
        store.get("pipe")


def test_dot_names_and_foreign_names_are_not_listed(store: DirectoryStore) -> None:
    """A user sees objects only, not the server's own files nor what a file manager leaves behind."""
    for name in [".embedded/lock", ".DS_Store", "a/.writing-1", "a/with space", "a/b~"]:
        path = store.root / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"x")
    store.put("a/b", b"x")
    assert [info.key for info in store.list("")] == ["a/b"]


def test_an_object_and_a_folder_of_one_name_conflict(store: DirectoryStore) -> None:
    """A user gets an error of ours where a directory cannot hold what a bucket could."""
    store.put("a/b", b"x")
    with pytest.raises(Conflict, match="Objects lie under 'a'"):
        store.put("a", b"x")
    with pytest.raises(Conflict, match="is an object"):
        store.put("a/b/c", b"x")
    store.delete("a")
    assert [info.key for info in store.list("")] == ["a/b"]
    assert not list((store.root).rglob(".writing-*"))


def test_a_store_that_disappears_is_not_an_empty_one(store: DirectoryStore) -> None:
    """A user whose disk is unplugged is told so, rather than that everything must be computed again."""
    store.put("a/b", b"x")
    shutil.rmtree(store.root)
    with pytest.raises(StoreUnavailable, match="cannot be used"):
        store.stat("a/b")
    with pytest.raises(StoreUnavailable):
        store.get("a/b")
    with pytest.raises(StoreUnavailable):
        list(store.list("a/"))
    with pytest.raises(StoreUnavailable):
        store.put("a/b", b"x")


def test_a_file_is_no_place_for_a_store(tmp_path: Path) -> None:
    """A user who names a file instead of a directory is told so."""
    (tmp_path / "file").write_bytes(b"x")
    for path in [tmp_path / "file", tmp_path / "file" / "store"]:
        with pytest.raises(InvalidInput, match="a store needs a directory"):
            open_store(str(path))


def test_a_killed_writer_leaves_no_object(store: DirectoryStore, tmp_path: Path) -> None:
    """A user whose process is killed while it writes finds no half object, and the remains go away by themselves."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    program = (
        "import sys; from pathlib import Path; from offshelf.store.directory import DirectoryStore\n"
        "DirectoryStore(Path(sys.argv[1])).put_file('a/b', Path(sys.argv[2]))"
    )
    with subprocess.Popen([sys.executable, "-c", program, store.root, pipe]) as process, pipe.open("wb") as source:
        # More than the pipe holds: when this returns, the other side is in the middle of its copy.
        source.write(bytes(4 << 20))
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert store.stat("a/b") is None
    assert list(store.list("")) == []

    remains = list((store.root / "a").iterdir())
    assert len(remains) == 1
    store.sweep()
    assert remains[0].exists()
    yesterday = time.time() - 25 * 3600
    os.utime(remains[0], (yesterday, yesterday))
    os.utime(store.root / ".swept", (yesterday, yesterday))
    store.put("a/c", b"kept")
    store.sweep()
    assert [path.name for path in (store.root / "a").iterdir()] == ["c"]


ON_A_SMALL_DISK = """
import sys
from pathlib import Path
import subprocess
from offshelf.errors import StoreDenied, StoreFull
from offshelf.store import open_store
disk = sys.argv[1]
store = open_store(disk + "/store")
store.put("small", b"x")
try:
    for number in range(100):
        store.put(f"a/{number}", bytes(100_000))
except StoreFull as error:
    assert error.message == f"The store at {disk}/store is full: free some space, then run the same command again."
else:
    raise SystemExit("the disk did not fill")
assert store.get("small") == b"x"
assert all(info.size in (1, 100_000, len('{"store_version":1}')) for info in store.list(""))
assert not list(Path(disk).rglob(".writing-*"))
store.delete("a/0")
store.put("a/again", bytes(90_000))

subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
for refused in (lambda: store.put("b", b"x"), lambda: store.delete("small")):
    try:
        refused()
    except StoreDenied as error:
        assert "Read-only file system" in error.message
    else:
        raise SystemExit("a read-only disk was written")
assert open_store(disk + "/store").get("small") == b"x"
"""


def test_a_full_or_read_only_disk_is_named(tmp_path: Path) -> None:
    """A user whose disk is full, or may only be read, is told so and keeps all that was written before."""
    disk = tmp_path / "disk"
    disk.mkdir()
    script = 'mount -t tmpfs -o size=512k tmpfs "$0" && exec "$@"'
    mount = ["unshare", "--map-root-user", "--mount", "sh", "-c", script, str(disk)]
    try:
        subprocess.run([*mount, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a small disk can be mounted here only by the machine's administrator")
    done = subprocess.run(
        [*mount, sys.executable, "-c", ON_A_SMALL_DISK, str(disk)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
def test_a_store_without_rights_is_named(tmp_path: Path) -> None:
    """A user who may not write into the store is told so."""
    root = tmp_path / "store"
    store = open_store(str(root))
    root.chmod(0o500)
    try:
        with pytest.raises(StoreDenied, match="refuses access"):
            store.put("a", b"x")
    finally:
        root.chmod(0o700)
