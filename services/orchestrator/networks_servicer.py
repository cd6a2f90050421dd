"""The RPCs of users' own networks: protobuf to domain and back. What each means stands in the contract (protos/)."""

# ruff: noqa: N802, D102  (gRPC's names; the contract documents them)

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

from google.protobuf.timestamp_pb2 import Timestamp

from offshelf.errors import InvalidInput
from offshelf.extraction.own.description import parse_description
from offshelf.rpc.audit import name_target
from offshelf.rpc.auth import current_caller
from offshelf.services.orchestrator.holdings.incoming_network import NetworkHeader
from offshelf.v1 import network_pb2 as pb
from offshelf.v1 import network_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import grpc.aio

    from offshelf.extraction.own.description import NetworkFormat
    from offshelf.extraction.own.stored import OwnNetwork
    from offshelf.services.orchestrator.holdings.networks import Networks

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

_FORMATS: dict[int, NetworkFormat] = {pb.NETWORK_FORMAT_ONNX: "onnx", pb.NETWORK_FORMAT_TFLITE: "tflite"}


class NetworkServicer(network_pb2_grpc.NetworkServiceServicer):
    """Converts, calls one method, converts."""

    def __init__(self, networks: Networks) -> None:
        self._networks = networks

    async def FindNetwork(self, request: pb.FindNetworkRequest, context: Context) -> pb.FindNetworkResponse:
        del context
        network = await self._networks.find(request.file.hex(), _format(request.format), request.description)
        return pb.FindNetworkResponse(network=None if network is None else _network(network))

    async def UploadNetwork(
        self, request_iterator: AsyncIterator[pb.UploadNetworkRequest], context: Context
    ) -> pb.UploadNetworkResponse:
        del context
        sent = _messages(request_iterator)
        network = await self._networks.receive(current_caller().name, sent, on_digest=name_target)
        return pb.UploadNetworkResponse(network=_network(network))

    async def ImportNetwork(self, request: pb.ImportNetworkRequest, context: Context) -> pb.ImportNetworkResponse:
        del context
        network = await self._networks.fetch(
            current_caller().name,
            request.address,
            _format(request.format),
            request.description,
            on_digest=name_target,
        )
        return pb.ImportNetworkResponse(network=_network(network))


async def _messages(requests: AsyncIterator[pb.UploadNetworkRequest]) -> AsyncIterator[NetworkHeader | bytes]:
    async for request in requests:
        if request.WhichOneof("content") == "header":
            header = request.header
            yield NetworkHeader(
                name=header.name,
                format=_format(header.format),
                description=parse_description(header.description, f"The description of {header.name[:100]!r}"),
                size=header.size,
                file=header.file.hex(),
            )
        else:
            yield request.chunk


def _format(value: int) -> NetworkFormat:
    if value not in _FORMATS:
        raise InvalidInput(f"A network is in one of the formats {', '.join(_FORMATS.values())}.")
    return _FORMATS[value]


def _network(network: OwnNetwork) -> pb.OwnNetwork:
    created = Timestamp()
    created.FromDatetime(network.created_at)
    return pb.OwnNetwork(
        extractor=network.name,
        digest=network.digest,
        file_name=network.file_name,
        bytes=network.size,
        created_at=created,
        user=network.user,
    )
