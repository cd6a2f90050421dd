"""Bundles: weights files in one tar, for machines that reach neither their authors nor each other.

The first member is ``manifest.json``, which lists the others in their order: names, sizes, digests, licences. The same
files make the same bundle, byte for byte.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import mkstemp
from typing import IO, TYPE_CHECKING, Any, Final

from offshelf.digests import is_digest
from offshelf.errors import DataLoss, InvalidInput, NotFound
from offshelf.extraction.weights.checking import Entry, verify
from offshelf.extraction.weights.downloads import LARGEST_BYTES
from offshelf.extraction.weights.parts import folder_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from offshelf.extraction.spec import Weights, WeightsFile
    from offshelf.extraction.weights.folder import WeightsFolder

MANIFEST: Final = "manifest.json"

_VERSION: Final = 1
_LARGEST_MANIFEST: Final = 1 << 20
_CHUNK: Final = 1 << 20
_READABLE: Final = 0o644


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a bundle, as the manifest lists it."""

    name: str
    size: int
    sha256: str
    digest: str
    """The registered one."""
    weights: str
    """What they are, for people."""
    licence: str
    restriction: str


def write_bundle(files: Iterable[tuple[Weights, WeightsFile]], folder: WeightsFolder, path: Path) -> list[Member]:
    """Write files of a folder into a bundle, which gets its name when it is whole.

    Raises
    ------
    NotFound
        If one of the files is not there.
    DataLoss
        If one is another file than registered.
    StoreFull, StoreDenied, Unavailable
        If the bundle cannot be written.
    """
    members, wanted = [], {file.name: (weights, file) for weights, file in files}
    for name in sorted(wanted):
        weights, file = wanted[name]
        entry = folder.find(file)
        if entry is None:
            raise NotFound(f"{name} is not in the folder of weights: pull it first.")
        members.append(
            Member(name, entry.size, entry.sha256, file.digest, weights.name, weights.licence, weights.restriction)
        )
    listed = {"version": _VERSION, "files": [asdict(member) for member in members]}
    manifest = (json.dumps(listed, indent=2) + "\n").encode()
    with folder_errors(path), ExitStack() as cleaning:
        descriptor, passing = mkstemp(dir=path.parent, prefix=f".{path.name}.")
        cleaning.callback(Path(passing).unlink, missing_ok=True)
        with (
            os.fdopen(descriptor, "wb") as target,
            tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as tar,
        ):
            tar.addfile(_header(MANIFEST, len(manifest)), io.BytesIO(manifest))
            for member in members:
                with (folder.path / member.name).open("rb") as source:
                    tar.addfile(_header(member.name, member.size), source)
        Path(passing).chmod(_READABLE)
        Path(passing).replace(path)
    return members


def read_bundle(path: Path, folder: WeightsFolder, known: Mapping[str, WeightsFile]) -> list[Member]:
    """Put the files of a bundle into a folder: all of them, or none.

    Nothing in a bundle is believed. A file gets its name, one that this version of Offshelf knows, after all files
    of the bundle were found to have the size and the SHA-256 of the manifest, and the registered digest.

    Parameters
    ----------
    path
        The bundle.
    folder
        Where its files go.
    known
        The files that may be in it, by name.

    Raises
    ------
    InvalidInput
        If it is no bundle, or holds what does not belong into one.
    DataLoss
        If a file is not what it should be.
    StoreFull, StoreDenied, Unavailable
        If the folder cannot be written to.
    """
    folder.prepare()
    with ExitStack() as cleaning:
        try:
            source = cleaning.enter_context(path.open("rb"))
            tar = cleaning.enter_context(tarfile.open(fileobj=source, mode="r:"))
            members, kept = _unpacked(tar, folder, known, cleaning)
        except tarfile.TarError as error:
            raise InvalidInput(f"{path} is no bundle of weights, or was cut off: {error}. Copy it again.") from error
        for member, written in zip(members, kept, strict=True):
            with folder_errors(folder.path / member.name):
                written.replace(folder.path / member.name)
    folder.record({member.name: Entry(member.sha256, member.size, known[member.name].digest) for member in members})
    return members


def _unpacked(
    tar: tarfile.TarFile, folder: WeightsFolder, known: Mapping[str, WeightsFile], cleaning: ExitStack
) -> tuple[list[Member], list[Path]]:
    """Write all files of a bundle under passing names, which `cleaning` takes away, and check them."""
    infos = _members(tar)
    first = next(infos, None)
    if first is None or first.name != MANIFEST or first.size > _LARGEST_MANIFEST:
        raise InvalidInput(f"This is no bundle of weights: it does not begin with {MANIFEST}.")
    members = _listed(_content(tar, first).read(), known)
    kept = []
    for member in members:
        info = next(infos, None)
        if info is None or (info.name, info.size) != (member.name, member.size):
            found = f"{info.name!r} of {info.size} bytes" if info else "nothing"
            raise InvalidInput(
                f"The bundle does not hold what its {MANIFEST} lists: {found} where {member.name} of {member.size} "
                "bytes should be."
            )
        with folder_errors(folder.path / member.name):
            descriptor, passing = mkstemp(dir=folder.path, prefix=f".{member.name}.")
        written = Path(passing)
        cleaning.callback(written.unlink, missing_ok=True)
        kept.append(written)
        with os.fdopen(descriptor, "wb") as target, folder_errors(folder.path / member.name):
            content = _content(tar, info)
            while chunk := content.read(_CHUNK):
                target.write(chunk)
            written.chmod(_READABLE)
        with written.open("rb") as stream:
            entry = verify(stream, known[member.name], folder.ledger())
        if entry.sha256 != member.sha256:
            raise DataLoss(f"{member.name} is not the file that the bundle's {MANIFEST} lists: copy the bundle again.")
    if (info := next(infos, None)) is not None:
        raise InvalidInput(f"The bundle holds {info.name!r}, which its {MANIFEST} does not list.")
    return members, kept


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    for info in tar:
        if not info.isreg() or info.issparse():
            raise InvalidInput(f"The bundle holds {info.name!r}, which is no plain file.")
        yield info


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo) -> IO[bytes]:
    content = tar.extractfile(info)
    if content is None:
        raise InvalidInput(f"The bundle holds {info.name!r}, which is no plain file.")
    return content


def _listed(data: bytes, known: Mapping[str, WeightsFile]) -> list[Member]:
    try:
        content: Any = json.loads(data)
        version = content["version"]
        members = [Member(**each) for each in content["files"]] if version == _VERSION else []
        sound = all(
            (type(each.name), type(each.size)) == (str, int) and each.size >= 0 and is_digest(str(each.sha256))
            for each in members
        )
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"The bundle's {MANIFEST} cannot be read: {error}.") from error
    if version != _VERSION:
        raise InvalidInput(
            f"The bundle has version {version}, of which this version of Offshelf knows nothing: update it."
        )
    if not sound or len({each.name for each in members}) < len(members):
        raise InvalidInput(f"The bundle's {MANIFEST} does not list files with a size and a SHA-256 each, once.")
    for member in members:
        if member.name not in known:
            raise InvalidInput(
                f"The bundle holds {member.name!r}, which this version of Offshelf does not know: update it, or make "
                "the bundle with this version."
            )
        most = known[member.name].size or LARGEST_BYTES
        if member.size > most:
            raise DataLoss(f"{member.name} is not the file it should be: {member.size} bytes, {most} expected at most.")
    return members


def _header(name: str, size: int) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, _READABLE
    return info
