"""Where weights are looked for, and what is believed of what is found there."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from offshelf.errors import DataLoss, InvalidInput, NotFound, StoreDenied
from offshelf.extraction.conversion import network_of
from offshelf.extraction.spec import WeightsFile
from offshelf.extraction.weights.checking import LEDGER, Entry, read_ledger, write_ledger
from offshelf.extraction.weights.fetching import HOSTS, FetchPolicy
from offshelf.extraction.weights.finding import accepted, availability, read_weights
from offshelf.extraction.weights.folder import WeightsFolder, cache_folder
from offshelf.settings import Settings
from tests.unit.fakes import MemoryStore
from tests.unit.small_weights import CONTENT, small_networks

if TYPE_CHECKING:
    from pathlib import Path

NETWORKS = small_networks("https://storage.googleapis.com")
ONE, TWO, THEIRS = (accepted(NETWORKS[name])[0] for name in ("one", "two", "restricted"))


@pytest.fixture
def folder(tmp_path: Path) -> WeightsFolder:
    """A folder that holds all files."""
    for name, data in CONTENT.items():
        (tmp_path / name).write_bytes(data)
    return WeightsFolder(tmp_path)


def test_files_are_found_and_read_when_they_are_right(folder: WeightsFolder) -> None:
    """A file with its digest, whatever kind of digest its authors publish, is used."""
    for file in (ONE, TWO, THEIRS):
        entry = folder.find(file)
        assert entry is not None
        assert entry.size == len(CONTENT[file.name])
        assert folder.read(file) == CONTENT[file.name]
    assert folder.find(WeightsFile("absent", "sha256:" + "0" * 64)) is None
    assert folder.read(WeightsFile("absent", "sha256:" + "0" * 64)) is None


@pytest.mark.parametrize("file", [ONE, TWO, THEIRS], ids=lambda file: file.name)
def test_a_file_that_was_cut_off_is_refused_with_what_was_expected(folder: WeightsFolder, file: WeightsFile) -> None:
    """A truncated file is named, with what was expected and what was found, also if it was right a moment ago."""
    assert folder.find(file) is not None
    data = CONTENT[file.name][:-1]
    (folder.path / file.name).write_bytes(data)
    for look in (folder.find, folder.read):
        with pytest.raises(DataLoss, match=f"{file.name} is not the file it should be.*expected.*: replace it"):
            look(file)


def test_the_first_file_of_a_weak_digest_holds_from_then_on(folder: WeightsFolder) -> None:
    """Where authors publish md5, or nothing, another file with that is refused once the SHA-256 of one is recorded."""
    entry = folder.find(THEIRS)
    assert entry is not None
    folder.record({THEIRS.name: entry})
    assert folder.find(THEIRS) == entry
    (folder.path / THEIRS.name).write_bytes(b"x" * len(CONTENT[THEIRS.name]))
    with pytest.raises(DataLoss, match="theirs is not the file it should be \\(SHA-256"):
        folder.find(THEIRS)
    # A record about an earlier version of the registry says nothing about this one.
    folder.record({THEIRS.name: replace(entry, checked="size:7")})
    assert folder.find(THEIRS) is not None


def test_a_file_that_was_put_there_by_hand_is_vouched_for(folder: WeightsFolder) -> None:
    """`offshelf weights verify` records files of weak digests, and no others; later changes of them are noticed."""
    for file in (ONE, TWO, THEIRS):
        assert folder.vouch(file) is not None
    assert folder.ledger().keys() == {TWO.name, THEIRS.name}
    (folder.path / THEIRS.name).write_bytes(b"x" * len(CONTENT[THEIRS.name]))
    with pytest.raises(DataLoss, match="theirs is not the file it should be"):
        folder.vouch(THEIRS)


def test_records_of_several_files_are_kept_together(folder: WeightsFolder) -> None:
    """What one download records does not take away what another one did."""
    for file in (ONE, TWO):
        entry = folder.find(file)
        assert entry is not None
        folder.record({file.name: entry})
    assert folder.ledger().keys() == {ONE.name, TWO.name}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "files": {}}',
        b'{"version": 1, "files": {"a": {}}}',
        b'{"version": 1, "files": {"a": {"sha256": "x", "size": 1, "checked": "md5:0"}}}',
    ],
)
def test_a_damaged_record_is_no_record(tmp_path: Path, data: bytes) -> None:
    """A record that cannot be read keeps nobody from using files that have their registered digests."""
    assert read_ledger(data) == {}
    (tmp_path / LEDGER).write_bytes(data)
    (tmp_path / ONE.name).write_bytes(CONTENT[ONE.name])
    assert WeightsFolder(tmp_path).find(ONE) is not None


def test_a_record_reads_back() -> None:
    """What was recorded is found again."""
    ledger = {"b": Entry("1" * 64, 2, "md5:00"), "a": Entry("2" * 64, 3, "sha1:00")}
    assert read_ledger(write_ledger(ledger)) == ledger


def test_the_cache_lies_where_users_expect_it(tmp_path: Path) -> None:
    """Downloads go below XDG_CACHE_HOME or ~/.cache, and where there is no home to a folder of one's own in /tmp."""
    home, cache = tmp_path / "home", tmp_path / "cache"
    home.mkdir()
    cache.mkdir()
    assert cache_folder({"XDG_CACHE_HOME": str(cache), "HOME": str(home)}) == cache / "offshelf" / "weights"
    assert cache_folder({"XDG_CACHE_HOME": "relative", "HOME": str(home)}) == home / ".cache" / "offshelf" / "weights"
    for environ in ({}, {"HOME": "/proc/1"}, {"HOME": ""}):
        assert cache_folder(environ).name == f"offshelf-weights-{os.geteuid()}"
    assert list(home.iterdir()) == list(cache.iterdir()) == []


