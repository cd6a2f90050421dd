"""What became of an image."""

from __future__ import annotations

from enum import StrEnum


class ImageStatus(StrEnum):
    """What became of an image."""

    OK = "ok"
    UNREADABLE = "unreadable"
    """The bytes are no image that is read here: empty, truncated, another kind of file."""
    TOO_LARGE = "too_large"
    """More pixels than the limit, or more memory than goes with it."""
    CRASHED = "crashed"
    """Decoding it ended the decoder's process."""
    HUNG = "hung"
    """Decoding it took longer than the limit."""


class UnusableImage(Exception):
    """An image that is put aside; no error of the program, so not an `OffshelfError`.

    Parameters
    ----------
    status
        Why, for programs.
    reason
        Why, for people: one plain line without a path.
    """

    def __init__(self, status: ImageStatus, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return self.reason
