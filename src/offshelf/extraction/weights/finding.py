"""Pretrained weights: where they are looked for and downloaded from, checked before anything of them is parsed.

`Settings.weights` says where they are: a folder; a bucket of the installation, s3://bucket/prefix; a mirror on the web,
https://host/prefix; or nothing. What is downloaded is kept in that folder, or where there is none in the user's cache
(`offshelf.extraction.weights.folder.cache_folder`), in which weights are looked for, too.

Nothing is downloaded but by `fetch_weights` and `read_weights`: a catalogue asks nobody beyond this machine and the
installation's own bucket.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Final

from offshelf.errors import (
    DataLoss,
    InvalidInput,
    NotFound,
    OffshelfError,
    PermissionDenied,
    StoreDenied,
    Unavailable,
)
from offshelf.extraction.spec import CONVERTER_VERSION, REMOTE_ENGINE, Network, fingerprint
from offshelf.extraction.weights.downloads import keep_quiet
from offshelf.extraction.weights.fetching import NEVER, Source, is_web
from offshelf.extraction.weights.folder import WeightsFolder, cache_folder
from offshelf.extraction.weights.mirror import open_mirror
from offshelf.store import keys
from offshelf.store.addresses import is_s3

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable

    from offshelf.extraction.spec import ExtractorSpec, WeightsFile
    from offshelf.extraction.weights.downloads import Progress
    from offshelf.extraction.weights.fetching import FetchPolicy
    from offshelf.store.objects import ObjectStore

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")


def availability(
    spec: ExtractorSpec, weights: str, fetch: FetchPolicy = NEVER, *, store: ObjectStore | None = None
) -> str:
    """Tell whether an extractor can be used here as things are, without downloading anything.

    Parameters
    ----------
    spec
        The extractor.
    weights
        Where weights are: `Settings.weights`.
    fetch
        Who else may be asked, which decides what the answer advises.
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
        files = accepted(spec)
        if is_s3(weights) and any(open_mirror(weights).has(file.name) for file in files):
            return ""
        if _find(files, folder_of(weights)) is None:
            raise _missing(spec, weights, fetch)
    except (NotFound, InvalidInput, DataLoss, StoreDenied) as error:
        return error.message
    return ""


def source_of(spec: ExtractorSpec, fetch: FetchPolicy) -> Source | None:
    """Say where an extractor's weights would be downloaded from, if they are not here; None if they cannot be."""
    network = spec.method
    if not isinstance(network, Network) or network.engine == REMOTE_ENGINE or network.taken_weights.files[0].stored_as:
        return None
    return next(iter(fetch.sources(accepted(spec))), None)


def fetch_weights(
    spec: ExtractorSpec,
    weights: str,
    fetch: FetchPolicy,
    *,
    on_progress: Callable[[Progress], None] = keep_quiet,
    stop: threading.Event | None = None,
) -> WeightsFile:
    """Download an extractor's weights into the folder they are kept in.

    Parameters
    ----------
    spec, weights, fetch
        As for `availability`.
    on_progress, stop
        As for `offshelf.extraction.weights.downloads.download`.

    Returns
    -------
    WeightsFile
        Which of the accepted files it is.

    Raises
    ------
    NotFound
        If nobody has them who may be asked.
    OffshelfError
        As `download`; of several sources, what the first one failed with.
    """
    folder = folder_of(weights)
    failure: OffshelfError | None = None
    for source in fetch.sources(accepted(spec)):
        try:
            folder.fetch(source.file, source.url, hosts=source.hosts, on_progress=on_progress, stop=stop)
        except (NotFound, DataLoss, PermissionDenied, Unavailable) as error:
            failure = failure or error  # another source may have it, or the right one
        else:
            return source.file
    raise failure or _missing(spec, weights, fetch)


