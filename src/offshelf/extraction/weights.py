"""Pretrained weights: where they are looked for, and the check before anything of them is parsed.

They come from a folder, or from a bucket of the installation (see `offshelf.extraction.mirror`).
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offshelf.digests import digest_of, digest_of_bytes
from offshelf.errors import DataLoss, InvalidInput, NotFound, StoreDenied
from offshelf.extraction.mirror import open_mirror
from offshelf.extraction.registry import CONVERTER_VERSION, Network, fingerprint
from offshelf.store import keys
from offshelf.store.addresses import is_s3

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.extraction.registry import ExtractorSpec, Weights, WeightsFile
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
        Empty if it can be used; else why not and what to do, in one line. A folder's file is read and checked, a
        bucket's only looked up.

    Raises
    ------
    StoreUnavailable
        If the store, or the bucket with the weights, cannot be reached at the moment.
    """
    if not isinstance(spec.method, Network):
        return ""
    if store is not None and store.stat(keys.network(fingerprint(spec), CONVERTER_VERSION, "network.json")):
        return ""
    try:
        if not is_s3(weights):
            _locate(spec, weights, fetch)
        elif not any(open_mirror(weights).has(file.name) for file in spec.method.weights.files):
            raise _not_in_bucket(spec, fetch)
    except (NotFound, InvalidInput, DataLoss, StoreDenied) as error:
        return error.message
    return ""


def read_weights(spec: ExtractorSpec, weights: str, fetch: str = "auto") -> bytes:
    """Read a network's weights file whole, with the SHA-256 it must have.

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
    if digest_of_bytes(data) != file.sha256:
        raise _wrong_file(spec, file, digest_of_bytes(data))
    return data


def parse_arrays(data: bytes, weights: Weights) -> dict[str, NDArray[np.float32]]:
    """Read the arrays out of a verified npz file, and see that they are the registered ones.

    Raises
    ------
    DataLoss
        If the file cannot be parsed, an array is not float32, or the arrays are not those of the registry.
    """
    import zipfile

    import numpy as np

    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: np.ascontiguousarray(archive[name]) for name in archive.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataLoss(f"The weights of {weights.name} cannot be parsed: get the file again.") from error
    for name, array in arrays.items():
        if array.dtype != np.dtype("<f4"):
            raise DataLoss(f"The weights of {weights.name} hold {array.dtype} in {name!r}; float32 is expected.")
    if arrays_digest(arrays) != weights.arrays:
        raise DataLoss(f"The weights of {weights.name} are not those that are registered: get the file again.")
    return arrays


def arrays_digest(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Digest of arrays, whatever file they came from: of their names, types, shapes and little-endian bytes."""
    rows = tuple(
        (name, arrays[name].dtype.str, arrays[name].shape, digest_of_bytes(arrays[name].tobytes()))
        for name in sorted(arrays)
    )
    return digest_of(rows)


def _locate(spec: ExtractorSpec, weights: str, fetch: str) -> tuple[Path, WeightsFile]:
    """Find the first accepted file that is there and has its SHA-256."""
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
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError:
            continue
        if found == file.sha256:
            return path, file
        refusal = _wrong_file(spec, file, found)
    raise refusal or NotFound(
        f"{spec.name} needs its weights, {names}, and the folder that OFFSHELF_WEIGHTS names has no such file that can "
        f"be read: put it there.{_published(files, fetch)}"
    )


def _read_from_bucket(spec: ExtractorSpec, address: str, fetch: str) -> bytes:
    """Read the first accepted file that is there and has its SHA-256."""
    mirror = open_mirror(address)
    refusal: DataLoss | None = None
    for file in _accepted(spec):
        try:
            data = mirror.read(file.name)
        except NotFound:
            continue
        if digest_of_bytes(data) == file.sha256:
            return data
        refusal = _wrong_file(spec, file, digest_of_bytes(data))
    raise refusal or _not_in_bucket(spec, fetch)


def _accepted(spec: ExtractorSpec) -> tuple[WeightsFile, ...]:
    if not isinstance(spec.method, Network):
        raise InvalidInput(f"{spec.name} has no weights.")
    return spec.method.weights.files


def _names(files: tuple[WeightsFile, ...]) -> str:
    return " or ".join(file.name for file in files)


def _not_in_bucket(spec: ExtractorSpec, fetch: str) -> NotFound:
    files = _accepted(spec)
    return NotFound(
        f"{spec.name} needs its weights, {_names(files)}, and the bucket that OFFSHELF_WEIGHTS names has no such file: "
        f"put it there.{_published(files, fetch)}"
    )


def _wrong_file(spec: ExtractorSpec, file: WeightsFile, found: str) -> DataLoss:
    return DataLoss(
        f"{file.name}, the weights of {spec.name}, is not the file it should be (SHA-256 {found[:12]}..., expected "
        f"{file.sha256[:12]}...): replace it."
    )


def _published(files: tuple[WeightsFile, ...], fetch: str) -> str:
    sources = [file.source for file in files if file.source] if fetch == "auto" else []
    return f" It is published at {sources[0]}." if sources else ""
