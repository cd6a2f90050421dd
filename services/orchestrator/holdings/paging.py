"""Lists of datasets, page by page."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from offshelf.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offshelf.datasets.cards import DatasetCard

_PAGE = 50
_LARGEST_PAGE = 1000
_LARGEST_PAGE_CHARACTERS = 4 * 1024 * 1024
"""Of the names of classes: an answer has to fit into a message."""
_TOKEN = re.compile(r"(\d{1,20})-([0-9a-f]{64})")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Page:
    """What a client asks for: some datasets, from where the page before ended.

    Parameters
    ----------
    limit
        How many at most; 0 leaves it to us.
    token
        What came with the page before, or empty.

    Raises
    ------
    InvalidInput
        For a token that is none.
    """

    def __init__(self, *, limit: int, token: str) -> None:
        found = _TOKEN.fullmatch(token)
        if token and found is None:
            raise InvalidInput("The page token is none that this service gave.")
        self._limit = min(limit or _PAGE, _LARGEST_PAGE)
        self._before = (int(found[1]), found[2]) if found else None

    def of(self, cards: Sequence[DatasetCard]) -> tuple[list[DatasetCard], str]:
        """Take the page out of all cards, newest first; with the token of the next one, empty if this is the last."""
        rest = [card for card in cards if self._before is None or _place(card) < self._before]
        page = _fitting(rest[: self._limit])
        return page, "{}-{}".format(*_place(page[-1])) if len(rest) > len(page) else ""


def _fitting(cards: list[DatasetCard]) -> list[DatasetCard]:
    """Take as many cards as fit into an answer, but one at least."""
    characters = 0
    for number, card in enumerate(cards):
        characters += sum(map(len, card.classes))
        if number and characters > _LARGEST_PAGE_CHARACTERS:
            return cards[:number]
    return cards


def _place(card: DatasetCard) -> tuple[int, str]:
    """Where a card stands in the list of all: by time, to the microsecond, then by digest."""
    since = card.created_at - _EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds, card.digest
