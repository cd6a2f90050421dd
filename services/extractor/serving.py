"""Which extractors a replica serves: the one that it was started for, or those that it is asked for."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from offshelf.errors import (
    Cancelled,
    Conflict,
    DataLoss,
    EngineMismatch,
    EngineUnavailable,
    InvalidInput,
    NotFound,
    OffshelfError,
    StoreDenied,
    StoreFull,
    StoreUnavailable,
)
from offshelf.extraction.runtime import load_openvino
from offshelf.extraction.spec import fingerprint as fingerprint_of
from offshelf.extraction.spec import fingerprints
from offshelf.leases import LeaseCache

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from offshelf.extraction.extractors import Extractors
    from offshelf.extraction.pipeline import Extraction
    from offshelf.extraction.spec import ExtractorSpec

_KEPT = 2
"""Extractors that stay loaded; each holds a network and worker processes."""


class Serves(Protocol):
    """The extractors of a replica. Safe to use from any number of threads."""

    @property
    def only(self) -> Extraction | None:
        """The one that it serves; None if it serves those that it is asked for."""
        ...

    def warm_up(self) -> None:
        """Load what every call needs."""
        ...

    def lease(self, name: str, fingerprint: str) -> AbstractContextManager[Extraction]:
        """Use an extractor for the time of a block.

        Parameters
        ----------
        name
            Its name.
        fingerprint
            What it must have; empty for whatever it has.

        Raises
        ------
        Conflict
            If this replica has no such extractor, or in another version.
        EngineMismatch
            If it has it on another engine.
        InvalidInput
            If it cannot be loaded.
        """
        ...

    @property
    def seconds_in_inference(self) -> float:
        """How long a network has been at the image that it has been at longest; 0 if at none."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class OneExtractor:
    """Serves one extractor.

    Parameters
    ----------
    extraction
        It, not started yet.
    """

    def __init__(self, extraction: Extraction) -> None:
        self._extraction = extraction

    @property
    def only(self) -> Extraction:
        """See `Serves`."""
        return self._extraction

    def warm_up(self) -> None:
        """Load the network and take one image through everything."""
        self._extraction.start()

    @contextmanager
    def lease(self, name: str, fingerprint: str) -> Iterator[Extraction]:
        """See `Serves`; the only extractor needs no name."""
        serves = self._extraction.spec.name
        # A network of a user's own may have another file name by now; its fingerprint says that it is the same one.
        if name not in {"", serves} and fingerprint != self._extraction.fingerprint:
            # No fault of the request's: an address may have passed from one pod to another.
            raise Conflict(f"This replica serves {serves}, not {name!r}.")
        _check_fingerprint(self._extraction.spec, fingerprint)
        yield self._extraction

    @property
    def seconds_in_inference(self) -> float:
        """See `Serves`."""
        return self._extraction.seconds_in_inference

    def close(self) -> None:
        """See `Serves`."""
        self._extraction.close()


class CustomExtractors:
    """Serves the extractors that it is asked for, of which it keeps the last ones.

    Parameters
    ----------
    extractors
        All there are.
    make
        Makes one, not started yet.
    kept
        How many stay loaded; more are while more are in use.
    """

    only = None

    def __init__(
        self, extractors: Extractors, make: Callable[[ExtractorSpec], Extraction], *, kept: int = _KEPT
    ) -> None:
        self._extractors = extractors
        self._make = make
        self._loaded: LeaseCache[str, Extraction] = LeaseCache(
            self._load, lambda extraction: extraction.close(), capacity=kept
        )

    def warm_up(self) -> None:
        """Import the engine; networks come later."""
        load_openvino()

    @contextmanager
    def lease(self, name: str, fingerprint: str) -> Iterator[Extraction]:
        """See `Serves`."""
        if not name:
            raise InvalidInput("This replica serves several extractors: the request must name one.")
        try:
            spec = self._extractors.find(name)
        except (NotFound, DataLoss) as error:
            raise InvalidInput(error.message) from error
        _check_fingerprint(spec, fingerprint)
        with self._loaded.lease(spec.name) as extraction:
            yield extraction

    @property
    def seconds_in_inference(self) -> float:
        """See `Serves`."""
        return max((each.seconds_in_inference for each in self._loaded.values()), default=0.0)

    def close(self) -> None:
        """See `Serves`."""
        self._loaded.close()

    def _load(self, name: str) -> Extraction:
        extraction = self._make(self._extractors.find(name))
        try:
            extraction.start()  # which closes what it cannot start
        except (Cancelled, EngineUnavailable, StoreDenied, StoreFull, StoreUnavailable):
            raise  # what is away is waited for
        except OffshelfError as error:
            # Whatever it is, it is this extractor's fault, and not that of the replica, which serves others.
            raise InvalidInput(error.message) from error
        return extraction


def _check_fingerprint(spec: ExtractorSpec, wanted: str) -> None:
    if wanted in {"", fingerprint_of(spec)}:
        return
    if wanted in fingerprints(spec):
        raise EngineMismatch(
            f"{spec.name} runs on another engine here than where its run was planned: OFFSHELF_REMOTE_ENGINES must be "
            "the same for all services."
        )
    raise Conflict(
        f"This replica's {spec.name} has another fingerprint than the one asked for: all services must have the same "
        "version of Offshelf."
    )
