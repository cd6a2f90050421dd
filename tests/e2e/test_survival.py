"""Whatever is killed, stopped or unplugged: nothing is lost, nothing is left running, nothing calls out."""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
from pyarrow import parquet

from tests.e2e.installation import FOLDS, Installation

if TYPE_CHECKING:
    from pathlib import Path

ARGUMENTS = ("-e", "hsv444,haralick", "-c", "RF,GB,LR", "--folds", FOLDS)
PAIRS = 2 * 36
SCORES = 2 * 3 * FOLDS

VICTIMS = {
    "the command line": r"offshelf\.cli",
    "the orchestrator": r"offshelf\.services\.orchestrator",
    "an extractor": r"offshelf\.services\.extractor",
    "the trainer": r"offshelf\.services\.trainer",
    "stats": r"offshelf\.services\.stats",
    "a worker": r"offshelf\.workers",
}


def find(installation: Installation, pattern: str) -> psutil.Process | None:
    """Find a process of this installation by its command line."""
    for process in installation.processes():
        try:
            if re.search(pattern, " ".join(process.cmdline())):
                return process
        except psutil.Error:
            continue
    return None


def wait_until_gone(installation: Installation, seconds: float = 30) -> None:
    """Wait until no process works on the store any more."""
    end = time.monotonic() + seconds
    while left := installation.processes():
        assert time.monotonic() < end, [" ".join(process.cmdline()) for process in left]
        psutil.wait_procs(left, timeout=0.5)


def finished(installation: Installation) -> tuple[int, int]:
    """Count what the store holds: finished folds, and images in finished segments."""
    segments = installation.store.glob("features/*/segments/*.parquet")
    images = sum(parquet.read_metadata(segment).num_rows for segment in segments)
    return len(list(installation.store.glob("scores/*/fold-*.parquet"))), images


def kill_one(installation: Installation, photos: Path, pattern: str, delay: float) -> bool:
    """Start a run, kill -9 one process of a kind some time after it appears, and tell whether there was one to kill."""
    run = installation.start("run", photos, *ARGUMENTS, "-o", "killed")
    killed = False
    while run.poll() is None and not killed:
        victim = find(installation, pattern)
        if victim is None:
            continue
        time.sleep(delay)  # the moment of the blow is what varies; nothing waits for a result here
        try:
            victim.kill()
            killed = True
        except psutil.NoSuchProcess:
            continue
    run.communicate(timeout=240)
    wait_until_gone(installation)
    return killed


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Scores of a run that nobody disturbed, filled by the first test that needs them."""
    del tmp_path_factory
    return {}


@pytest.mark.parametrize("victim", VICTIMS)
def test_a_run_survives_the_death_of_any_process(
    installation: Installation, photos: Path, undisturbed: dict[str, bytes], victim: str
) -> None:
    """After kill -9 of any process the same command ends with byte-equal scores and finds what was finished."""
    seed = random.SystemRandom().randrange(2**32)
    delay = random.Random(seed).uniform(0, 2.0)
    assert kill_one(installation, photos, VICTIMS[victim], delay), f"no {victim} to kill (seed {seed})"

    shutil.rmtree(installation.folder / "killed", ignore_errors=True)
    folds, images = finished(installation)
    installation.offshelf("run", photos, *ARGUMENTS, "-o", "out")
    scores = (installation.folder / "out" / "scores.parquet").read_bytes()
    if not undisturbed:
        other = {"OFFSHELF_STORE": str(installation.folder / "undisturbed")}
        installation.offshelf("run", photos, *ARGUMENTS, "-o", "undisturbed-out", environment=other)
        undisturbed["scores"] = (installation.folder / "undisturbed-out" / "scores.parquet").read_bytes()
    assert scores == undisturbed["scores"], f"seed {seed}"
    summary = installation.summary()
    assert (summary["images_reused"], summary["images_extracted"]) == (images, PAIRS - images)
    assert (summary["scores_reused"], summary["scores_computed"]) == (folds, SCORES - folds)
    assert installation.processes() == []


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_a_run_survives_one_death_after_another(installation: Installation, photos: Path) -> None:
    """However often something is killed, asking again gets there, with the scores of a run that nobody disturbed."""
    seed = random.SystemRandom().randrange(2**32)
    chance = random.Random(seed)
    killed = 0
    for number in range(20):
        shutil.rmtree(installation.folder / "killed", ignore_errors=True)
        # Another seed of the run now and then, so that there is always something left to do.
        arguments = (*ARGUMENTS, "--seed", str(number // 4))
        run = installation.start("run", photos, *arguments, "-o", "killed")
        end = time.monotonic() + chance.uniform(0.5, 8)
        while time.monotonic() < end and run.poll() is None:
            time.sleep(0.05)
        if there := sorted(installation.processes(), key=lambda process: process.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                chance.choice(there).kill()
                killed += 1
        run.communicate(timeout=240)
        wait_until_gone(installation)
    assert killed >= 10, f"only {killed} blows landed (seed {seed})"
    for number in range(5):
        installation.offshelf("run", photos, *ARGUMENTS, "--seed", number, "-o", f"out{number}")
        other = {"OFFSHELF_STORE": str(installation.folder / "undisturbed")}
        installation.offshelf("run", photos, *ARGUMENTS, "--seed", number, "-o", f"calm{number}", environment=other)
        survived, calm = (installation.folder / f"{name}{number}" / "scores.parquet" for name in ("out", "calm"))
        assert survived.read_bytes() == calm.read_bytes(), f"seed {seed}"


def test_damaged_features_are_extracted_again(installation: Installation, photos: Path) -> None:
    """What was truncated in the store is made again by the same command, with byte-equal scores."""
    short = {"OFFSHELF_UNIT_SECONDS": "0.05"}

    def damage() -> int:
        """Truncate a segment of each extractor and forget the scores; returns how many images they held."""
        shutil.rmtree(installation.store / "scores")
        lost = 0
        for folder in installation.store.glob("features/*/segments"):
            segments = sorted(folder.iterdir())
            assert len(segments) > 1
            lost += parquet.read_metadata(segments[0]).num_rows
            segments[0].write_bytes(segments[0].read_bytes()[:-1])
        return lost

    def run(out: str) -> bytes:
        installation.offshelf("run", photos, *ARGUMENTS, "-o", out, environment=short)
        return (installation.folder / out / "scores.parquet").read_bytes()

    undisturbed = run("undisturbed")
    lost = damage()
    assert run("table") == undisturbed
    assert installation.summary("table")["images_extracted"] == lost
    lost = damage()
    for tables in installation.store.glob("features/*/tables"):
        shutil.rmtree(tables)
    assert run("interrupted") == undisturbed
    summary = installation.summary("interrupted")
    assert (summary["images_extracted"], summary["images_reused"]) == (lost, PAIRS - lost)


def test_ctrl_c_stops_the_run_says_how_to_go_on_and_leaves_nothing(installation: Installation, photos: Path) -> None:
    """Ctrl-C ends the command with 130 after the run has stopped; the same command goes on from there."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # background jobs, as in CI, are born with it ignored
    run = installation.start("run", photos, *ARGUMENTS, "-o", "out")
    while finished(installation)[1] == 0:
        assert run.poll() is None, run.communicate()
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    output, errors = run.communicate(timeout=60)
    assert run.returncode == 130, errors
    assert "again" in (output + errors) or "resume" in (output + errors)
    wait_until_gone(installation, 5)
    assert not (installation.folder / "out").exists()
    installation.offshelf("run", photos, *ARGUMENTS, "-o", "out")
    assert installation.summary()["images_reused"] > 0


