"""Replicas that serve the extractors that they are asked for."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from offshelf.errors import (
    Cancelled,
    Conflict,
    DataLoss,
    EngineMismatch,
    EngineUnavailable,
    Internal,
    InvalidInput,
    NotFound,
    OffshelfError,
    StoreUnavailable,
    Unavailable,
)
from offshelf.extraction.extractors import Extractors
from offshelf.extraction.spec import fingerprint
from offshelf.services.extractor.serving import CustomExtractors, OneExtractor
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from offshelf.extraction.spec import ExtractorSpec


class Unstartable:
    """An extractor that fails as it starts."""

    def __init__(self, error: OffshelfError) -> None:
        self._error = error

    def start(self) -> None:
        """Fail."""
        raise self._error


def custom(error: OffshelfError) -> CustomExtractors:
    """Make a replica all of whose extractors fail to start."""

    def make(_spec: ExtractorSpec) -> Any:
        return Unstartable(error)

    return CustomExtractors(Extractors(MemoryStore()), make)


@pytest.mark.parametrize("error", [NotFound, DataLoss, Internal, Unavailable])
def test_one_that_cannot_be_loaded_is_its_own_fault(error: type[OffshelfError]) -> None:
    """Its run leaves it out with the reason; neither the run nor the replica, which serves others, is given up."""
    with (
        pytest.raises(InvalidInput, match="lab:8,4,4 does not work"),
        custom(error("lab:8,4,4 does not work")).lease("lab:8,4,4", ""),
    ):
        pass


@pytest.mark.parametrize("error", [Cancelled, EngineUnavailable, StoreUnavailable])
def test_one_that_waits_for_something_else_is_not_at_fault(error: type[OffshelfError]) -> None:
    """An absent store or engine, or the end of the replica, leaves no extractor out."""
    with pytest.raises(error), custom(error("not now")).lease("lab:8,4,4", ""):
        pass


def test_another_engine_is_no_other_version() -> None:
    """Services that were told of different engines are told apart from services of different versions."""
    here, remote = (Extractors(MemoryStore(), remote=names).find("vgg16") for names in ((), ("vgg16",)))
    replica = OneExtractor(SimpleNamespace(spec=here, fingerprint=fingerprint(here)))  # type: ignore[arg-type]
    with pytest.raises(EngineMismatch, match="OFFSHELF_REMOTE_ENGINES"), replica.lease("vgg16", fingerprint(remote)):
        pass
    with pytest.raises(Conflict, match="same version of Offshelf"), replica.lease("vgg16", "0" * 64):
        pass


def test_a_network_is_the_same_under_another_file_name() -> None:
    """A network that was uploaded again from a renamed file is served to who knows it by its old name."""
    spec = Extractors(MemoryStore()).find("hog")
    replica = OneExtractor(SimpleNamespace(spec=spec, fingerprint=fingerprint(spec)))  # type: ignore[arg-type]
    with replica.lease("another name", fingerprint(spec)) as extraction:
        assert extraction.spec is spec
    with pytest.raises(Conflict, match="serves hog"), replica.lease("another name", ""):
        pass
