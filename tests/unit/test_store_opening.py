from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

import offshelf.store
from offshelf.errors import Conflict, InvalidInput, NotFound
from offshelf.store import open_bucket, open_store

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {"OFFSHELF_S3_ACCESS_KEY": "access-not-shown", "OFFSHELF_S3_SECRET_KEY": "secret-not-shown"}
# Nothing listens there: port 9 is "discard", and these tests never get as far as asking.
ENDPOINT = "endpoint=http://127.0.0.1:9"


def test_a_path_and_a_file_address_are_one_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A user may write a directory as a path, relative or not, or as a file address."""
    open_store(str(tmp_path / "a store")).put("a", b"x")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for url in [
        "a store",
        "./a store",
        "~/a store",
        f"file://{tmp_path}/a%20store",
        f"file://localhost{tmp_path}/a%20store",
    ]:
        found = open_store(url, create=False)
        assert found.get("a") == b"x"
        assert found.url == str(tmp_path / "a store")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "  ",
        "http://127.0.0.1:9000/x",
        "gs://bucket/x",
        "file://otherhost/x",
        "file:///x?y=1",
        "~no-such-account/x",
        "a\0b",
    ],
)
def test_an_address_that_is_none_is_refused(url: str) -> None:
    """A user who writes an address that cannot be one is told what can."""
    with pytest.raises(InvalidInput):
        open_store(url, environ={})


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://", "begins with s3://bucket"),
        ("s3:///prefix", "begins with s3://bucket"),
        ("s3://Bucket/x", "begins with s3://bucket"),
        ("s3://access-not-shown:secret-not-shown@bucket/x", "begins with s3://bucket"),
        ("s3://bucket/a/../b", "prefix"),
        ("s3://bucket/.hidden", "prefix"),
        (f"s3://bucket/x?{ENDPOINT}&secret_key=secret-not-shown", "takes endpoint= and region="),
        (f"s3://bucket/x?{ENDPOINT}#part", "takes endpoint= and region="),
        ("s3://bucket/x", "OFFSHELF_S3_ENDPOINT"),
        ("s3://bucket/x?endpoint=127.0.0.1:9", "written http://host:port"),
        ("s3://bucket/x?endpoint=ftp://127.0.0.1:9", "written http://host:port"),
        ("s3://bucket/x?endpoint=http://127.0.0.1:99999", "written http://host:port"),
        ("s3://bucket/x?endpoint=http://127.0.0.1:9/path", "written http://host:port"),
        ("s3://bucket/x?endpoint=http://secret-not-shown:x@127.0.0.1:9", "written http://host:port"),
    ],
)
def test_an_s3_address_that_is_none_is_refused(url: str, words: str) -> None:
    """A user who writes an S3 address wrongly is told how to write it, and secrets in it are not repeated."""
    with pytest.raises(InvalidInput, match=words) as caught:
        open_store(url, environ=KEYS)
    assert "not-shown" not in caught.value.message


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://Bucket", "begins with s3://bucket"),
        ("s3://bucket/.hidden", "prefix"),
        ("s3://bucket", "OFFSHELF_S3_ENDPOINT"),
        ("s3://bucket?endpoint=ftp://127.0.0.1:9", "written http://host:port"),
    ],
)
def test_a_bucket_that_cannot_be_one_is_refused(url: str, words: str) -> None:
    """An operator who names a bucket wrongly, or no server for it, is told so."""
    with pytest.raises(InvalidInput, match=words):
        open_bucket(url, beside="/a/directory", environ={**KEYS, "OFFSHELF_STORE": "/another"})


@pytest.mark.parametrize("missing", sorted(KEYS))
def test_missing_keys_are_named(missing: str) -> None:
    """A user without keys is told which variables to set."""
    environ = {name: value for name, value in KEYS.items() if name != missing}
    with pytest.raises(InvalidInput, match=missing):
        open_store(f"s3://bucket/x?{ENDPOINT}", environ=environ)


def test_a_missing_directory_is_not_made_unasked(tmp_path: Path) -> None:
    """A user who mistypes a path finds no new folder there."""
    with pytest.raises(NotFound, match="check the address"):
        open_store(str(tmp_path / "typo"), create=False)
    assert not (tmp_path / "typo").exists()


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    """A user who names the folder of images as the store gets an error and finds it unchanged."""
    (tmp_path / "cats").mkdir()
    with pytest.raises(Conflict, match="give an empty or new place"):
        open_store(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["cats"]


def test_hidden_files_do_not_make_a_folder_something_else(tmp_path: Path) -> None:
    """A user can make a store in a folder that holds what a file manager left, or the lock of a starting server."""
    (tmp_path / ".DS_Store").write_bytes(b"")
    (tmp_path / ".embedded").mkdir()
    assert [info.key for info in open_store(str(tmp_path)).list("")] == ["store.json"]


def test_the_public_names_are_these() -> None:
    """A user of the store's library can rely on the names it says it has."""
    assert all(hasattr(offshelf.store, name) for name in offshelf.store.__all__)


def test_the_store_and_its_lock_are_light() -> None:
    """A user of the SDK does not wait for the libraries of a store that is not opened."""
    program = (
        "import sys, offshelf.store, offshelf.store.ownership, offshelf.store.keys\n"
        "heavy = {'minio', 'urllib3', 'certifi', 'numpy', 'pyarrow', 'grpc', 'http', 'ssl'} & set(sys.modules)\n"
        "sys.exit(repr(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
