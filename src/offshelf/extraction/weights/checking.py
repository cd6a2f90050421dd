"""The check of a weights file before anything of it is parsed, and the record of files that had a weak digest only."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Protocol

from offshelf.digests import is_digest
from offshelf.errors import DataLoss

if TYPE_CHECKING:
    from collections.abc import Mapping

    from offshelf.extraction.spec import WeightsFile

logger = logging.getLogger(__name__)

LEDGER: Final = "weights.json"
"""Name of the record, beside the files."""

SIZE: Final = "size"
"""What stands for a digest where nobody has published one: see `WeightsFile.digest`."""

_WORDS: Final = {"sha256": "SHA-256", "sha384": "SHA-384", "sha1": "SHA-1", "md5": "MD5"}
_CHUNK: Final = 1 << 20
_SHOWN: Final = 12
_LEDGER_VERSION: Final = 1


class Readable(Protocol):
    """What can be read from, such as a file."""

    def read(self, size: int, /) -> bytes:
        """Give the next bytes; none at the end."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A file that was downloaded, as it was found."""

    sha256: str
    size: int
    """Bytes."""
    checked: str
    """The registered digest that it had."""

    def vouches_for(self, file: WeightsFile) -> bool:
        """Tell whether this is about the file as it is registered now, and not about an earlier one of its name."""
        return self.checked == file.digest


Ledger = dict[str, Entry]
"""Entries by the names of files."""


def is_weak(file: WeightsFile) -> bool:
    """Tell whether a file's registered digest alone does not say which bytes it has, so that they are recorded."""
    return not file.digest.startswith("sha256:")


def verify(stream: Readable, file: WeightsFile, ledger: Mapping[str, Entry] | None = None) -> Entry:
    """See that what a stream gives is a registered file, byte for byte.

    Parameters
    ----------
    stream
        Read to its end.
    file
        The file that it must be.
    ledger
        What is known besides: where authors publish no SHA-256, the one of the first download holds from then on.

    Returns
    -------
    Entry
        What was found.

    Raises
    ------
    DataLoss
        If it is not; the message names the file, the expected and the found digest.
    """
    algorithm, _, expected = file.digest.partition(":")
    own = hashlib.sha256()
    registered = own if algorithm in {"sha256", SIZE} else hashlib.new(algorithm, usedforsecurity=False)
    size = 0
    while chunk := stream.read(_CHUNK):
        own.update(chunk)
        if registered is not own:
            registered.update(chunk)
        size += len(chunk)
    if algorithm == SIZE and size != int(expected):
        raise DataLoss(
            f"{file.name} is not the file it should be: it has {size} bytes, and {expected} are expected: replace it."
        )
    if algorithm != SIZE and registered.hexdigest() != expected:
        raise _another(file, _WORDS[algorithm], registered.hexdigest(), expected)
    entry = (ledger or {}).get(file.name)
    if entry and entry.vouches_for(file) and entry.sha256 != own.hexdigest():
        raise _another(file, "SHA-256", own.hexdigest(), entry.sha256)
    return Entry(own.hexdigest(), size, file.digest)


def _another(file: WeightsFile, kind: str, found: str, expected: str) -> DataLoss:
    return DataLoss(
        f"{file.name} is not the file it should be ({kind} {found[:_SHOWN]}..., expected {expected[:_SHOWN]}...): "
        "replace it."
    )


def read_ledger(data: bytes) -> Ledger:
    """Parse a record; one that is damaged counts as empty, since it only adds to the registered digests."""
    try:
        content = json.loads(data)
        if content["version"] != _LEDGER_VERSION:
            return {}
        entries = {name: Entry(**entry) for name, entry in content["files"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        logger.warning("the record of weights is damaged, and is begun anew")
        return {}
    return {name: entry for name, entry in entries.items() if is_digest(str(entry.sha256))}


def write_ledger(ledger: Mapping[str, Entry]) -> bytes:
    """Serialize a record."""
    files = {name: asdict(ledger[name]) for name in sorted(ledger)}
    return (json.dumps({"version": _LEDGER_VERSION, "files": files}, indent=2) + "\n").encode()
