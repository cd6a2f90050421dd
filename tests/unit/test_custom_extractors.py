"""Replicas that serve the extractors that they are asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from offshelf.errors import (
    Cancelled,
    DataLoss,
    Internal,
    InvalidInput,
    NotFound,
    OffshelfError,
    StoreUnavailable,
    Unavailable,
)
from offshelf.extraction.extractors import Extractors
from offshelf.services.extractor.serving import CustomExtractors
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


@pytest.mark.parametrize("error", [Cancelled, StoreUnavailable])
def test_one_that_waits_for_something_else_is_not_at_fault(error: type[OffshelfError]) -> None:
    """An absent store, or the end of the replica, leaves no extractor out."""
    with pytest.raises(error), custom(error("not now")).lease("lab:8,4,4", ""):
        pass
