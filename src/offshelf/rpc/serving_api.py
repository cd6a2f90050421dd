"""The messages and stubs of TensorFlow Serving, without TensorFlow; and what goes into them and comes out.

The package tensorflow-serving-api has them. Its messages hold some of TensorFlow's own, and whoever imports those
imports all of TensorFlow first: 560 MB of memory and 8 seconds, for a few messages that need none of it.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from offshelf.errors import NotFound
from offshelf.served_models import FEATURES, IMAGES

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TENSORFLOW: Final = "tensorflow"
_LOADING: Final = threading.Lock()

_LONGEST: Final = 100
"""Characters of what a server sent that go into a message."""


@dataclass(frozen=True, slots=True)
class ServingApi:
    """The modules of the API, as the package names them."""

    predict: Any
    """``predict_pb2``."""
    status: Any
    """``get_model_status_pb2``."""
    tensor: Any
    """``tensor_pb2``."""
    types: Any
    """``types_pb2``."""
    prediction_service: Any
    """``prediction_service_pb2_grpc``."""
    model_service: Any
    """``model_service_pb2_grpc``."""

    def image_request(
        self, model: str, version: int | None, signature: str, *, output: str, pixels: NDArray[np.uint8]
    ) -> Any:
        """Write the ``PredictRequest`` that asks for one output of one image; None and 0 are any version."""
        request = self.predict.PredictRequest(output_filter=[output])
        request.model_spec.name = model
        request.model_spec.signature_name = signature
        if version:
            request.model_spec.version.value = version
        images = request.inputs[IMAGES]
        images.dtype = self.types.DT_UINT8
        for size in (1, *pixels.shape):
            images.tensor_shape.dim.add(size=size)
        images.tensor_content = pixels.tobytes()
        return request

    def features_in(self, answer: Any, dimension: int) -> NDArray[np.float32]:
        """Read the features of one image from a ``PredictResponse``, whoever sent it.

        Returns
        -------
        ndarray of float32, shape (dimension,)

        Raises
        ------
        ValueError
            If they are not that, or not finite: "expected ..., found ...".
        """
        import numpy as np

        if FEATURES not in answer.outputs:
            raise _unlike(f"an output {FEATURES!r}", ", ".join(sorted(answer.outputs))[:_LONGEST] or "none")
        tensor = answer.outputs[FEATURES]
        if tensor.dtype != self.types.DT_FLOAT:
            raise _unlike("float32", _name(self.types.DataType, tensor.dtype))
        shape = tuple(each.size for each in tensor.tensor_shape.dim)
        if shape != (1, dimension):
            raise _unlike(f"the shape (1, {dimension})", str(shape)[:_LONGEST])
        content = tensor.tensor_content
        if len(content) == dimension * np.dtype(np.float32).itemsize:
            vector = np.frombuffer(content, dtype="<f4").astype(np.float32)
        else:
            vector = np.array(tensor.float_val, dtype=np.float32)
        if vector.shape != (dimension,):
            raise _unlike(f"{dimension} numbers", str(vector.size))
        if not np.isfinite(vector).all():
            raise _unlike("finite numbers", f"{np.count_nonzero(~np.isfinite(vector))} that are not")
        return vector

    def string_in(self, answer: Any, output: str) -> bytes:
        """Read the one string of an output from a ``PredictResponse``; empty if there is none."""
        strings = answer.outputs[output].string_val
        return bytes(strings[0]) if len(strings) == 1 else b""

    def states_in(self, answer: Any) -> dict[int, str]:
        """Read the states of a model's versions from a ``GetModelStatusResponse``."""
        names = self.status.ModelVersionStatus.State
        return {int(each.version): _name(names, each.state) for each in answer.model_version_status}


def load_serving_api() -> ServingApi:
    """Import the API.

    Raises
    ------
    NotFound
        If it is not installed; the message says how to.
    """
    with _LOADING:
        # Stands for the package while its messages are imported, which do not use it.
        stands_in = None if _TENSORFLOW in sys.modules else _hollow(_TENSORFLOW)
        if stands_in is not None:
            sys.modules[_TENSORFLOW] = stands_in
        try:
            return ServingApi(
                predict=importlib.import_module("tensorflow_serving.apis.predict_pb2"),
                status=importlib.import_module("tensorflow_serving.apis.get_model_status_pb2"),
                tensor=importlib.import_module("tensorflow.core.framework.tensor_pb2"),
                types=importlib.import_module("tensorflow.core.framework.types_pb2"),
                prediction_service=importlib.import_module("tensorflow_serving.apis.prediction_service_pb2_grpc"),
                model_service=importlib.import_module("tensorflow_serving.apis.model_service_pb2_grpc"),
            )
        except ModuleNotFoundError as error:
            raise NotFound(
                f"An extractor with a remote engine needs the package {error.name}: pip install 'offshelf[tfserving]'."
            ) from error
        finally:
            if stands_in is not None and sys.modules.get(_TENSORFLOW) is stands_in:
                del sys.modules[_TENSORFLOW]


def _hollow(name: str) -> Any:
    """Make a package that has its modules and was never run itself; None if there is none of that name."""
    found: importlib.machinery.ModuleSpec | None = importlib.util.find_spec(name)
    return None if found is None else importlib.util.module_from_spec(found)


def _unlike(expected: str, found: str) -> ValueError:
    return ValueError(f"expected {expected}, found {found}")


def _name(enum: Any, number: int) -> str:
    """Return the name of a value that a server sent, which may be one that we do not know."""
    return next((name for name, value in enum.items() if value == number), str(number))
