"""What the SDK says over gRPC about networks of users' own. See `gateway` for the rest."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from offshelf.rpc.limits import CHUNK_BYTES
from offshelf.v1 import network_pb2, network_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Iterator

    import grpc

    from offshelf.extraction.own.description import NetworkFormat

_FIND_SECONDS = 120.0
_FETCH_SECONDS = 3600.0
_LEAST_BYTES_A_SECOND = 16 * 1024
"""A line that is slower does not serve for networks."""

_FORMATS: dict[NetworkFormat, network_pb2.NetworkFormat.ValueType] = {
    "onnx": network_pb2.NETWORK_FORMAT_ONNX,
    "tflite": network_pb2.NETWORK_FORMAT_TFLITE,
}


class NetworkGateway:
    """The part of a server that knows networks of users' own."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = network_pb2_grpc.NetworkServiceStub(channel)

    def find(self, file: str, format_: NetworkFormat, description: str) -> str | None:
        """Return the name of the extractor that a network is, by the SHA-256 of its file; None if it is not there."""
        request = network_pb2.FindNetworkRequest(
            file=bytes.fromhex(file), format=_FORMATS[format_], description=description
        )
        answer = self._stub.FindNetwork(request, timeout=_FIND_SECONDS)
        return answer.network.extractor if answer.HasField("network") else None

    def send(
        self, name: str, format_: NetworkFormat, description: str, *, file: str, size: int, stream: IO[bytes]
    ) -> str:
        """Store a network; return the name of the extractor that it is.

        Parameters
        ----------
        name
            Of its file.
        format_, description
            Of the network.
        file, size
            SHA-256 and bytes of its file.
        stream
            The file.
        """

        def requests() -> Iterator[network_pb2.UploadNetworkRequest]:
            yield network_pb2.UploadNetworkRequest(
                header=network_pb2.NetworkHeader(
                    name=name, format=_FORMATS[format_], description=description, size=size, file=bytes.fromhex(file)
                )
            )
            while chunk := stream.read(CHUNK_BYTES):
                yield network_pb2.UploadNetworkRequest(chunk=chunk)

        answer = self._stub.UploadNetwork(requests(), timeout=_FIND_SECONDS + size / _LEAST_BYTES_A_SECOND)
        return answer.network.extractor

    def fetch(self, address: str, format_: NetworkFormat) -> str:
        """Have the server fetch a network; return the name of the extractor that it is."""
        request = network_pb2.ImportNetworkRequest(address=address, format=_FORMATS[format_])
        return self._stub.ImportNetwork(request, timeout=_FETCH_SECONDS).network.extractor
