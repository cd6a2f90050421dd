"""What goes between a worker and its parent: the lengths of a JSON object and of bytes, then both."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, Final, TypeAlias

Header: TypeAlias = dict[str, Any]
"""A JSON object."""

Handler: TypeAlias = Callable[[Header, bytes], tuple[Header, bytes]]
"""What a worker runs: a JSON object and bytes in, a JSON object and bytes out."""

LENGTHS: Final = struct.Struct("!QQ")
"""Bytes of the header and of the payload that follow."""

LONGEST_HEADER: Final = 16 << 20
LONGEST_PAYLOAD: Final = 4 << 30
"""Answers that claim to be longer are those of a broken worker."""
