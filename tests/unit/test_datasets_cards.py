from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest

from offshelf.datasets import DatasetCard, read_card, write_card
from offshelf.errors import DataLoss, NotFound
from offshelf.store import keys
from tests.unit.fakes import MemoryStore

DIGEST = "ab" * 32
CARD = DatasetCard(
    digest=DIGEST,
    name="Haustiere (größer)",
    source=f"store:{DIGEST}",
    images=3,
    bytes=12345,
    classes=("cats", "dogs"),
    created_at=datetime(2026, 3, 4, 5, 6, 7, 89, tzinfo=UTC),
    user="ada",
)


def test_a_card_is_read_as_it_was_written() -> None:
    """A user sees in a list what was said of a dataset when it was made, the moment in UTC."""
    store = MemoryStore()
    write_card(store, CARD)
    assert read_card(store, DIGEST) == CARD
    assert list(store.objects) == [f"datasets/{DIGEST}.card.json"]
    elsewhere = replace(CARD, created_at=CARD.created_at.astimezone(timezone(timedelta(hours=-7))))
    assert DatasetCard.from_json(elsewhere.to_json()).created_at.tzinfo is UTC
    assert elsewhere.to_json() == CARD.to_json()


def test_the_first_writer_wins() -> None:
    """A user whose dataset somebody else makes again stays the one who made it, under the name it has."""
    store = MemoryStore()
    write_card(store, CARD)
    write_card(store, replace(CARD, user="bob", name="other"))
    assert read_card(store, DIGEST) == CARD


def test_a_damaged_card_is_written_again() -> None:
    """A user who makes a dataset whose card was damaged has a card again."""
    store = MemoryStore()
    store.put(keys.dataset_card(DIGEST), b"{")
    write_card(store, CARD)
    assert read_card(store, DIGEST) == CARD


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        CARD.to_json().replace(b'"format":1', b'"format":2'),
        CARD.to_json().replace(b'"images":3', b'"images":"3"'),
        CARD.to_json().replace(b'"user":"ada"', b'"user":null'),
        CARD.to_json().replace(b'"user":"ada"', b'"owner":"ada"'),
        CARD.to_json().replace(b'"classes":["cats","dogs"]', b'"classes":[1]'),
        CARD.to_json().replace(b"2026-03-04", b"yesterday"),
        replace(CARD, digest="cd" * 32).to_json(),
    ],
)
def test_a_card_that_is_not_what_was_written_is_told(data: bytes) -> None:
    """A user never sees made-up figures: a card that is damaged, or another dataset's, is an error."""
    store = MemoryStore()
    store.put(keys.dataset_card(DIGEST), data)
    with pytest.raises(DataLoss, match="make the dataset again"):
        read_card(store, DIGEST)


@pytest.mark.parametrize("digest", [DIGEST, "", "../x", "ab"])
def test_a_card_that_is_not_there_is_told(digest: str) -> None:
    """A user who asks for a dataset that is not there, or by no digest, is told so."""
    with pytest.raises(NotFound):
        read_card(MemoryStore(), digest)


def test_a_card_is_plain_json() -> None:
    """A user can read a card with any tool."""
    document = json.loads(CARD.to_json())
    assert document["created_at"] == "2026-03-04T05:06:07.000089+00:00"
    assert document["classes"] == ["cats", "dogs"]
    assert document["bytes"] == 12345
