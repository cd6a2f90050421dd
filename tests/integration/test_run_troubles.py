"""What keeps a run from getting on, as its user reads it: with a real S3 server, real replicas and certificates."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from socket import gethostname
from threading import Thread
from typing import TYPE_CHECKING

import grpc
import pytest

from offshelf import certificates
from offshelf.rpc.channel import open_channel
from offshelf.services.orchestrator.fleet.replicas import Role
from offshelf.settings import Settings
from tests.contract.fake_s3 import FakeServer, refusal
from tests.integration.fixed_fleet import FixedFleet
from tests.integration.orchestrating import QUICK, local_fleet, offshelf, orchestrating, started, write_photos
from tests.integration.rclone_s3 import BUCKET, serve_s3
from tests.integration.stand_ins import StandIn, call, served, service

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.integration.rclone_s3 import S3Server

pytestmark = pytest.mark.timeout(120)

HERE = re.escape(gethostname())
HSV = Role("extractor", "hsv444")


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real server of S3."""
    with serve_s3(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest.fixture
def wrong_clock() -> Iterator[str]:
    """Address of a server that refuses as S3 does when the clock of whoever asks is 20 minutes ahead."""
    with FakeServer() as fake:
        headers = {"Date": format_datetime(datetime.now(UTC) - timedelta(minutes=20))}
        fake.answers = [(403, headers, refusal("RequestTimeTooSkewed"))]
        thread = Thread(target=fake.serve_forever, args=(0.01,))
        thread.start()
        yield f"127.0.0.1:{fake.server_port}"
        fake.shutdown()
        thread.join()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A small dataset."""
    return write_photos(tmp_path / "photos")


def dated(certs: Path, folder: Path, made: datetime) -> Path:
    """Make certificates at another time, which those know who know the ones in `certs`."""
    shutil.copytree(certs / "ca", folder / "ca")
    certificates.issue(folder, now=made)
    for each in certificates.SERVICES:
        shutil.copy(certs / each / "ca.crt", folder / each)
    return folder


@asynccontextmanager
async def showing(folder: Path, *, clients_too: bool) -> AsyncIterator[str]:
    """Show a certificate with gRPC's own server, since ours does not start with one that is not valid."""
    server = grpc.aio.server()
    pair = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes())
    authority = (folder / "ca.crt").read_bytes()
    port = server.add_secure_port(
        "127.0.0.1:0", grpc.ssl_server_credentials([pair], authority, require_client_auth=clients_too)
    )
    await server.start()
    yield f"127.0.0.1:{port}"
    await server.stop(None)


EXPIRED = -timedelta(days=365, minutes=10)
EARLY = timedelta(hours=1, minutes=10)


def store_that_refuses(why: str, s3: S3Server, wrong_clock: str) -> tuple[str, str]:
    """Give the address of a store that refuses, and what has to be said of it."""
    if why == "clock":
        said = (
            rf"refuses requests since this machine's clock is 20 minutes ahead of its own .*: set the clock of {HERE}"
        )
        return f"s3://{BUCKET}/x?endpoint=http://{wrong_clock}", said
    return s3.url(
        "x", "nowhere"
    ), r"has no bucket 'nowhere': correct the address, or create it \(aws s3 mb s3://nowhere"


