"""Networks of users' own, between the SDK (or a client that misbehaves) and a real server."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from offshelf.client.absence import Absence
from offshelf.client.gateway import Gateway
from offshelf.client.networks import bring_network
from offshelf.client.patience import Pauses
from offshelf.digests import digest_of_bytes
from offshelf.errors import InvalidInput, PermissionDenied, Unavailable
from offshelf.extraction.extractors import Extractors
from offshelf.extraction.own.stored import find_network
from offshelf.rpc.channel import open_channel
from offshelf.store import keys, open_store
from offshelf.v1 import network_pb2 as pb
from offshelf.v1.network_pb2_grpc import NetworkServiceStub
from tests.integration.datasets_server import TOKEN, serving
from tests.integration.weights_server import WeightsServer, refusing
from tests.unit.own_networks import PLAIN

if TYPE_CHECKING:
    from pathlib import Path

LARGE = bytes(range(256)) * 16_000
"""Of several messages."""


def bring(address: str, named: str) -> str:
    """Bring a network as the SDK does."""
    gateway = Gateway(address, token=TOKEN, ca=None)
    absence = Absence(Pauses(attempts=3, first=0.001, longest=0.001))
    absence.meet()
    try:
        return bring_network(gateway.networks, absence, named)
    finally:
        gateway.close()


def header(data: bytes = LARGE, **changes: object) -> pb.UploadNetworkRequest:
    """Say what is going to be sent."""
    given: dict[str, object] = {
        "name": "net.onnx",
        "format": pb.NETWORK_FORMAT_ONNX,
        "description": json.dumps(PLAIN),
        "size": len(data),
        "file": bytes.fromhex(digest_of_bytes(data)),
    }
    return pb.UploadNetworkRequest(header=pb.NetworkHeader(**(given | changes)))  # type: ignore[arg-type]


async def test_a_network_of_this_machine_becomes_an_extractor_there(tmp_path: Path) -> None:
    """It is uploaded once, whole, and found again by its name; who brought it stands on its card and in the log."""
    (tmp_path / "My Net.onnx").write_bytes(LARGE)
    (tmp_path / "My Net.onnx.json").write_text(json.dumps(PLAIN))
    async with serving(tmp_path) as (_, address):
        name = await asyncio.to_thread(bring, address, f"onnx:{tmp_path / 'My Net.onnx'}")
        assert await asyncio.to_thread(bring, address, f"onnx:{tmp_path / 'My Net.onnx'}") == name
    store = open_store(str(tmp_path / "store"))
    network = find_network(store, name)
    assert name == f"onnx:my-net@{network.digest[:12]}"
    assert Extractors(store).find(name) == network.spec
    assert store.get(keys.own_network_file(network.digest, "onnx")) == LARGE
    said = [json.loads(line) for info in store.list(keys.AUDIT) for line in store.get(info.key).splitlines()]
    uploads = [each for each in said if each["what"].endswith("UploadNetwork")]
    assert [each["target"] for each in uploads] == [network.digest]
    assert network.user == uploads[0]["who"]


@pytest.mark.parametrize(
    ("requests", "said"),
    [
        ([pb.UploadNetworkRequest(chunk=b"x")], "begins with its header"),
        ([pb.UploadNetworkRequest()], "begins with its header"),
        ([header(format=pb.NETWORK_FORMAT_UNSPECIFIED)], "one of the formats onnx, tflite"),
        ([header(description='{"size": -1}')], "says nothing of"),
        ([header(size=2**31)], "1 GiB"),
        ([header(file=b"x")], "SHA-256"),
        ([header(b"abc"), pb.UploadNetworkRequest(chunk=b"abd")], "is not what its header says"),
    ],
)
async def test_what_cannot_be_a_network_is_refused(
    tmp_path: Path, requests: list[pb.UploadNetworkRequest], said: str
) -> None:
    """With a reason, and nothing of it is kept."""
    async with serving(tmp_path) as (_, address), open_channel(address, token=TOKEN) as channel:
        with pytest.raises(InvalidInput, match=said):
            await NetworkServiceStub(channel).UploadNetwork(iter(requests))
    assert list(open_store(str(tmp_path / "store")).list(keys.OWN_NETWORKS)) == []


async def test_a_server_fetches_nothing_unless_it_was_told_from_where(tmp_path: Path) -> None:
    """Addresses of users are asked only on hosts that the installation names, whatever the address."""
    async with serving(tmp_path) as (_, address):
        for named, said in (
            ("onnx:https://storage.googleapis.com/net.onnx", "OFFSHELF_FETCH_HOSTS"),
            ("onnx:s3://nets/net.onnx", "OFFSHELF_DATA_BUCKETS"),
        ):
            with pytest.raises(PermissionDenied, match=said):
                await asyncio.to_thread(bring, address, named)


@pytest.mark.parametrize(("status", "error"), [(400, InvalidInput), (503, Unavailable)])
async def test_a_host_that_does_not_give_a_network_is_asked_once(
    tmp_path: Path, status: int, error: type[Exception]
) -> None:
    """Nobody's web server is asked again and again, by gRPC or by the SDK, because a user named it."""
    with WeightsServer() as host:
        host.otherwise = refusing(status)
        async with serving(tmp_path, fetch_hosts=("127.0.0.1",)) as (_, address):
            with pytest.raises(error, match=f"127.0.0.1 answered with status {status}"):
                await asyncio.to_thread(bring, address, f"onnx:{host.url('/net.onnx')}")
        assert [path for path, _ in host.requests] == ["/net.onnx.json"]
