"""Pretrained weights: where they are looked for, and the check before anything of them is parsed.

They come from a folder, or from a bucket of the installation (`offshelf.extraction.weights.mirror`).
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf.errors import DataLoss, InvalidInput, NotFound, StoreDenied
from offshelf.extraction.spec import CONVERTER_VERSION, REMOTE_ENGINE, Network, fingerprint
from offshelf.extraction.weights.mirror import open_mirror
from offshelf.store import keys
from offshelf.store.addresses import is_s3

if TYPE_CHECKING:
    from offshelf.extraction.spec import ExtractorSpec, WeightsFile
    from offshelf.store.objects import ObjectStore

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def availability(spec: ExtractorSpec, weights: str, fetch: str = "auto", *, store: ObjectStore | None = None) -> str:
    """Tell whether an extractor can be used here.

    Parameters
    ----------
    spec
        The extractor.
    weights
        Folder that weights files are in, or "s3://bucket/prefix"; "" for none (`Settings.weights`).
    fetch
        `Settings.fetch`; with "auto" the answer names where a file is published, if it is.
    store
        If given, a network that was converted before counts as available without its weights.

    Returns
    -------
    str
        Empty if it can be used, as one on a remote engine always can, which needs no weights here; else why not and
        what to do, in one line. A folder's file is read and checked, a bucket's only looked up.

    Raises
    ------
    StoreUnavailable
        If the store, or the bucket with the weights, cannot be reached at the moment.
    """
    if not isinstance(spec.method, Network) or spec.method.engine == REMOTE_ENGINE:
        return ""
    if store is not None and store.stat(keys.network(fingerprint(spec), CONVERTER_VERSION, "network.json")):
        return ""
    try:
        if not is_s3(weights):
            _locate(spec, weights, fetch)
        elif not any(open_mirror(weights).has(file.name) for file in spec.method.taken_weights.files):
            raise _not_in_bucket(spec, fetch)
    except (NotFound, InvalidInput, DataLoss, StoreDenied) as error:
        return error.message
    return ""


def read_weights(spec: ExtractorSpec, weights: str, fetch: str = "auto") -> tuple[WeightsFile, bytes]:
    """Read a network's weights file whole, with the digest it must have.

    Returns
    -------
    tuple
        Which of the accepted files it is, and its bytes.

    Raises
    ------
    NotFound
        If there is no such file where weights are looked for.
    InvalidInput
        If `weights` is neither a folder nor the address of a bucket.
    DataLoss
        If the file is another one than registered.
    StoreDenied, StoreUnavailable
        If a bucket refuses, or cannot be reached.
    """
    if is_s3(weights):
        return _read_from_bucket(spec, weights, fetch)
    path, file = _locate(spec, weights, fetch)
    data = path.read_bytes()
    _check(spec, file, io.BytesIO(data))
    return file, data


def _locate(spec: ExtractorSpec, weights: str, fetch: str) -> tuple[Path, WeightsFile]:
    """Find the first accepted file that is there and has its digest."""
    files = _accepted(spec)
    names = _names(files)
    if _ADDRESS.match(weights):
        raise InvalidInput(
            f"{spec.name} needs its weights, {names}, and OFFSHELF_WEIGHTS is an address that this version cannot "
            "read from: put the file into a folder or a bucket and set OFFSHELF_WEIGHTS to that folder or "
            "s3://bucket/prefix."
        )
    if not weights:
        raise NotFound(
            f"{spec.name} needs its weights, {names}: put the file into a folder and set OFFSHELF_WEIGHTS to it."
            + _published(files, fetch)
        )
    refusal: DataLoss | None = None
    for file in files:
        path = Path(weights) / file.name
        try:
            with path.open("rb") as stream:
                _check(spec, file, stream)
        except OSError:
            continue
        except DataLoss as error:
            refusal = error
        else:
            return path, file
    raise refusal or NotFound(
        f"{spec.name} needs its weights, {names}, and the folder that OFFSHELF_WEIGHTS names has no such file that can "
        f"be read: put it there.{_published(files, fetch)}"
    )


def _read_from_bucket(spec: ExtractorSpec, address: str, fetch: str) -> tuple[WeightsFile, bytes]:
    """Read the first accepted file that is there and has its digest."""
    mirror = open_mirror(address)
    refusal: DataLoss | None = None
    for file in _accepted(spec):
        try:
            data = mirror.read(file.name)
            _check(spec, file, io.BytesIO(data))
        except NotFound:
            continue
        except DataLoss as error:
            refusal = error
        else:
            return file, data
    raise refusal or _not_in_bucket(spec, fetch)


def _accepted(spec: ExtractorSpec) -> tuple[WeightsFile, ...]:
    if not isinstance(spec.method, Network):
        raise InvalidInput(f"{spec.name} has no weights.")
    return spec.method.taken_weights.files


def _names(files: tuple[WeightsFile, ...]) -> str:
    return " or ".join(file.name for file in files)


def _not_in_bucket(spec: ExtractorSpec, fetch: str) -> NotFound:
    files = _accepted(spec)
    return NotFound(
        f"{spec.name} needs its weights, {_names(files)}, and the bucket that OFFSHELF_WEIGHTS names has no such file: "
        f"put it there.{_published(files, fetch)}"
    )


def _check(spec: ExtractorSpec, file: WeightsFile, stream: io.BufferedReader | io.BytesIO) -> None:
    """See that a file is the one that is registered. Raises `DataLoss` if not."""
    algorithm, _, expected = file.digest.partition(":")
    found = hashlib.file_digest(stream, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()
    if found != expected:
        word = {"sha256": "SHA-256", "sha1": "SHA-1", "md5": "MD5"}[algorithm]
        raise DataLoss(
            f"{file.name}, the weights of {spec.name}, is not the file it should be ({word} {found[:12]}..., expected "
            f"{expected[:12]}...): replace it."
        )


def _published(files: tuple[WeightsFile, ...], fetch: str) -> str:
    sources = [file.source for file in files if file.source] if fetch == "auto" else []
    return f" It is published at {sources[0]}." if sources else ""
