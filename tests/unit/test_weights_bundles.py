"""Bundles of weights: what goes in comes out, and nothing else does."""

from __future__ import annotations

import io
import json
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from offshelf.errors import DataLoss, InvalidInput, NotFound, OffshelfError
from offshelf.extraction.weights.bundles import MANIFEST, read_bundle, write_bundle
from offshelf.extraction.weights.checking import LEDGER
from offshelf.extraction.weights.finding import accepted
from offshelf.extraction.weights.folder import WeightsFolder
from offshelf.extraction.weights.stock import weights_of
from tests.unit.small_weights import CONTENT, RESTRICTION, small_networks

if TYPE_CHECKING:
    from pathlib import Path

NETWORKS = small_networks()
FILES = [(weights_of(spec), accepted(spec)[0]) for spec in NETWORKS.values()]
KNOWN = {file.name: file for _, file in FILES}


@pytest.fixture
def folder(tmp_path: Path) -> WeightsFolder:
    """A folder that holds the files."""
    (tmp_path / "weights").mkdir()
    for name in KNOWN:
        (tmp_path / "weights" / name).write_bytes(CONTENT[name])
    return WeightsFolder(tmp_path / "weights")


@pytest.fixture
def bundle(folder: WeightsFolder, tmp_path: Path) -> Path:
    """A bundle of all of them."""
    write_bundle(FILES, folder, tmp_path / "weights.tar")
    return tmp_path / "weights.tar"


def test_a_bundle_brings_all_files_to_another_machine(bundle: Path, tmp_path: Path) -> None:
    """What is bundled here is imported there: the same files, their licences, and what is known of their digests."""
    there = WeightsFolder(tmp_path / "new" / "there")
    members = read_bundle(bundle, there, KNOWN)
    assert {member.name for member in members} == KNOWN.keys()
    assert {member.restriction for member in members} == {"", RESTRICTION}
    for file in KNOWN.values():
        assert there.read(file) == CONTENT[file.name]
    assert there.ledger().keys() == KNOWN.keys()
    assert {path.name for path in there.path.iterdir()} == {*KNOWN, LEDGER}
    read_bundle(bundle, there, KNOWN)  # again changes nothing
    assert {path.name for path in there.path.iterdir()} == {*KNOWN, LEDGER}