def test_somebody_elses_folder_among_temporary_files_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another user of the machine who makes our folder first gets no weights to exchange."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 4711)
    (tmp_path / "offshelf-weights-4711").mkdir()
    with pytest.raises(StoreDenied, match="belongs to somebody else: set OFFSHELF_WEIGHTS"):
        WeightsFolder(tmp_path / "offshelf-weights-4711").prepare()


def test_weights_that_were_pulled_into_the_cache_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without OFFSHELF_WEIGHTS, or with a mirror there, what was downloaded is used; with a folder, what is in that."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    cache = tmp_path / "offshelf" / "weights"
    cache.mkdir(parents=True)
    (cache / ONE.name).write_bytes(CONTENT[ONE.name])
    for weights in ("", "https://mirror.example.org/weights"):
        assert availability(NETWORKS["one"], weights) == ""
        assert read_weights(NETWORKS["one"], weights) == (ONE, CONTENT[ONE.name])
    assert "no such file" in availability(NETWORKS["one"], str(tmp_path))


def test_a_mirror_is_named_while_it_has_not_been_asked() -> None:
    """A catalogue asks no mirror on the web; it says that a run that names the network does."""
    settings = Settings(store="/s", weights="https://mirror.example.org/weights/", fetch="never")
    message = availability(NETWORKS["two"], settings.weights, FetchPolicy.of(settings))
    assert "the mirror that OFFSHELF_WEIGHTS names has not been asked for it yet" in message
    assert "a run that names it (-e two), downloads it (0.1 MB from mirror.example.org)" in message


def test_nobody_is_asked_where_nothing_is_fetched() -> None:
    """With fetch=never only a mirror that an operator named is a source; with auto the authors come after it."""
    files = accepted(NETWORKS["one"])

    def hosts(**settings: Any) -> list[str]:
        return [source.host for source in FetchPolicy.of(Settings(store="/s", **settings)).sources(files)]

    assert hosts(fetch="never") == []
    assert hosts() == ["storage.googleapis.com"]
    assert hosts(weights="/srv/weights") == ["storage.googleapis.com"]
    assert hosts(weights="https://Mirror.example.org/w", fetch="never") == ["mirror.example.org"]
    assert hosts(weights="https://mirror.example.org/w") == ["mirror.example.org", "storage.googleapis.com"]


def test_hosts_that_an_operator_adds_are_added() -> None:
    """Who allows a host for users' networks, or for a mirror's redirects, can still download weights from authors."""
    files = accepted(NETWORKS["one"])

    def hosts(**settings: Any) -> tuple[str, ...]:
        policy = FetchPolicy.of(Settings(store="/s", fetch_hosts=("files.example.org",), **settings))
        return next((source.hosts for source in policy.sources(files)), ())

    mirror = "https://mirror.example.org/w"
    assert hosts() == (*HOSTS, "files.example.org")
    assert hosts(fetch="never") == ()
    assert hosts(fetch="never", weights=mirror) == ("mirror.example.org", "files.example.org")
    assert hosts(weights=mirror) == ("mirror.example.org", *HOSTS, "files.example.org")


def test_nothing_is_kept_of_a_file_that_is_wrong(folder: WeightsFolder) -> None:
    """A file with another digest is neither parsed nor converted, and the store holds nothing of it."""
    (folder.path / ONE.name).write_bytes(CONTENT[ONE.name][:-1])
    store = MemoryStore()
    with pytest.raises(DataLoss, match=r"one\.h5 is not the file it should be"):
        network_of(NETWORKS["one"], store=store, weights=str(folder.path))
    with pytest.raises(NotFound, match="two, two"):
        network_of(replace(NETWORKS["two"], name="two, two"), store=store, weights=str(folder.path / "none"))
    assert store.objects == {}


def test_missing_weights_are_an_error_that_names_the_file() -> None:
    """Who needs a file that is not there and cannot be had is told which, where it was looked for, and the fix."""
    with pytest.raises(NotFound, match=r"theirs, and OFFSHELF_WEIGHTS is not set.*: put the file into a folder"):
        read_weights(NETWORKS["restricted"], "")
    with pytest.raises(InvalidInput, match="set it to a folder"):
        read_weights(NETWORKS["one"], "ftp://host/weights")
