"""`offshelf weights`, against a web of our own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import pytest

from offshelf.cli import main
from offshelf.extraction import registry
from offshelf.extraction.registry.networks import NO_CLASSES
from offshelf.extraction.weights.checking import LEDGER
from tests.integration import weights_server as web
from tests.integration.weights_server import WeightsServer
from tests.unit.small_weights import CONTENT, RESTRICTION, small_networks

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WeightsServer]:
    """A site of authors, who publish the weights of two of three networks."""
    with WeightsServer({f"/{name}": data for name, data in CONTENT.items() if name != "theirs"}) as server:
        monkeypatch.setattr(registry, "EXTRACTORS", MappingProxyType(small_networks(server.url())))
        monkeypatch.setenv("OFFSHELF_FETCH", "auto")
        monkeypatch.setenv("OFFSHELF_FETCH_HOSTS", "127.0.0.1")
        monkeypatch.setenv("OFFSHELF_WEIGHTS", "")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        monkeypatch.chdir(tmp_path)
        yield server


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where downloads go by default."""
    return tmp_path / "cache" / "offshelf" / "weights"


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, str]:
    """List the state of files by name."""
    capsys.readouterr()
    assert main(["weights", "list", "--json", *arguments]) == 0
    return {row["file"]: row["state"] for row in json.loads(capsys.readouterr().out)["files"]}


