"""The messages and stubs of TensorFlow Serving, without TensorFlow.

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
from typing import Any, Final

from offshelf.errors import NotFound

_TENSORFLOW: Final = "tensorflow"
_LOADING: Final = threading.Lock()


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
