"""A server of TensorFlow Serving's protocol that answers what a test says, on a real port."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import numpy as np

from offshelf.rpc.remote_engine import RemoteEngine
from offshelf.rpc.serving_api import ServingApi, load_serving_api
from offshelf.served_models import FEATURES, FINGERPRINT, IDENTITY_SIGNATURE, ServedModel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

DIMENSION = 4
NETWORK = "f" * 64
VECTOR = np.array([0.5, -1.0, 0.0, 3.25], np.float32)
PIXELS = (np.arange(2 * 3 * 3) % 251).astype(np.uint8).reshape(2, 3, 3)


class Refusal(NamedTuple):
    """What a call is answered with instead of features."""

    code: grpc.StatusCode
    details: str


@dataclass
class Script:
    """What the server does; tests change it as they go."""

    vector: Any = field(default_factory=lambda: VECTOR[np.newaxis])
    """What it gives for an image."""
    output: str = FEATURES
    """What it calls that."""
    network: str | None = NETWORK
    """Which network it says it is; None if it has no way to say so."""
    version: int = 1
    states: dict[int, str] | None = None
    """Versions that it says it has, and their states; None if it knows no such model."""
    refusals: list[Refusal] = field(default_factory=list)
    """What the next calls get."""
    holds: threading.Event = field(default_factory=threading.Event)
    """Set: calls wait for `lets_go`."""
    lets_go: threading.Event = field(default_factory=threading.Event)
    asked: list[Any] = field(default_factory=list)
    """All requests, in order."""
    time_given: list[float] = field(default_factory=list)
    """For how long whoever sent them waits, in seconds."""


class _Servicer:
    def __init__(self, api: ServingApi, script: Script) -> None:
        self._api = api
        self._script = script

    def Predict(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802  gRPC's name
        script = self._script
        script.asked.append(request)
        script.time_given.append(context.time_remaining())
        if script.holds.is_set():
            script.lets_go.wait(30)
        answer = self._api.predict.PredictResponse()
        answer.model_spec.version.value = script.version
        if script.refusals:
            context.abort(*script.refusals.pop(0))
        if request.model_spec.signature_name == IDENTITY_SIGNATURE:
            if script.network is None:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "Serving signature key not found")
            answer.outputs[FINGERPRINT].CopyFrom(
                self._api.tensor.TensorProto(dtype=self._api.types.DT_STRING, string_val=[str(script.network).encode()])
            )
        else:
            answer.outputs[script.output].CopyFrom(tensor_of(self._api, script.vector))
        return answer

    def GetModelStatus(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802  gRPC's name
        if self._script.states is None:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {request.model_spec.name}")
        answer = self._api.status.GetModelStatusResponse()
        for version, state in (self._script.states or {}).items():
            answer.model_version_status.add(version=version, state=state)
        return answer

    def __getattr__(self, name: str) -> Any:
        """Give gRPC the methods that it asks for, which nobody calls."""
        return None


def tensor_of(api: ServingApi, array: NDArray[Any]) -> Any:
    """Write an array as a tensor: its numbers one by one, as TensorFlow Serving does."""
    kind = {"float32": "FLOAT", "float64": "DOUBLE", "uint8": "UINT8"}[array.dtype.name]
    tensor = api.tensor.TensorProto(dtype=api.types.DataType.Value(f"DT_{kind}"))
    for size in array.shape:
        tensor.tensor_shape.dim.add(size=size)
    {"FLOAT": tensor.float_val, "DOUBLE": tensor.double_val, "UINT8": tensor.int_val}[kind].extend(
        array.ravel().tolist()
    )
    return tensor


@contextmanager
def serving(script: Script, credentials: grpc.ServerCredentials | None = None, port: int = 0) -> Iterator[str]:
    """Serve a script; gives the address."""
    api = load_serving_api()
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
    servicer = _Servicer(api, script)
    api.prediction_service.add_PredictionServiceServicer_to_server(servicer, server)
    api.model_service.add_ModelServiceServicer_to_server(servicer, server)
    wanted = f"127.0.0.1:{port}"
    port = server.add_secure_port(wanted, credentials) if credentials else server.add_insecure_port(wanted)
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        script.lets_go.set()
        server.stop(None).wait()


@contextmanager
def engine_at(address: str, **changes: Any) -> Iterator[RemoteEngine]:
    """Connect to what is served there."""
    model = ServedModel("resnet50", address, "net", changes.pop("version", None))
    arguments: dict[str, Any] = {"dimension": DIMENSION, "fingerprint": NETWORK, "seconds": 20.0, "patience": 20.0}
    engine = RemoteEngine(model, **(arguments | changes))
    try:
        yield engine
    finally:
        engine.close()
