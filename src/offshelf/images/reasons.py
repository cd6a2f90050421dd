"""Why an image cannot be used, in plain words: parsers speak of themselves, and quote what a stranger wrote."""

from __future__ import annotations

import io
import re
from typing import Final

_TIFF_BITS_PER_SAMPLE: Final = 258
_TIFF_CHANNELS: Final = 277
_TIFF_PLANES: Final = 284
_TIFF_SAMPLE_FORMAT: Final = 339
_NUMBERS: Final = {1: "unsigned", 2: "signed", 3: "float"}
_BIG_TIFF: Final = (b"II+\0", b"MM\0+")

_MEANINGS: Final = (
    (r"truncated|not enough|no more images|EOF|Truncated", "ends before all of its pixels have come"),
    (r"checksum", "is damaged: a checksum in it is wrong"),
    (r"[Uu]nsupported|[Uu]nknown|cannot handle", "is of a kind that is not read here"),
)
"""What parsers say, and what it means to whoever has the image."""

TOO_MUCH_MEMORY: Final = "decoding it takes more memory than an image may"

TOO_MUCH_TEXT: Final = re.compile("MAX_TEXT_(CHUNK|MEMORY)")
"""In what Pillow says of a PNG whose comments or colour profile are bombs."""


def why_unreadable(kind: str, error: BaseException) -> str:
    """Say in one line what a parser's error means.

    Parameters
    ----------
    kind
        Name of the format, as in "JPEG".
    error
        What was raised; nothing of its text is repeated.
    """
    said = str(error)
    meaning = next((meaning for pattern, meaning in _MEANINGS if re.search(pattern, said)), "is damaged or incomplete")
    return f"this {kind} {meaning}"


def tiff_layout(data: bytes) -> str:
    """Describe the pixels of a TIFF; empty if its header tells nothing."""
    from PIL.TiffImagePlugin import ImageFileDirectory_v2

    try:
        tags = ImageFileDirectory_v2(data[: 16 if data.startswith(_BIG_TIFF) else 8])
        file = io.BytesIO(data)
        file.seek(tags.next)
        tags.load(file)
        channels = int(tags.get(_TIFF_CHANNELS, 1))
        bits, kinds = tags[_TIFF_BITS_PER_SAMPLE], tags.get(_TIFF_SAMPLE_FORMAT, (1,))
        numbers = _NUMBERS.get(int(kinds[0]), "other")
        planes = " in separate planes" if tags.get(_TIFF_PLANES) == 2 else ""  # noqa: PLR2004 - TIFF's number for that
        return f"{channels} channel{'s'[: channels - 1]} of {int(bits[0])}-bit {numbers} numbers{planes}"
    except Exception:  # noqa: BLE001 - then it is simply damaged
        return ""
