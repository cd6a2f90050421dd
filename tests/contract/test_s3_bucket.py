"""Buckets of other people, read for real: images where they lie, and weights from a mirror."""

from __future__ import annotations

import hashlib
import io
import socket
import threading
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest
from minio import Minio

from offshelf.cli import main
from offshelf.datasets import ImageUnread, open_source, scan
from offshelf.errors import DataLoss, InvalidInput, NotFound, PermissionDenied, StoreDenied
from offshelf.extraction import registry
from offshelf.extraction.spec import Network
from offshelf.extraction.weights.arrays import parse_arrays
from offshelf.extraction.weights.checking import LEDGER, read_ledger
from offshelf.extraction.weights.finding import availability, read_weights
from offshelf.extraction.weights.mirror import open_mirror
from offshelf.services.orchestrator.holdings.fetching import Fetcher, read_beside
from offshelf.store import open_bucket, open_store
from tests.contract.conftest import own_prefix
from tests.integration.rclone_s3 import ACCESS_KEY, SECRET_KEY
from tests.integration.weights_server import WeightsServer
from tests.unit.small_weights import CONTENT, small_networks
from tests.unit.tiny_network import FILE, random_arrays, tiny_spec

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from tests.integration.rclone_s3 import S3Server

NAMES = {
    "cats/1.png": b"one",
    "cats/deep/2.JPG": b"two",
    "cats/notes.txt": b"no image",
    "cats/.hidden.png": b"hidden",
    "dogs/with space, ü & 100%.png": b"three",
    "dogs/empty.png": b"",
    "README.md": b"no image",
}


