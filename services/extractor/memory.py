"""How this process gets memory: many threads need some megabytes for a moment each, and none should keep them."""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from typing import Final

_ARENA_MAX: Final = -8
"""M_ARENA_MAX of mallopt(3)."""


def keep_little() -> None:
    """Have allocators keep less of what this process no longer needs; call it before any thread starts.

    By default the GNU C library has up to eight arenas for each core, each of which keeps what its threads once needed
    together, and Arrow an allocator of its own that keeps tens of megabytes of what writing a segment took.
    """
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    with suppress(AttributeError, OSError):  # other C libraries have no arenas
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 2)