def read_weights(
    spec: ExtractorSpec,
    weights: str,
    fetch: FetchPolicy = NEVER,
    *,
    on_progress: Callable[[Progress], None] = keep_quiet,
) -> tuple[WeightsFile, bytes]:
    """Read a network's weights file whole, with the digest it must have; download it if it is missing and may be.

    Returns
    -------
    tuple
        Which of the accepted files it is, and its bytes.

    Raises
    ------
    NotFound
        If there is no such file where weights are looked for.
    InvalidInput
        If `weights` is neither a folder nor an address that can be read from.
    DataLoss
        If the file is another one than registered.
    OffshelfError
        If a bucket, a server or the file system refuses or cannot be reached.
    """
    found = _read(spec, weights)
    if found is None:
        if source_of(spec, fetch) is None:
            raise _missing(spec, weights, fetch)
        fetch_weights(spec, weights, fetch, on_progress=on_progress)
        found = _read(spec, weights)
    if found is None:
        raise _missing(spec, weights, fetch)
    return found


def accepted(spec: ExtractorSpec) -> tuple[WeightsFile, ...]:
    """List the files that an extractor takes its weights from, any of which will do."""
    if not isinstance(spec.method, Network):
        raise InvalidInput(f"{spec.name} has no weights.")
    return spec.method.taken_weights.files


def folder_of(weights: str) -> WeightsFolder:
    """Give the folder in which weights are looked for, and into which they are downloaded.

    Raises
    ------
    InvalidInput
        If `weights` is an address that cannot be read from.
    """
    if is_s3(weights) or is_web(weights) or not weights:
        return WeightsFolder(cache_folder())
    if _ADDRESS.match(weights):
        raise InvalidInput(
            "OFFSHELF_WEIGHTS is an address that weights cannot be read from: set it to a folder, s3://bucket/prefix "
            "or https://host/prefix."
        )
    return WeightsFolder(Path(weights))


def _find(files: tuple[WeightsFile, ...], folder: WeightsFolder) -> WeightsFile | None:
    """Find the first of some files that is there and has its digest. Raises `DataLoss` if a wrong one alone is."""
    refusal: DataLoss | None = None
    for file in files:
        try:
            if folder.find(file) is not None:
                return file
        except DataLoss as error:
            refusal = error
    if refusal is not None:
        raise refusal
    return None


def _read(spec: ExtractorSpec, weights: str) -> tuple[WeightsFile, bytes] | None:
    """Read the first accepted file that is there and has its digest."""
    folder = folder_of(weights)
    refusal: DataLoss | None = None
    for file in accepted(spec):
        for read in ([_from_bucket(weights)] if is_s3(weights) else []) + [folder.read]:
            try:
                data = read(file)
            except DataLoss as error:
                refusal = error
            else:
                if data is not None:
                    return file, data
    if refusal is not None:
        raise refusal
    return None


def _from_bucket(address: str) -> Callable[[WeightsFile], bytes | None]:
    mirror = open_mirror(address)

    def read(file: WeightsFile) -> bytes | None:
        try:
            return mirror.read(file)
        except NotFound:
            return None

    return read


def _missing(spec: ExtractorSpec, weights: str, fetch: FetchPolicy) -> NotFound:
    files = accepted(spec)
    names = " or ".join(file.name for file in files)
    if is_s3(weights):
        where, fix = "the bucket that OFFSHELF_WEIGHTS names has no such file", "put it there"
    elif is_web(weights):
        where = "the mirror that OFFSHELF_WEIGHTS names has not been asked for it yet"
        fix = f"`offshelf weights pull {spec.name}` does that"
    elif weights:
        where, fix = "the folder that OFFSHELF_WEIGHTS names has no such file that can be read", "put it there"
    else:
        where = "OFFSHELF_WEIGHTS is not set, and your cache has no such file"
        fix = "put the file into a folder and set OFFSHELF_WEIGHTS to it"
    if source := source_of(spec, fetch):
        fix = f"`offshelf weights pull {spec.name}`, or a run that names it (-e {spec.name}), downloads it ({source})"
    elif published := next((file.source for file in files if file.source), ""):
        fix += f" (it is published at {published})"
    return NotFound(f"{spec.name} needs its weights, {names}, and {where}: {fix}.")
