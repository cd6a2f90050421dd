"""The stores that the contract suite runs on: a directory, and S3 for real, served by rclone on loopback."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from offshelf.store import ObjectStore, open_store

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

ACCESS_KEY = "contract-access"
SECRET_KEY = "contract-secret-never-shown"
BUCKET = "contract"


@dataclass(frozen=True)
class Place:
    """Where a store can be opened, as often as a test likes."""

    url: str
    environ: Mapping[str, str] = field(default_factory=dict)

    def open(self, *, create: bool = True) -> ObjectStore:
        """Open the store that is there."""
        return open_store(self.url, create=create, environ=self.environ)


@dataclass(frozen=True)
class S3Server:
    """A running S3 server with one empty bucket."""

    address: str
    environ: Mapping[str, str]

    def url(self, prefix: str, bucket: str = BUCKET) -> str:
        """Address of a store under a prefix."""
        return f"s3://{bucket}/{prefix}?endpoint=http://{self.address}"


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """Serve an empty folder as S3 on a port of the kernel's choice."""
    folder = tmp_path_factory.mktemp("s3")
    (folder / BUCKET).mkdir()
    rclone = Path(sys.executable).with_name("rclone")
    environ = {**os.environ, "RCLONE_AUTH_KEY": f'"{ACCESS_KEY},{SECRET_KEY}"', "RCLONE_CONFIG": os.devnull}
    command = [str(rclone), "serve", "s3", "--addr", "127.0.0.1:0", str(folder)]
    with subprocess.Popen(command, env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            seen: list[str] = []
            for line in process.stderr:
                seen.append(line)
                if found := re.search(r"http://(127\.0\.0\.1:\d+)/", line):
                    keys = {"OFFSHELF_S3_ACCESS_KEY": ACCESS_KEY, "OFFSHELF_S3_SECRET_KEY": SECRET_KEY}
                    # Read on, or rclone would stop once the pipe is full.
                    rest = threading.Thread(target=process.stderr.read)
                    rest.start()
                    yield S3Server(found[1], keys)
                    process.terminate()
                    rest.join()
                    break
            else:
                pytest.fail("rclone did not start: " + "".join(seen))
        finally:
            process.terminate()


@pytest.fixture(params=["directory", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Somewhere that holds no store yet."""
    if request.param == "directory":
        return Place(str(tmp_path / "store"))
    server: S3Server = request.getfixturevalue("s3_server")
    # The folder pytest made for this test has a name that no other test has.
    return Place(server.url(f"{tmp_path.parent.name}/{tmp_path.name}"), server.environ)


@pytest.fixture
def store(place: Place) -> ObjectStore:
    """A new store."""
    return place.open()
