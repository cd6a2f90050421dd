"""What TensorFlow Serving does, over TensorFlow's own loader: ``python -m tests.serving.model_server FOLDER [PORT]``.

Serves all models in a folder (``NAME/VERSION/saved_model.pb``) as the real server does: the newest version unless
one is asked for, the same statuses. Says its port on the first line. TensorFlow Serving itself is no Python package.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

import grpc
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

AVAILABLE = get_model_status_pb2.ModelVersionStatus.AVAILABLE


class Models:
    """The models of a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.load = lru_cache(maxsize=None)(self._load)

    def versions(self, name: str) -> list[int]:
        """List the versions of a model; none if there is no such model."""
        return sorted(int(path.name) for path in (self._folder / name).glob("[0-9]*"))

    def _load(self, name: str, version: int) -> Any:
        return tf.saved_model.load(str(self._folder / name / str(version)))


class PredictionServicer(prediction_service_pb2_grpc.PredictionServiceServicer):
    """Runs signatures of the models."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def Predict(self, request: Any, context: Any) -> Any:  # noqa: N802  gRPC's name
        """See prediction_service.proto."""
        asked = request.model_spec
        versions = self._models.versions(asked.name)
        version = asked.version.value if asked.HasField("version") else max(versions, default=0)
        if version not in versions:
            which = f"Specific({asked.name}, {version})" if asked.HasField("version") else f"Latest({asked.name})"
            context.abort(grpc.StatusCode.NOT_FOUND, f"Servable not found for request: {which}")
        signatures = self._models.load(asked.name, version).signatures
        key = asked.signature_name or "serving_default"
        if key not in signatures:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f'Serving signature key "{key}" not found.')
        wanted = signatures[key].structured_input_signature[1]
        if set(request.inputs) != set(wanted):
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "input size does not match signature")
        inputs = {name: tf.constant(tf.make_ndarray(tensor)) for name, tensor in request.inputs.items()}
        for name, tensor in inputs.items():
            if tensor.dtype != wanted[name].dtype or not wanted[name].shape.is_compatible_with(tensor.shape):
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"{name} is not {wanted[name]}")
        outputs = signatures[key](**inputs)
        answer = predict_pb2.PredictResponse(model_spec=asked)
        answer.model_spec.version.value = version
        for name in request.output_filter or outputs:
            answer.outputs[name].CopyFrom(tf.make_tensor_proto(outputs[name].numpy()))
        return answer


class ModelServicer(model_service_pb2_grpc.ModelServiceServicer):
    """Tells which models there are."""

    def __init__(self, models: Models) -> None:
        self._models = models

    def GetModelStatus(self, request: Any, context: Any) -> Any:  # noqa: N802  gRPC's name
        """See model_service.proto."""
        name = request.model_spec.name
        versions = self._models.versions(name)
        if not versions:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Could not find any versions of model {name}")
        answer = get_model_status_pb2.GetModelStatusResponse()
        for version in versions:
            answer.model_version_status.add(version=version, state=AVAILABLE)
        return answer


def main(folder: str, port: str = "0") -> None:
    """Serve until the process is ended."""
    models = Models(Path(folder))
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    prediction_service_pb2_grpc.add_PredictionServiceServicer_to_server(PredictionServicer(models), server)
    model_service_pb2_grpc.add_ModelServiceServicer_to_server(ModelServicer(models), server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    sys.stdout.write(f"{bound}\n")
    sys.stdout.flush()
    server.wait_for_termination()


if __name__ == "__main__":
    main(*sys.argv[1:])