def test_the_same_files_make_the_same_bundle(bundle: Path, folder: WeightsFolder, tmp_path: Path) -> None:
    """Two bundles can be compared by their digest, whenever and by whomever they were made."""
    write_bundle([*reversed(FILES), FILES[0]], folder, tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == bundle.read_bytes()


@pytest.mark.parametrize("change", ["missing", "wrong"])
def test_a_bundle_is_whole_or_not_made(folder: WeightsFolder, tmp_path: Path, change: str) -> None:
    """Where a file is missing or wrong, there is no bundle, and an earlier one of that name stays."""
    target = tmp_path / "weights.tar"
    target.write_bytes(b"earlier")
    path = folder.path / "one.h5"
    path.unlink() if change == "missing" else path.write_bytes(b"x")
    with pytest.raises(NotFound if change == "missing" else DataLoss, match=r"one\.h5"):
        write_bundle(FILES, folder, target)
    assert target.read_bytes() == b"earlier"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["weights", "weights.tar"]


def remade(bundle: Path, change: Any) -> None:
    """Write a bundle again, with its members and its manifest changed by a function."""
    with tarfile.open(bundle) as tar:
        members = [(info, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    manifest = json.loads(members[0][1])
    members = change(manifest, members) or members
    data = json.dumps(manifest).encode()
    members[0][0].size = len(data)
    members[0] = (members[0][0], data)
    with tarfile.open(bundle, "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))


def plain(name: str, content: bytes) -> tuple[tarfile.TarInfo, bytes]:
    """Make a member."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, content


def linked(name: str, to: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    """Make a member that is a link."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, to
    return info, b""


def named(name: str) -> Any:
    """Call the first file something else, in the manifest and in the tar."""

    def change(manifest: Any, members: Any) -> None:
        manifest["files"][0]["name"] = members[1][0].name = name

    return change


def altered(index: int, **fields: Any) -> Any:
    """Write something else about a file into the manifest."""
    return lambda manifest, _members: manifest["files"][index].update(fields)


HOSTILE = {
    "a path upwards": named("../../one.h5"),
    "an absolute path": named("/tmp/one.h5"),  # noqa: S108
    "another name": named("weights.json"),
    "no string": altered(0, name=7),
    "a link": lambda _manifest, members: [*members[:1], linked("one.h5", "/etc/passwd"), *members[2:]],
    "a hard link": lambda _manifest, members: [members[0], linked("one.h5", "two.h5", tarfile.LNKTYPE), *members[2:]],
    "a device": lambda _manifest, members: [members[0], linked("one.h5", "", tarfile.CHRTYPE), *members[2:]],
    "a folder": lambda _manifest, members: [members[0], linked("one.h5", "", tarfile.DIRTYPE), *members[2:]],
    "a file too many": lambda _manifest, members: [*members, plain("more", b"x")],
    "a file too few": lambda _manifest, members: members[:-1],
    "other bytes": lambda _manifest, members: [members[0], plain("one.h5", b"x" * 100_000), *members[2:]],
    "other bytes of the same weak digest": lambda _manifest, members: [
        *members[:2],
        plain("theirs", b"x" * 4000),
        *members[3:],
    ],
    "more bytes": lambda _manifest, members: [members[0], plain("one.h5", b"1" * 100_001), *members[2:]],
    "a size that is larger": altered(0, size=10**12),
    "a size that is negative": altered(0, size=-1),
    "a size that is no number": altered(0, size="many"),
    "no digest": altered(0, sha256="x"),
    "a field too many": altered(0, more=1),
    "another version": lambda manifest, _members: manifest.update(version=2),
    "a file twice": lambda manifest, members: (manifest["files"].append(manifest["files"][0]), members)[1],
    "no manifest": lambda _manifest, members: [plain("one.h5", CONTENT["one.h5"]), *members[2:]],
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_bundle_that_is_not_what_it_says_leaves_nothing(bundle: Path, tmp_path: Path, change: Any) -> None:
    """A bundle from a stranger writes no file that it should not, and none at all if one thing in it is wrong."""
    remade(bundle, change)
    there = WeightsFolder(tmp_path / "there")
    with pytest.raises((InvalidInput, DataLoss)) as caught:
        read_bundle(bundle, there, KNOWN)
    assert caught.value.message.endswith(".")
    assert list(there.path.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["there", "weights", "weights.tar"]


@pytest.mark.parametrize("data", [b"", b"no tar", b"\0" * 10240, bytes(range(256)) * 100])
def test_what_is_no_tar_is_refused(tmp_path: Path, data: bytes) -> None:
    """Any other file is refused with a line for people."""
    (tmp_path / "bundle").write_bytes(data)
    with pytest.raises(InvalidInput, match="no bundle of weights"):
        read_bundle(tmp_path / "bundle", WeightsFolder(tmp_path / "there"), KNOWN)


def test_a_bundle_that_was_cut_off_leaves_nothing(bundle: Path, tmp_path: Path) -> None:
    """Wherever the copying of a bundle ended, nothing of it is kept."""
    data = bundle.read_bytes()
    there = WeightsFolder(tmp_path / "there")
    for length in (100, 512, 1200, 5000, 60_000, len(CONTENT["one.h5"]) + 3000):
        bundle.write_bytes(data[:length])
        with pytest.raises(OffshelfError):
            read_bundle(bundle, there, KNOWN)
        assert list(there.path.iterdir()) == []


def test_the_name_of_the_manifest_is_what_it_begins_with(bundle: Path) -> None:
    """Whoever looks into a bundle with tar finds what is in it at once."""
    with tarfile.open(bundle) as tar:
        assert tar.getnames() == [MANIFEST, *sorted(KNOWN)]
