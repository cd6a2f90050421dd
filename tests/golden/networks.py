"""Extractors' networks with generated weights, in files as their authors publish them."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from offshelf.digests import digest_of_bytes
from offshelf.extraction.conversion import convert
from offshelf.extraction.spec import Network, Weights, WeightsFile
from offshelf.extraction.weights.arrays import arrays_digest
from offshelf.workers import WorkerPool
from tests.golden import googlenet, overfeat
from tests.golden.definitions import DEFINITIONS
from tests.golden.generated import fill
from tests.unit.worker_handlers import ENVIRONMENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from offshelf.extraction.conversion import ConvertedNetwork
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.workers import Handler


def random_network(spec: ExtractorSpec) -> ConvertedNetwork:
    """Convert the network of an extractor that has golden vectors, perhaps with parameters, from generated weights."""
    assert isinstance(spec.method, Network)
    data = weights_file(spec.name.partition(":")[0], classes=spec.method.output == "classes")
    return convert(*with_file(spec, data), data)


def with_file(spec: ExtractorSpec, data: bytes) -> tuple[ExtractorSpec, WeightsFile]:
    """Make the extractor that accepts this file and no other."""
    assert isinstance(spec.method, Network)
    name = spec.name.partition(":")[0]
    suffix, arrays = ("npz", arrays_digest(googlenet.arrays())) if name == googlenet.NAME else ("h5", "")
    file_name = overfeat.FILE if name == overfeat.NAME else f"{name}.{suffix}"
    file = WeightsFile(file_name, f"sha256:{digest_of_bytes(data)}")
    weights = Weights(f"a random {name}", (file,), "none", arrays)
    return replace(spec, method=replace(spec.method, weights=weights, classes_weights=weights)), file


@lru_cache(maxsize=2)  # some have half a gigabyte
def weights_file(name: str, *, classes: bool = False) -> bytes:
    """Write a network's generated weights as the published ones are written, with the last layers or without."""
    if name == googlenet.NAME:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **googlenet.arrays())
        return buffer.getvalue()
    if name == overfeat.NAME:
        return overfeat.data()
    return _ask_keras("weights_handler", {"name": name, "output": "classes" if classes else "avg"})


def preprocessed(image: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
    """Prepare an image for all networks, each as its authors do."""
    content = _ask_keras("preprocessing_handler", {"shape": image.shape}, image.tobytes())
    return dict(zip(DEFINITIONS, np.frombuffer(content, np.float32).reshape(-1, *image.shape), strict=True))


def weights_handler(setup: dict[str, Any]) -> Handler:  # noqa: ARG001 - as `offshelf.workers` calls it
    """Build Keras' side of `weights_file`."""
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


def _ask_keras(handler: str, header: dict[str, Any], data: bytes = b"") -> bytes:
    with tempfile.TemporaryDirectory(prefix="offshelf-keras-") as home:
        environment = {**ENVIRONMENT, "KERAS_BACKEND": "openvino", "KERAS_HOME": home}
        with WorkerPool(1, f"{__name__}:{handler}", environment=environment) as pool:
            return pool.call(header, data)[1]
