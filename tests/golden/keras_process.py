"""What Keras is asked for, in a process of its own: it takes its backend when it is imported."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offshelf.workers import WorkerPool
from tests.golden.definitions import DEFINITIONS
from tests.golden.generated import fill
from tests.unit.worker_handlers import ENVIRONMENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offshelf.workers import Handler


def saved_weights(name: str, output: str) -> bytes:
    """Write a network's generated weights as the published ones are written: of "classes" with the last layers."""
    return _ask("weights_handler", {"name": name, "output": output})


def preprocessed(image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Prepare an image for all networks of Keras, each as its authors do."""
    content = _ask("preprocessing_handler", {"shape": image.shape}, image.tobytes())
    return dict(zip(DEFINITIONS, np.frombuffer(content, np.float32).reshape(-1, *image.shape), strict=True))


def weights_handler(setup: dict[str, Any]) -> Handler:  # noqa: ARG001 - as `offshelf.workers` calls it
    """Build Keras' side of `saved_weights`."""
    import h5py
    from keras.src.legacy.saving.legacy_h5_format import save_weights_to_hdf5_group

    def answer(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:  # noqa: ARG001 - Handler's form
        definition = DEFINITIONS[header["name"]]
        model = definition.build(header["output"])
        fill(model, header["name"], definition.gain)
        with tempfile.TemporaryDirectory(prefix="offshelf-golden-") as folder:
            path = Path(folder, "weights.h5")
            with h5py.File(path, "w") as file:
                save_weights_to_hdf5_group(file, model)
            return {}, path.read_bytes()

    return answer


def preprocessing_handler(setup: dict[str, Any]) -> Handler:  # noqa: ARG001 - as `offshelf.workers` calls it
    """Build Keras' side of `preprocessed`."""

    def answer(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:
        image = np.frombuffer(data, np.uint8).reshape(header["shape"]).astype(np.float32)
        return {}, b"".join(each.preprocess(image.copy()).astype(np.float32).tobytes() for each in DEFINITIONS.values())

    return answer


def _ask(handler: str, header: dict[str, Any], data: bytes = b"") -> bytes:
    with tempfile.TemporaryDirectory(prefix="offshelf-keras-") as home:
        environment = {**ENVIRONMENT, "KERAS_BACKEND": "openvino", "KERAS_HOME": home}
        with WorkerPool(1, f"{__name__}:{handler}", environment=environment) as pool:
            return bytes(pool.call(header, data)[1])
