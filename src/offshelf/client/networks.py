"""Networks that users name as extractors: files of this machine, or addresses that the server fetches from."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf.client.sources import absolute
from offshelf.errors import InvalidInput
from offshelf.extraction.own.description import EXAMPLE, FORMATS, is_name, parse_description
from offshelf.rpc.unreachable import Unreachable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from offshelf.client.absence import Absence
    from offshelf.client.network_gateway import NetworkGateway
    from offshelf.extraction.own.description import NetworkFormat

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

MOST_BYTES = 1 << 30
"""Of a file, as the server has it."""


def is_network(extractor: str) -> bool:
    """Tell whether an extractor is named by a network's file or address: "onnx:net.onnx", "tflite:s3://bucket/net"."""
    return extractor.partition(":")[0] in FORMATS and ":" in extractor and not is_name(extractor)


def bring_networks(gateway: NetworkGateway, absence: Absence, extractors: Iterable[str]) -> tuple[str, ...]:
    """Make sure that the services have the networks among some extractors; return the names of all.

    Raises
    ------
    InvalidInput
        If a file or its description cannot be used.
    OffshelfError
        What the server says of it.
    """
    return tuple(bring_network(gateway, absence, name) if is_network(name) else name for name in extractors)


def bring_network(gateway: NetworkGateway, absence: Absence, named: str) -> str:
    """Make sure that the services have a network; return the name that it has as an extractor. Errors as above."""
    first, _, rest = named.partition(":")
    format_ = next((each for each in FORMATS if each == first), None)
    if format_ is None or not rest:
        raise InvalidInput(f"{named!r} names no network: write onnx:FILE or tflite:FILE.")
    if _ADDRESS.match(rest):
        # Each attempt has the server ask somebody else's host.
        return absence.outlast(lambda: gateway.fetch(rest, format_), on=Unreachable)
    return _upload(gateway, absence.outlast, format_, Path(absolute(rest)))


def _upload(
    gateway: NetworkGateway,
    outlast: Callable[[Callable[[], str | None]], str | None],
    format_: NetworkFormat,
    path: Path,
) -> str:
    text = _description_of(format_, path)
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            if not 0 < size <= MOST_BYTES:
                raise InvalidInput(f"{path} has {size} bytes; a network has 1 to {MOST_BYTES} (1 GiB).")
            digest = hashlib.file_digest(stream, "sha256").hexdigest()

            def send() -> str:
                stream.seek(0)
                return gateway.send(path.name, format_, text, file=digest, size=size, stream=stream)

            name = outlast(lambda: gateway.find(digest, format_, text)) or outlast(send)
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read ({error.strerror}).") from error
    assert name is not None  # noqa: S101  (what sends it gives a name)
    return name


def _description_of(format_: NetworkFormat, path: Path) -> str:
    """Read the description that lies beside a network, and see that it can be used."""
    if not path.is_file():
        raise InvalidInput(
            f"{path} is no file: {format_}: is followed by the file of a network, or by s3://bucket/name or "
            "https://host/path for the server to fetch."
        )
    for beside in (path.with_name(f"{path.name}.json"), path.with_suffix(".json")):
        try:
            text = beside.read_text("utf-8")
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidInput(f"{beside} cannot be read as text in UTF-8.") from error
        parse_description(text, str(beside))
        return text
    raise InvalidInput(
        f"{path} needs a description beside it that says how images go into it: write {path.name}.json, for example "
        f"{EXAMPLE}. README.md says what each means."
    )
