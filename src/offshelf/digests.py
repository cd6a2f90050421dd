"""Names for work: SHA-256 over bytes, or over canonical JSON.

Canonical JSON is ours and fixed: keys sorted, no white space, UTF-8 without escapes, no NaN or infinity. Serialized
protobuf is never hashed, since its bytes are not promised to stay the same.
"""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# Sequence and Mapping, not list and dict: a list of texts is a list of values too.
JSONValue: TypeAlias = "bool | int | float | str | Sequence[JSONValue] | Mapping[str, JSONValue] | None"

_DIGEST = re.compile(r"[0-9a-f]{64}")


def digest_of_bytes(data: bytes | memoryview) -> str:
    """SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: JSONValue) -> bytes:
    """Serialize a value so that equal values give equal bytes.

    Raises
    ------
    ValueError
        For NaN and infinity, which JSON does not have.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()


def digest_of(value: JSONValue) -> str:
    """SHA-256 of a value's canonical JSON, as 64 hexadecimal digits."""
    return digest_of_bytes(canonical_json(value))


def is_digest(text: str) -> bool:
    """Tell whether a text from outside has the form of a digest; anything else must not become part of a key."""
    return _DIGEST.fullmatch(text) is not None