@pytest.fixture
def environ(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The environment of a service of an installation on that server."""
    environ = {**s3_server.environ, "OFFSHELF_S3_ENDPOINT": f"http://{s3_server.address}"}
    monkeypatch.delenv("OFFSHELF_STORE", raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    return environ


class Photos:
    """A bucket of somebody else, filled with the S3 client itself."""

    def __init__(self, server: S3Server, name: str, objects: Mapping[str, bytes]) -> None:
        self.name = name
        self._client = Minio(server.address, ACCESS_KEY, SECRET_KEY, secure=False, region="us-east-1")
        self._client.make_bucket(name)
        for key, data in objects.items():
            self.put(key, data)

    def put(self, key: str, data: bytes) -> None:
        """Write an object."""
        self._client.put_object(self.name, key, io.BytesIO(data), len(data))


@pytest.fixture
def name(tmp_path: Path) -> str:
    """The name of a bucket that no other test has."""
    return "photos-" + hashlib.sha256(str(tmp_path).encode()).hexdigest()[:16]


@pytest.mark.usefixtures("environ")
def test_images_are_read_where_they_lie(s3_server: S3Server, name: str) -> None:
    """A user makes a dataset of a bucket's images without copying them, whatever their names."""
    photos = Photos(s3_server, name, {f"my pets/{path}": data for path, data in NAMES.items()})
    source = open_source(f"s3://{name}/my pets", roots=(), buckets=(f"s3://{name}",))
    assert [(entry.path, entry.label, entry.size) for entry in source.entries()] == [
        ("cats/1.png", "cats", 3),
        ("cats/deep/2.JPG", "cats", 3),
        ("dogs/empty.png", "dogs", 0),
        ("dogs/with space, ü & 100%.png", "dogs", 5),
    ]
    assert source.ignored == 2
    dataset, unread = scan(source)
    assert len(dataset.items) == 4
    assert unread == []
    assert source.read("dogs/with space, ü & 100%.png") == b"three"
    assert source.read("dogs/empty.png") == b""
    photos.put("my pets/cats/large.png", bytes(range(256)) * 70_000)
    assert source.read("cats/large.png") == bytes(range(256)) * 70_000
    with pytest.raises(ImageUnread, match="does not exist"):
        source.read("cats/none.png")


@pytest.mark.usefixtures("environ")
def test_a_bucket_that_is_missing_is_named() -> None:
    """A user who mistypes a bucket's name is told so."""
    source = open_source("s3://no-such-bucket/pets", roots=(), buckets=("s3://no-such-bucket",))
    with pytest.raises(StoreDenied, match="has no bucket 'no-such-bucket'"):
        source.entries()


def test_the_server_is_the_installations(s3_server: S3Server, name: str, tmp_path: Path) -> None:
    """An operator names the S3 server once: in the store's address, in OFFSHELF_S3_ENDPOINT, or in OFFSHELF_STORE."""
    Photos(s3_server, name, {"my pets/cats/1.png": b"one"})
    here, keys = f"http://{s3_server.address}", s3_server.environ
    store = open_store(s3_server.url(own_prefix(tmp_path)), environ=keys)
    with socket.create_server(("127.0.0.1", 0)) as free:
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    opened = [
        open_bucket(f"s3://{name}", beside=store.url, environ=keys),
        open_bucket(f"s3://{name}", beside=store.url, environ={**keys, "OFFSHELF_S3_ENDPOINT": nowhere}),
        open_bucket(f"s3://{name}", beside="/a/directory", environ={**keys, "OFFSHELF_S3_ENDPOINT": here}),
        open_bucket(f"s3://{name}", environ={**keys, "OFFSHELF_STORE": store.url}),
        open_bucket(f"s3://{name}?endpoint={here}", beside=nowhere, environ={**keys, "OFFSHELF_STORE": "/x"}),
        open_bucket(
            f"s3://{name}",
            environ={**keys, "OFFSHELF_S3_ENDPOINT": here, "OFFSHELF_STORE": f"s3://x?endpoint={nowhere}"},
        ),
    ]
    for found in opened:
        assert found.url == f"s3://{name}?endpoint={here}"
        assert list(found.list("my pets/")) == [("my pets/cats/1.png", 3)]
    below = open_bucket(f"s3://{name}/prefix?endpoint={here}", environ=keys)
    assert below.size("none") is None
    with pytest.raises(NotFound, match="'none'"):
        below.read("none", length=1)


@pytest.mark.usefixtures("environ")
def test_weights_come_from_a_mirror(s3_server: S3Server, name: str, tmp_path: Path) -> None:
    """An operator keeps weights in a bucket: they are looked up without being read, and checked when they are."""
    arrays = random_arrays()
    spec = tiny_spec(tmp_path, arrays)
    assert isinstance(spec.method, Network)
    mirror = Photos(s3_server, name, {"other": b""})
    address = f"s3://{name}/weights"
    with pytest.raises(NotFound, match=rf"{FILE}, and the bucket that OFFSHELF_WEIGHTS names has no such file: put it"):
        read_weights(spec, address)
    assert "has no such file" in availability(spec, f"{address}?endpoint=http://{s3_server.address}")
    mirror.put(f"weights/{FILE}", (tmp_path / FILE).read_bytes())
    assert availability(spec, address) == ""
    assert parse_arrays(read_weights(spec, address)[1], spec.method.weights).keys() == arrays.keys()
    mirror.put(f"weights/{FILE}", b"something else")
    with pytest.raises(DataLoss, match="is not the file it should be"):
        read_weights(spec, address)
    assert "has no such file" in availability(spec, "s3://no-such-bucket/weights")
    assert "begins with s3://bucket" in availability(spec, "s3://Not-A-Bucket")


@pytest.mark.usefixtures("environ")
def test_weights_are_pulled_into_a_bucket_once(
    s3_server: S3Server, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The Job of a cluster brings weights into the bucket, where services find them; again it downloads nothing."""
    bucket = Photos(s3_server, name, {"weights/two.h5": b"another file"})
    address = f"s3://{name}/weights"
    pull = ["weights", "pull", "one,two", "--to", address, "--fetch", "auto"]
    with WeightsServer({f"/{each}": data for each, data in CONTENT.items()}) as authors:
        networks = small_networks(authors.url())
        monkeypatch.setattr(registry, "EXTRACTORS", MappingProxyType(networks))
        monkeypatch.setenv("OFFSHELF_FETCH_HOSTS", "127.0.0.1")
        monkeypatch.setenv("OFFSHELF_WEIGHTS", address)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert main(pull) == 0
        assert main(pull) == 0
        assert len(authors.requests) == 2
        assert capsys.readouterr().out.splitlines()[2:] == [
            f"{each}.h5 was there already, for {each}." for each in ("one", "two")
        ]
        assert list(tmp_path.rglob("*.h5*")) == []
        for each in ("one", "two"):
            assert read_weights(networks[each], address)[1] == CONTENT[f"{each}.h5"]
        recorded = open_mirror(address).ledger()
        assert {each: entry.sha256 for each, entry in recorded.items()} == {
            "two.h5": hashlib.sha256(CONTENT["two.h5"]).hexdigest()
        }
        assert main(["weights", "verify"]) == 0
        bucket.put("weights/one.h5", b"damaged")
        capsys.readouterr()
        assert main(["weights", "verify"]) == 1
        assert "BAD  one.h5 is not the file it should be" in capsys.readouterr().out
        assert main(pull) == 0
        assert len(authors.requests) == 3


@pytest.mark.usefixtures("environ")
def test_weights_are_verified_in_the_bucket_and_in_the_cache(
    s3_server: S3Server, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user is told of each place that a run may read a file from whether it has the right one."""
    networks = small_networks()
    monkeypatch.setattr(registry, "EXTRACTORS", MappingProxyType(networks))
    monkeypatch.setenv("OFFSHELF_WEIGHTS", f"s3://{name}/weights")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    bucket = Photos(s3_server, name, {"weights/one.h5": CONTENT["one.h5"], "weights/theirs": CONTENT["theirs"]})
    cache = tmp_path / "offshelf" / "weights"
    cache.mkdir(parents=True)
    (cache / "two.h5").write_bytes(CONTENT["two.h5"])

    def verified() -> tuple[int, list[str]]:
        capsys.readouterr()
        status = main(["weights", "verify"])
        return status, capsys.readouterr().out.splitlines()

    there, here = f"({open_mirror(f's3://{name}/weights').url})", f"({cache})"
    right = [f"ok   one.h5 {there}", f"ok   two.h5 {here}", f"ok   theirs {there}"]
    assert verified() == (0, right)
    assert read_ledger((cache / LEDGER).read_bytes()).keys() == {"two.h5"}
    assert open_mirror(f"s3://{name}/weights").ledger().keys() == {"theirs"}
    (cache / "one.h5").write_bytes(b"wrong")
    status, (first, second, *others) = verified()
    assert (status, first, others) == (1, right[0], right[1:])
    assert second.startswith("BAD  one.h5 is not the file it should be (SHA-256")
    assert second.endswith(here)
    bucket.put("weights/one.h5", b"wrong")
    (cache / "one.h5").write_bytes(CONTENT["one.h5"])
    status, (first, second, *_) = verified()
    assert (status, second) == (1, f"ok   one.h5 {here}")
    assert first.startswith("BAD  one.h5 is not the file it should be")
    assert first.endswith(there)


def test_a_network_is_fetched_from_a_bucket_of_data(s3_server: S3Server, name: str, environ: Mapping[str, str]) -> None:
    """With its description, from the installation's own server, and from nowhere but below buckets that are named."""
    data = bytes(range(256)) * 10_000
    Photos(s3_server, name, {"nets/a.onnx": data, "nets/a.json": b"{}", "else/a.onnx": b""})
    fetch = Fetcher(buckets=(f"s3://{name}/nets",), hosts=(), beside="/store")
    stop = threading.Event()
    address = f"s3://{name}/nets/a.onnx"
    assert environ
    with fetch(address, most=len(data)) as found:
        assert found.size == len(data)
        assert b"".join(found.read(stop=stop)) == data
    assert read_beside(fetch, address, most=10, stop=stop) == (f"s3://{name}/nets/a.json", b"{}")
    for refused, most, error, said in (
        (address, len(data) - 1, InvalidInput, "more than the 2559999 bytes"),
        (f"s3://{name}/nets/b.onnx", 10, NotFound, None),
        (f"s3://{name}/else/a.onnx", 10, PermissionDenied, None),
    ):
        with pytest.raises(error, match=said), fetch(refused, most=most):
            pass
