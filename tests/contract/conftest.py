"""The stores that the contract suite runs on: a directory, and S3 for real, served by rclone on loopback."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from offshelf.store import ObjectStore, open_store
from tests.contract.fake_s3 import FakeServer
from tests.integration.rclone_s3 import S3Server, serve_s3

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Place:
    """Where a store can be opened, as often as a test likes."""

    url: str
    environ: Mapping[str, str] = field(default_factory=dict)

    def open(self, *, create: bool = True) -> ObjectStore:
        """Open the store that is there."""
        return open_store(self.url, create=create, environ=self.environ)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Serve an empty folder as S3."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Somewhere that holds no store yet."""
    if request.param == "directory":
        return Place(str(tmp_path / "store"))
    server: S3Server = request.getfixturevalue("s3_server")
    return Place(server.url(own_prefix(tmp_path)), server.environ)


def own_prefix(tmp_path: Path) -> str:
    """Name a prefix for one test: the folder that pytest made for it has a name that no other test has."""
    return f"{tmp_path.parent.name}/{tmp_path.name}"


@pytest.fixture
def store(place: Place) -> ObjectStore:
    """A new store."""
    return place.open()


@pytest.fixture
def fake() -> Iterator[FakeServer]:
    """A server whose answers a test prepares."""
    with FakeServer() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
