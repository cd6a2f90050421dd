"""The two limits on what travels in a message; both sides of every call use them."""

from __future__ import annotations

from typing import Final

MAX_MESSAGE_BYTES: Final = 32 * 1024 * 1024
"""Largest message that is sent or accepted, in bytes."""

CHUNK_BYTES: Final = 1024 * 1024
"""Size of one chunk where something large is streamed, in bytes."""