def test_every_service_drains_on_sigterm(installation: Installation, photos: Path) -> None:
    """SIGTERM ends each service by itself with exit code 0, and a server with all its children."""
    with installation.up():
        run = installation.start("run", photos, *ARGUMENTS, "-o", "out")
        while find(installation, VICTIMS["the trainer"]) is None:
            time.sleep(0.05)
    run.kill()
    run.communicate()
    wait_until_gone(installation, 5)


def test_a_run_with_local_weights_makes_no_connection(installation: Installation, photos: Path) -> None:
    """No packet leaves the machine: in a network of its own, not even an attempt is made to find a way out."""
    script = installation.folder / "offline.py"
    script.write_text(
        """
import fcntl, re, socket, struct, subprocess, sys
def no_route():
    lines = [line.split() for line in open("/proc/net/snmp") if line.startswith("Ip:")]
    tried = int(dict(zip(*lines))["OutNoRoutes"])
    six = [line.split()[1] for line in open("/proc/net/snmp6") if line.startswith("Ip6OutNoRoutes")]
    return tried + sum(map(int, six))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
    flags = fcntl.ioctl(s, 0x8913, struct.pack("16sh14x", b"lo", 0))
    fcntl.ioctl(s, 0x8914, struct.pack("16sh14x", b"lo", struct.unpack("16sh14x", flags)[1] | 1))
before = no_route()
with socket.socket() as s:
    try:
        s.connect(("192.0.2.1", 80))
    except OSError:
        pass
assert no_route() == before + 1, "the counter does not count"
code = subprocess.call(sys.argv[1:])
print("ATTEMPTS", no_route() - before - 1)
sys.exit(code)
"""
    )
    isolate = shutil.which("unshare")
    if isolate is None or subprocess.run([isolate, "--net", "--map-root-user", "true"], check=False).returncode:
        pytest.skip("this machine lets nobody make a network of its own (unshare)")
    command = [isolate, "--net", "--map-root-user", sys.executable, str(script), sys.executable, "-m", "offshelf.cli"]
    shown = subprocess.run(
        [*command, "run", str(photos), *map(str, ARGUMENTS), "-o", "out"],
        cwd=installation.folder,
        env=dict(installation.environment),
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert shown.returncode == 0, shown.stderr + installation.logs()
    assert "ATTEMPTS 0" in shown.stdout
