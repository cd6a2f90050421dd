"""The table between errors and statuses."""

from __future__ import annotations

import grpc
import pytest

from offshelf import errors
from offshelf.rpc.status import MAX_DETAIL_BYTES, STATUS_OF, error_from, public_name, status_of, wire_detail

ALL_ERRORS = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, errors.OffshelfError) and kind is not errors.OffshelfError
]


@pytest.mark.parametrize("kind", ALL_ERRORS)
def test_every_error_survives_the_way_there_and_back(kind: type[errors.OffshelfError]) -> None:
    """A user of a server sees each error as the class it was raised as."""
    error = kind("what went wrong")
    back = error_from(status_of(error), error.message, public_name(error))
    assert type(back) is kind
    assert back.message == "what went wrong"


def test_an_error_of_a_service_arrives_as_what_users_know() -> None:
    """An error class that only a service has arrives as its nearest parent among the public ones."""

    class StoreInUse(errors.Conflict):
        pass

    error = StoreInUse("in use")
    assert public_name(error) == "Conflict"
    assert type(error_from(status_of(error), "in use", public_name(error))) is errors.Conflict


def test_no_two_errors_share_a_status() -> None:
    """A status without a class name still leads to one error."""
    assert len(set(STATUS_OF.values())) == len(STATUS_OF)


@pytest.mark.parametrize("name", [None, "", "NoSuchError", "NotFound", "difflib", "annotations"])
def test_a_name_that_does_not_fit_is_not_believed(name: str | None) -> None:
    """A strange server cannot make a client raise anything but what the status says."""
    assert type(error_from(grpc.StatusCode.UNAVAILABLE, "away", name)) is errors.Unavailable


def test_a_status_nobody_knows_is_an_internal_error() -> None:
    """A status that we never send is reported as a defect."""
    assert type(error_from(grpc.StatusCode.UNKNOWN, "?")) is errors.Internal


@pytest.mark.parametrize("text", ["x" * 10_000, "图" * 10_000, "%" * 10_000, "é " * 10_000_000])
def test_a_long_message_is_cut_to_what_an_answer_can_carry(text: str) -> None:
    """A message too long for an answer arrives shortened instead of failing the answer."""
    sent = wire_detail(text)
    assert sent.endswith("...")
    assert len(sent.encode()) <= MAX_DETAIL_BYTES + 4


def test_a_message_is_one_line() -> None:
    """Messages are one line, whatever they were made of."""
    assert wire_detail("first\n  second\t third") == "first second third"