def test_a_list_says_where_files_are_and_what_their_licences_forbid(
    server: WeightsServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user sees each file with its size, its licence and where it is; and nobody is asked for it."""
    assert listed(capsys) == {
        "one.h5": "downloadable",
        "one_classes.h5": "downloadable",
        "two.h5": "downloadable",
        "theirs": "missing",
    }
    assert set(listed(capsys, "--fetch", "never").values()) == {"missing"}
    cache.mkdir(parents=True)
    (cache / "one.h5").write_bytes(CONTENT["one.h5"])
    (cache / "two.h5").write_bytes(b"wrong")
    assert listed(capsys, "one", "two") == {"one.h5": "here", "two.h5": "wrong"}
    assert main(["weights", "list"]) == 0
    shown = capsys.readouterr().out
    assert "one:classes" in shown
    assert f"LICENCE: {RESTRICTION}" in shown
    assert "two.h5 is not the file it should be (MD5" in shown
    remarks = [line for line in shown.splitlines() if line.strip() == NO_CLASSES]
    assert len(remarks) == 2  # of "two" and "restricted"
    assert server.requests == []


def test_pull_brings_what_was_named_and_no_more(
    server: WeightsServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pulled network is there, its classes when they are named; a second pull downloads nothing."""
    assert main(["weights", "pull", "one:classes", "two", "two:max", "two:bf16"]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "one_classes.h5 is there now, for one:classes."
    assert shown[2:] == [f"two.h5 was there already, for {name}." for name in ("two:max", "two:bf16")]
    assert {path.name for path in cache.iterdir()} == {"one_classes.h5", "two.h5", LEDGER}
    asked = len(server.requests)
    assert main(["weights", "pull", "one:classes", "two"]) == 0
    assert len(server.requests) == asked == 2
    assert main(["weights", "verify"]) == 0
    assert sorted(capsys.readouterr().out.splitlines()[-2:]) == ["ok   one_classes.h5", "ok   two.h5"]


def test_pull_all_leaves_out_what_is_restricted(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All that may be used by everybody comes; what may not is for who names it, and is told first."""
    assert main(["weights", "pull", "--all", "--to", str(cache)]) == 0
    assert {path.name for path in cache.iterdir()} == {"one.h5", "two.h5", LEDGER}
    capsys.readouterr()
    assert main(["weights", "pull", "restricted"]) == 1
    told = capsys.readouterr().err.splitlines()
    assert told[0] == f"Licence: {RESTRICTION}"
    assert told[1].startswith("Error: restricted: restricted needs its weights, theirs, and ")


def test_one_that_cannot_be_had_does_not_keep_the_others(
    server: WeightsServer, cache: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The rest is pulled, the reason is told, and the exit status is 1."""
    server.script.append(web.corrupt)
    assert main(["weights", "pull", "one", "two"]) == 1
    captured = capsys.readouterr()
    assert "Error: one: one.h5 is not the file it should be" in captured.err
    assert captured.out == "two.h5 is there now, for two.\n"
    assert {path.name for path in cache.iterdir()} == {"two.h5", LEDGER}


def test_nothing_is_pulled_where_nothing_may_be_fetched(
    server: WeightsServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --fetch never authors are not asked, and the message names the file and the fix."""
    assert main(["weights", "pull", "two", "--fetch", "never"]) == 1
    assert "two needs its weights, two.h5, and OFFSHELF_WEIGHTS is not set" in capsys.readouterr().err
    assert server.requests == []


@pytest.mark.parametrize("arguments", [[], ["one", "--all"], ["hog"], ["onee"]])
def test_wrong_usage_is_told(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Who names nothing, too much, or what is no network, is told so."""
    assert main(["weights", "pull", *arguments]) == 2
    assert "Error: " in capsys.readouterr().err


def test_verify_names_the_bad_file(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that has changed on the disk is named, and the exit status is 1; pulling mends it."""
    assert main(["weights", "verify"]) == 0
    assert capsys.readouterr().out == "There are no files of weights.\n"
    assert main(["weights", "pull", "one", "two"]) == 0
    (cache / "one.h5").write_bytes(b"x" + CONTENT["one.h5"][1:])
    capsys.readouterr()
    assert main(["weights", "verify"]) == 1
    assert capsys.readouterr().out.splitlines()[0].startswith("BAD  one.h5 is not the file it should be (SHA-256")
    assert main(["weights", "pull", "one"]) == 0
    assert main(["weights", "verify"]) == 0


def test_a_bundle_goes_to_a_site_without_a_network(
    server: WeightsServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is bundled here is imported there, without asking anybody; nothing is left of a bundle that is damaged."""
    assert main(["weights", "bundle", "one", "two", "-o", "weights.tar"]) == 0
    assert capsys.readouterr().out == "weights.tar holds one.h5, two.h5 (0.1 MB).\n"
    asked = len(server.requests)
    assert main(["weights", "import", "weights.tar", "--to", "there"]) == 0
    assert listed(capsys, "one", "two", "--in", "there") == {"one.h5": "here", "two.h5": "here"}
    data = bytearray(Path("weights.tar").read_bytes())
    data[60_000] ^= 1
    Path("weights.tar").write_bytes(data)
    assert main(["weights", "import", "weights.tar", "--to", "elsewhere"]) == 1
    assert "one.h5 is not the file it should be" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []
    assert len(server.requests) == asked


def test_a_mirror_is_pulled_from(server: WeightsServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OFFSHELF_WEIGHTS=https://… is asked even where authors are not: its operator has named it."""
    server.files = {f"/mirror/{name}": data for name, data in CONTENT.items()}
    monkeypatch.setenv("OFFSHELF_WEIGHTS", server.url("/mirror/"))
    monkeypatch.setenv("OFFSHELF_FETCH", "never")
    assert main(["weights", "pull", "one", "restricted"]) == 0
    assert [path for path, _ in server.requests] == ["/mirror/one.h5", "/mirror/theirs"]
    assert {path.name for path in cache.iterdir()} == {"one.h5", "theirs", LEDGER}


PULL = """
import sys
from types import MappingProxyType
from offshelf.extraction import registry
from tests.unit.small_weights import small_networks
registry.EXTRACTORS = MappingProxyType(small_networks(sys.argv[1]))
from offshelf.cli import main
sys.exit(main(["weights", "pull", "one"]))
"""


def test_ctrl_c_keeps_what_has_come(server: WeightsServer, cache: Path) -> None:
    """A user who stops a download is told that the same command goes on, and it does."""
    server.script.append(web.stall(70_000))
    root = Path(__file__).parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PULL, server.url()], stderr=subprocess.PIPE, text=True, cwd=root, env=os.environ
    )
    part = cache / "one.h5.part"
    while not (part.exists() and part.stat().st_size == 70_000):
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, told = process.communicate()
    assert process.returncode == 130
    assert "What has come is kept: the same command goes on from there." in told
    assert main(["weights", "pull", "one"]) == 0
    assert server.requests[-1][1]["range"] == "bytes=70000-"


LIGHT = """
import sys
for name in ("numpy", "PIL", "pyarrow", "minio", "h5py", "keras", "openvino", "skimage", "prometheus_client"):
    sys.modules[name] = None
from offshelf.cli import main
sys.exit(main(["weights", *sys.argv[1:]]))
"""


def test_weights_need_no_extra(tmp_path: Path) -> None:
    """Who has installed the command line alone, without numpy or an S3 client, can look after weights."""

    def light(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", LIGHT, *arguments], capture_output=True, text=True, check=False)

    shown = light("list")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "googlenet_bvlc.npz" in shown.stdout
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "googlenet_bvlc.npz").write_bytes(b"x")
    shown = light("verify", "--in", "weights")
    assert (shown.returncode, shown.stderr) == (1, "")
    for arguments in (
        ["bundle", "googlenet", "-o", "w.tar", "--fetch", "never"],
        ["import", "weights/googlenet_bvlc.npz"],
    ):
        shown = light(*arguments)
        assert shown.returncode == 2
        assert shown.stderr.startswith("Error: ")
        assert "defect" not in shown.stderr
