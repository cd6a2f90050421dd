"""Networks of this machine that a user names as extractors."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import IO, TYPE_CHECKING

import pytest

from offshelf.cli.options import split_names
from offshelf.client.absence import LOCAL_PAUSES, Absence
from offshelf.client.networks import bring_network, bring_networks
from offshelf.client.patience import Pauses
from offshelf.digests import digest_of_bytes
from offshelf.errors import InvalidInput, OffshelfError, Unavailable
from offshelf.rpc.unreachable import Unreachable
from tests.unit.own_networks import PLAIN

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.extraction.own.description import NetworkFormat

NAME = "onnx:net@0123456789ab"


class Server:
    """Has some networks, and takes more."""

    def __init__(self, *known: str) -> None:
        self.known = set(known)
        self.sent: list[tuple[str, str, int]] = []
        self.fetched: list[str] = []
        self.troubles: list[OffshelfError] = []

    def find(self, file: str, format_: NetworkFormat, description: str) -> str | None:
        """Look for it."""
        assert json.loads(description)["size"] == 32
        return f"{format_}:net@0123456789ab" if file in self.known else None

    def send(
        self, name: str, format_: NetworkFormat, description: str, *, file: str, size: int, stream: IO[bytes]
    ) -> str:
        """Take it."""
        assert json.loads(description) == PLAIN
        data = stream.read()
        assert (digest_of_bytes(data), len(data)) == (file, size)
        self.sent.append((name, format_, size))
        return f"{format_}:net@0123456789ab"

    def fetch(self, address: str, format_: NetworkFormat) -> str:
        """Fetch it, unless something is in the way."""
        self.fetched.append(address)
        if self.troubles:
            raise self.troubles.pop()
        return f"{format_}:net@0123456789ab"


def bring(server: Server, *names: str) -> tuple[str, ...]:
    """Bring the networks among some extractors."""
    return bring_networks(server, Absence(LOCAL_PAUSES), names)  # type: ignore[arg-type]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A network with its description beside it."""
    path = tmp_path / "net.onnx"
    path.write_bytes(b"a network")
    (tmp_path / "net.onnx.json").write_text(json.dumps(PLAIN))
    return path


def test_a_file_becomes_the_name_of_an_extractor(file: Path) -> None:
    """It is uploaded once; other extractors, and names that networks have, stay as they are."""
    server = Server()
    assert bring(server, "hog", f"onnx:{file}", NAME, f"{NAME}:bf16", "lab:4,4,4") == (
        "hog",
        NAME,
        NAME,
        f"{NAME}:bf16",
        "lab:4,4,4",
    )
    assert server.sent == [("net.onnx", "onnx", 9)]


def test_a_network_that_the_server_has_is_not_sent(file: Path) -> None:
    """A rerun costs a question."""
    server = Server(digest_of_bytes(file.read_bytes()))
    assert bring(server, f"onnx:{file}") == (NAME,)
    assert server.sent == []


def test_a_description_may_be_named_after_the_stem(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """net.json does as well as net.onnx.json, and a relative path as well as an absolute one."""
    (file.parent / "net.onnx.json").rename(file.parent / "net.json")
    monkeypatch.chdir(file.parent)
    assert bring(Server(), "onnx:./net.onnx", "tflite:net.onnx") == (NAME, NAME.replace("onnx", "tflite"))


def test_addresses_are_for_the_server() -> None:
    """It fetches them itself, if it may."""
    server = Server()
    assert bring(server, "onnx:s3://nets/a.onnx", "onnx:https://host/b.onnx") == (NAME, NAME)
    assert server.fetched == ["s3://nets/a.onnx", "https://host/b.onnx"]


@pytest.mark.parametrize(("trouble", "times"), [(Unreachable, 2), (Unavailable, 1), (InvalidInput, 1)])
def test_a_server_is_asked_again_only_if_it_was_not_reached(trouble: type[OffshelfError], times: int) -> None:
    """What a server that is there could not fetch, it is not made to ask for again."""
    server = Server()
    server.troubles.append(trouble("no"))
    absence = Absence(Pauses(attempts=3, first=0.0, longest=0.0))
    absence.meet()
    with suppress(trouble):
        bring_network(server, absence, "onnx:https://host/b.onnx")  # type: ignore[arg-type]
    assert len(server.fetched) == times


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"net.onnx.json": None}, r"needs a description beside it .* write net\.onnx\.json, for example \{.size"),
        ({"net.onnx.json": b"{"}, r"net\.onnx\.json is no JSON"),
        ({"net.onnx.json": b"\xff"}, "cannot be read as text"),
        ({"net.onnx.json": json.dumps(PLAIN | {"size": 0}).encode()}, r"net\.onnx\.json: size must be"),
        ({"net.onnx": None}, "is no file: onnx: is followed by the file of a network"),
        ({"net.onnx": b""}, "has 0 bytes"),
    ],
)
def test_what_cannot_be_used_is_refused_here(file: Path, change: dict[str, bytes | None], said: str) -> None:
    """The message says which file, and what to write; nothing is sent."""
    for name, content in change.items():
        if content is None:
            (file.parent / name).unlink()
        else:
            (file.parent / name).write_bytes(content)
    server = Server()
    with pytest.raises(InvalidInput, match=said):
        bring(server, f"onnx:{file}")
    assert server.sent == []


def test_an_upload_names_a_network() -> None:
    """What is no network, by its form, is told so."""
    with pytest.raises(InvalidInput, match="write onnx:FILE or tflite:FILE"):
        bring_network(Server(), Absence(LOCAL_PAUSES), "hog")  # type: ignore[arg-type]


def test_files_may_stand_among_names() -> None:
    """The command line takes them as it takes extractors."""
    assert split_names(("onnx:./my net.onnx,hog", "lab:4,4,4")) == ("onnx:./my net.onnx", "hog", "lab:4,4,4")
