"""Machines whose clocks differ: services as processes of their own, with certificates, over a real S3 server."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from socket import gethostname
from typing import TYPE_CHECKING

import pytest

from offshelf import certificates
from tests.integration.orchestrating import write_photos
from tests.integration.rclone_s3 import BUCKET, serve_s3
from tests.wrong_clock import build_wrong_clock, wrong_clock

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.integration.rclone_s3 import S3Server

pytestmark = pytest.mark.timeout(300)

TEN_MINUTES, TWENTY_MINUTES = 600, 1200
EXTRACTOR = "hsv444"
RUN = ("-e", EXTRACTOR, "-c", "LR,KNN", "--folds", 3)
SERVICES = {f"extractor-{EXTRACTOR}": "extractor", "trainer": "trainer", "stats": "stats"}


@dataclass(frozen=True)
class Machines:
    """What all services of a test share, and those that have a clock of their own."""

    folder: Path
    s3: S3Server
    token_file: Path
    clock: Path
    """What makes clocks wrong; see `wrong_clock`."""

    @contextmanager
    def service(self, module: str, name: str, store: str, ahead: int, *arguments: str) -> Iterator[str]:
        """Have a service running with its clock so many seconds ahead; yields its address."""
        own = {"TLS": str(self.folder / "certs" / name), "TOKEN_FILE": str(self.token_file), "EXTRACTOR": EXTRACTOR}
        environ = os.environ | self.s3.environ | wrong_clock(self.clock, ahead)
        own |= {"STORE": store, "CORES": "1", "DRAIN_SECONDS": "1"}
        environ |= {f"OFFSHELF_{key}": value for key, value in own.items()}
        log = self.folder / f"{name}.log"
        with (
            log.open("w") as written,
            subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                env=environ,
                stdout=subprocess.PIPE,
                stderr=written,
                text=True,
            ) as process,
        ):
            try:
                assert process.stdout is not None
                ready = json.loads(process.stdout.readline())
                assert ready["ready"], ready
                yield ready["address"]
            finally:
                process.terminate()
        assert abs(clock_of(log) - timedelta(seconds=ahead)) < timedelta(minutes=2)

    def offshelf(self, address: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run a command as a user whose clock is right."""
        own = {
            "SERVER": address,
            "TOKEN_FILE": self.token_file,
            "CA": self.folder / "certs" / "orchestrator" / "ca.crt",
        }
        return subprocess.run(
            [sys.executable, "-m", "offshelf.cli", *map(str, arguments)],
            env={**os.environ, **{f"OFFSHELF_{key}": str(value) for key, value in own.items()}},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def run(self, photos: Path, out: str, *, orchestrator: int, others: Mapping[str, int]) -> dict[str, bytes]:
        """Have services with such clocks do a run of their own; returns what users compare, by the name of the file."""
        store = self.s3.url(out)
        with ExitStack() as stack:
            replicas = [
                f"{role}="
                + stack.enter_context(self.service(f"offshelf.services.{name}", name, store, others.get(name, 0)))
                for role, name in SERVICES.items()
            ]
            address = stack.enter_context(
                self.service("tests.integration.fixed_fleet", "orchestrator", store, orchestrator, *replicas)
            )
            done = self.offshelf(address, "run", photos, *RUN, "-o", self.folder / out)
            assert done.returncode == 0, done.stdout + done.stderr
            assert "Left out" not in done.stderr
            listed = self.offshelf(address, "runs")
        assert re.search(r" succeeded .* (LR|KNN)", listed.stdout.splitlines()[-1])
        scores = self.s3.folder / BUCKET / out / "scores"
        found = {str(path.relative_to(scores)): path.read_bytes() for path in scores.rglob("*") if path.is_file()}
        assert found
        return found | {name: (self.folder / out / name).read_bytes() for name in ("scores.parquet", "table.csv")}


def clock_of(log: Path) -> timedelta:
    """Find out how far ahead the clock was of a process that has ended, by the last line of its log."""
    last = json.loads(log.read_text().splitlines()[-1])
    return datetime.fromisoformat(last["time"]) - datetime.fromtimestamp(log.stat().st_mtime, UTC)


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What makes clocks wrong."""
    return build_wrong_clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture
def machines(tmp_path: Path, token_file: Path, clock: Path) -> Iterator[Machines]:
    """Machines on which nothing runs yet, and an S3 server whose clock is right."""
    certificates.issue(tmp_path / "certs")
    (tmp_path / "s3").mkdir()
    with serve_s3(tmp_path / "s3") as s3:
        yield Machines(tmp_path, s3, token_file, clock)


@pytest.mark.nightly
def test_clocks_that_are_ten_minutes_off_change_nothing(machines: Machines, tmp_path: Path) -> None:
    """Runs on machines whose clocks are ten minutes off, in either direction, end with byte-equal scores."""
    run = partial(machines.run, write_photos(tmp_path / "photos"))
    right = run("right", orchestrator=0, others={})
    for out, ahead in (("ahead", TEN_MINUTES), ("behind", -TEN_MINUTES)):
        others = {"extractor": -ahead, "trainer": -ahead, "stats": 0}
        assert run(out, orchestrator=ahead, others=others) == right


@pytest.mark.parametrize("ahead", [TWENTY_MINUTES, -TWENTY_MINUTES])
def test_a_clock_too_far_from_that_of_the_store_is_named(machines: Machines, ahead: int) -> None:
    """Whoever has a machine whose clock is twenty minutes off reads that, and which machine it is, in one line."""
    environ = os.environ | machines.s3.environ | wrong_clock(machines.clock, ahead)
    own = {"STORE": machines.s3.url("x"), "TOKEN_FILE": str(machines.token_file), "EXTRACTOR": EXTRACTOR}
    environ |= {f"OFFSHELF_{key}": value for key, value in own.items()}
    command = [sys.executable, "-m", "offshelf.services.extractor"]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    (line,) = ended.stdout.splitlines()
    off = "ahead of" if ahead > 0 else "behind"
    said = rf"this machine's clock is 20 minutes {off} its own .*: set the clock of {re.escape(gethostname())}\."
    assert re.search(said, json.loads(line)["error"])
