"""All weights that the registry knows, and where each file of them is: what `offshelf weights` works on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from offshelf.errors import DataLoss, InvalidInput, NotFound, PermissionDenied
from offshelf.extraction import registry
from offshelf.extraction.registry.networks import NO_CLASSES
from offshelf.extraction.spec import Network
from offshelf.extraction.weights.downloads import keep_quiet
from offshelf.extraction.weights.finding import accepted, fetch_weights, folder_of
from offshelf.extraction.weights.mirror import open_mirror
from offshelf.store.addresses import is_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from offshelf.extraction.spec import ExtractorSpec, Weights, WeightsFile
    from offshelf.extraction.weights.checking import Entry
    from offshelf.extraction.weights.downloads import Progress
    from offshelf.extraction.weights.fetching import FetchPolicy


class State(StrEnum):
    """Where a file is."""

    HERE = "here"
    WRONG = "wrong"
    """There is another file under its name."""
    MISSING = "missing"


@dataclass(frozen=True, slots=True)
class Stocked:
    """A file that an extractor takes its weights from, and where it is."""

    extractor: str
    weights: Weights
    file: WeightsFile
    state: State
    reason: str = ""
    """What is wrong with it."""
    remark: str = ""
    """What cannot be had of the network."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A file that was read where it is."""

    file: WeightsFile
    place: str
    """Folder or bucket."""
    reason: str = ""
    """What is wrong with it."""


def networks(names: Iterable[str] = ()) -> list[ExtractorSpec]:
    """Find extractors with registered weights by name; by default all, and again those with other files for "classes".

    Raises
    ------
    UnknownName, InvalidInput
        As `registry.find`; or for an extractor that needs no registered weights.
    """
    found = [registry.find(name) for name in names]
    for spec in found:
        accepted(spec)
    if found:
        return found
    for spec in registry.EXTRACTORS.values():
        if isinstance(spec.method, Network):
            found.append(spec)
            if spec.method.classes_weights is not None:
                found.append(registry.find(f"{spec.name}:classes"))
    return found


def known_files() -> dict[str, WeightsFile]:
    """List all registered files by name."""
    return {file.name: file for spec in networks() for file in accepted(spec)}


def take_stock(specs: Iterable[ExtractorSpec], weights: str) -> list[Stocked]:
    """Look where the files of extractors are; those in a folder are read and checked, a bucket is asked for names.

    Parameters
    ----------
    specs
        The extractors.
    weights
        Where to look: `Settings.weights`.
    """
    folder = folder_of(weights)
    mirror = open_mirror(weights) if is_s3(weights) else None
    stocked = []
    for spec in specs:
        remark = NO_CLASSES if isinstance(spec.method, Network) and "classes" not in spec.method.outputs else ""
        for file in accepted(spec):
            reason = ""
            try:
                here = (mirror is not None and mirror.has(file.name)) or folder.find(file) is not None
                state = State.HERE if here else State.MISSING
            except DataLoss as error:
                state, reason = State.WRONG, error.message
            stocked.append(Stocked(spec.name, weights_of(spec), file, state, reason, remark))
    return stocked


def verify_all(specs: Iterable[ExtractorSpec], weights: str) -> Iterator[Verified]:
    """Read the files of extractors in each place where they are, and record those that have weak digests.

    Parameters
    ----------
    specs, weights
        As for `take_stock`. With a bucket, that and the user's cache are places, since runs look into both.

    Yields
    ------
    Verified
        One a file and place, as they are read.
    """
    folder = folder_of(weights)
    places: list[tuple[str, Callable[[WeightsFile], Entry | None]]] = [(str(folder.path), folder.vouch)]
    if is_s3(weights):
        mirror = open_mirror(weights)
        places.insert(0, (mirror.url, mirror.vouch))
    for file in dict.fromkeys(file for spec in specs for file in accepted(spec)):
        for place, vouch in places:
            try:
                if vouch(file) is not None:
                    yield Verified(file, place)
            except NotFound:
                pass
            except (DataLoss, PermissionDenied) as error:
                yield Verified(file, place, error.message)


def pull(
    spec: ExtractorSpec,
    weights: str,
    fetch: FetchPolicy,
    *,
    on_progress: Callable[[Progress], None] = keep_quiet,
) -> tuple[WeightsFile, bool]:
    """Have an extractor's weights in a folder or a bucket; what is there, and is right, is not downloaded.

    Parameters
    ----------
    spec
        The extractor.
    weights
        A folder, or "s3://bucket/prefix".
    fetch
        Who may be asked.
    on_progress
        As for `fetch_weights`.

    Returns
    -------
    tuple
        The file, and whether it is new there.

    Raises
    ------
    OffshelfError
        As `fetch_weights`, or what the bucket raises.
    """
    if is_s3(weights):
        return _pull_into_bucket(spec, weights, fetch, on_progress)
    folder = folder_of(weights)
    for file in accepted(spec):
        try:
            if folder.vouch(file) is not None:
                return file, False
        except DataLoss:
            continue  # and replaced
    return fetch_weights(spec, weights, fetch, on_progress=on_progress), True


def _pull_into_bucket(
    spec: ExtractorSpec, address: str, fetch: FetchPolicy, on_progress: Callable[[Progress], None]
) -> tuple[WeightsFile, bool]:
    mirror = open_mirror(address)
    for file in accepted(spec):
        try:
            mirror.vouch(file)
        except (NotFound, DataLoss):
            continue  # and put there, or replaced
        else:
            return file, False
    # By way of the cache, where what has come of an interrupted download is found again.
    cache = folder_of("")
    before = [file.name for file in accepted(spec) if (cache.path / file.name).exists()]
    file, _ = pull(spec, "", fetch, on_progress=on_progress)
    path = cache.path / file.name
    mirror.put(file, path)
    if file.name not in before:
        path.unlink()
    return file, True


def weights_of(spec: ExtractorSpec) -> Weights:
    """Give the weights that an extractor takes."""
    if not isinstance(spec.method, Network):
        raise InvalidInput(f"{spec.name} has no weights.")
    return spec.method.taken_weights