@pytest.mark.parametrize("service", ["orchestrator", "extractor"])
@pytest.mark.parametrize("why", ["clock", "bucket"])
def test_a_service_whose_store_refuses_ends_and_says_why(
    why: str, service: str, s3: S3Server, wrong_clock: str, token_file: Path
) -> None:
    """Whoever installs Offshelf with a wrong clock or without a bucket reads the reason where the pod ended."""
    url, said = store_that_refuses(why, s3, wrong_clock)
    own = {"STORE": url, "EXTRACTOR": "hsv444", "TOKEN_FILE": str(token_file), "FLEET": "kubernetes"}
    environ = {**os.environ, **s3.environ, **{f"OFFSHELF_{name}": value for name, value in own.items()}}
    command = [sys.executable, "-m", f"offshelf.services.{service}"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    (line,) = ended.stdout.splitlines()
    assert json.loads(line)["kind"] == "StoreDenied"
    assert re.search(said, json.loads(line)["error"])


@pytest.mark.parametrize("why", ["clock", "bucket"])
async def test_a_replica_whose_store_refuses_fails_the_run_with_the_reason(
    why: str, tmp_path: Path, s3: S3Server, wrong_clock: str, token_file: Path, photos: Path
) -> None:
    """A node with a wrong clock, or an extractor with another address of the store, is one line of the run's status."""
    url, said = store_that_refuses(why, s3, wrong_clock)
    async with orchestrating(tmp_path, s3, token_file, local_fleet(tmp_path, s3, token_file, url)) as address:
        code, shown = await offshelf(address, token_file, "run", photos, *QUICK, "-o", tmp_path / "out")
        assert code == 1
        assert re.search(f"^Error: The run failed: .*{said}", shown.splitlines()[-1])
        code, shown = await offshelf(address, token_file, "runs")
    assert code == 0
    assert re.search(f"failed .*{said}", shown.splitlines()[-1])


@pytest.mark.parametrize(
    ("whose", "made", "said"),
    [
        ("extractor", EXPIRED, r"The certificate of the server at 127\S+ has expired. Whoever .* offshelf certs"),
        ("extractor", EARLY, r"The certificate of the server at 127\S+ is not valid yet: set the clock"),
        ("orchestrator", EXPIRED, rf"The certificate \S+/orchestrator/tls.crt of {HERE} expired on .*: offshelf certs"),
        ("orchestrator", EARLY, rf"The certificate \S+ of {HERE} is not valid before .* Set the clock of {HERE}"),
    ],
)
async def test_a_certificate_that_is_not_valid_is_a_notice_of_the_run(
    whose: str, made: timedelta, said: str, tmp_path: Path, s3: S3Server, token_file: Path, photos: Path
) -> None:
    """A certificate of either side that ran out, or clocks that are off, are one line of `offshelf runs`."""
    certificates.issue(tmp_path / "certs")
    folders = {name: tmp_path / "certs" / name for name in ("extractor", "orchestrator")}
    folders[whose] = dated(tmp_path / "certs", tmp_path / "dated", datetime.now(UTC) + made) / whose
    async with showing(folders["extractor"], clients_too=True) as extractor:
        fleet, ours = FixedFleet({HSV: extractor}), folders["orchestrator"]
        async with (
            orchestrating(tmp_path, s3, token_file, fleet, tls=ours) as address,
            started(address, token_file, "run", photos, *QUICK, "-o", tmp_path / "out"),
        ):
            shown = ""
            while not re.search(f"running .*extractor-hsv444 cannot be reached: {said}", shown):
                _, shown = await offshelf(address, token_file, "runs")
                assert "failed" not in shown
            assert len(shown.splitlines()) == 2


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (EXPIRED, rf"has expired. Whoever runs it makes a new one: offshelf certs. .*check the clock of {HERE}\."),
        (EARLY, rf"is not valid yet: set the clock of {HERE}, or of the machine that made it\."),
    ],
)
@pytest.mark.parametrize("arguments", [("runs",), ("run", "photos", "-o", "out")], ids=["runs", "run"])
async def test_a_door_whose_certificate_is_not_valid_is_said_at_once(
    arguments: tuple[str, ...], made: timedelta, said: str, tmp_path: Path, token_file: Path, photos: Path
) -> None:
    """A user whose server's certificate ran out, or whose clock is off, reads one line and waits for nothing."""
    certificates.issue(tmp_path / "certs")
    folder = dated(tmp_path / "certs", tmp_path / "dated", datetime.now(UTC) + made) / "orchestrator"
    places = {"photos": str(photos), "out": str(tmp_path / "out")}  # not in the checkout, where a user has made one
    arguments = tuple(places.get(each, each) for each in arguments)
    async with showing(folder, clients_too=False) as address:
        ca = str(tmp_path / "certs" / "orchestrator" / "ca.crt")
        code, shown = await offshelf(address, token_file, *arguments, OFFSHELF_CA=ca)
    assert code == 2
    assert re.fullmatch(rf"Error: The certificate of the server at {address} {said}\n", shown)


async def test_ten_minutes_are_no_trouble(tmp_path: Path) -> None:
    """Certificates that were made by a clock ten minutes ahead of ours are taken at once."""
    certificates.issue(tmp_path / "certs", now=datetime.now(UTC) + timedelta(minutes=10))
    settings = Settings(store=str(tmp_path / "store"), tls=tmp_path / "certs" / "trainer")
    async with (
        served(StandIn("TrainerService"), settings) as server,
        open_channel(server.address, tls=tmp_path / "certs" / "orchestrator", server_name="trainer") as channel,
    ):
        await call(channel, service("TrainerService").methods_by_name["Fit"])
