"""Networks for TensorFlow Serving: the same definitions and weights, written as a SavedModel.

What is served takes the pixels as they are decoded, uint8, and holds the rest of the preprocessing. It needs TensorFlow
(the extra tfserving), which runs in a process of its own that ends with the export.
"""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offshelf.errors import Conflict, InvalidInput, NotFound
from offshelf.extraction.networks.blueprint import Blueprint
from offshelf.extraction.own.description import FORMATS
from offshelf.extraction.registry import find
from offshelf.extraction.spec import Network, fingerprint, served
from offshelf.extraction.weights.fetching import NEVER
from offshelf.extraction.weights.finding import read_weights
from offshelf.served_models import FEATURES, FINGERPRINT, IDENTITY_SIGNATURE, IMAGES, SIGNATURE, model_name
from offshelf.workers import WITHOUT_SECRETS, WorkerPool

if TYPE_CHECKING:
    from offshelf.extraction.spec import ExtractorSpec, WeightsFile
    from offshelf.extraction.weights.fetching import FetchPolicy
    from offshelf.workers import Handler


def export_saved_model(
    name: str, folder: Path, *, version: int = 1, weights: str = "", fetch: FetchPolicy = NEVER
) -> Path:
    """Write an extractor's network as a SavedModel.

    Parameters
    ----------
    name
        Of an extractor with a network that is defined in Keras.
    folder
        Gets the folder ``NAME/VERSION``: the layout that TensorFlow Serving and OpenVINO Model Server look for.
    version
        Servers take the largest.
    weights, fetch
        Where its weights are looked for, and who may be asked for them; as for `read_weights`.

    Returns
    -------
    Path
        The folder of the version. It appears when it is complete: a server may be looking.

    Raises
    ------
    UnknownName, InvalidInput
        If there is no such extractor, or it has no network, or none that TensorFlow can run.
    Conflict
        If this version is there.
    NotFound
        If TensorFlow is not installed, or its weights cannot be had.
    DataLoss
        If the weights are not what they should be.
    """
    if name.partition(":")[0] in FORMATS:
        raise InvalidInput(f"{name} is a network of your own: only those that Offshelf itself defines can be exported.")
    spec = served(find(name))
    if importlib.util.find_spec("tensorflow") is None:
        raise NotFound("Exporting a network needs TensorFlow: pip install 'offshelf[tfserving]'.")
    target = folder / model_name(spec.name) / str(version)
    if target.exists():
        raise Conflict(f"{target} is there already: give another --version, or remove it.")
    return write_saved_model(spec, target, *read_weights(spec, weights, fetch))


def write_saved_model(spec: ExtractorSpec, target: Path, file: WeightsFile, data: bytes) -> Path:
    """Write the network of an extractor on a remote engine from one of its weights files, whose digest was checked.

    Raises
    ------
    InvalidInput, DataLoss
        As `export_saved_model`.
    """
    network = spec.method
    if not isinstance(network, Network):
        raise TypeError(f"{spec.name} has no network")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".offshelf-", dir=target.parent) as beside:
        setup = {
            "name": spec.name,
            "builder": network.builder,
            "blueprint": Blueprint.of(network, file, served=True).to_json(),
            "reverse": network.colour == "BGR",
            "mean": network.mean,
            "scale": network.scale,
            "fingerprint": fingerprint(spec),
            "folder": str(Path(beside, "model")),
        }
        environment = {
            **WITHOUT_SECRETS,
            "KERAS_BACKEND": "tensorflow",
            "KERAS_HOME": beside,
            "TF_CPP_MIN_LOG_LEVEL": "3",
            "CUDA_VISIBLE_DEVICES": "-1",
        }
        with WorkerPool(1, f"{__name__}:handler", setup=setup, environment=environment) as pool:
            pool.call({}, data, timeout=None)
        Path(beside, "model").rename(target)
    return target


def handler(setup: dict[str, Any]) -> Handler:
    """Build the worker's side of `write_saved_model`: a weights file in, a folder written."""
    module, _, function = setup["builder"].partition(":")
    build = getattr(importlib.import_module(module), function)
    blueprint = Blueprint.from_json(setup["blueprint"])

    def answer(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:  # noqa: ARG001 - Handler's form
        import keras

        model = build(blueprint, data)
        if not isinstance(model, keras.Model):
            raise InvalidInput(
                f"{setup['name']} cannot be exported: its network is made of OpenVINO's own operations, without Keras."
            )
        _save(model, blueprint, setup)
        return {}, b""

    return answer


def _save(model: Any, blueprint: Blueprint, setup: dict[str, Any]) -> None:
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    images = tf.TensorSpec([None, *blueprint.size, 3], tf.uint8, name=IMAGES)

    @tf.function(input_signature=[images], autograph=False)  # type: ignore[untyped-decorator]
    def network(images: Any) -> Any:
        pixels = tf.cast(images, tf.float32)
        if setup["reverse"]:
            pixels = tf.reverse(pixels, axis=[-1])
        pixels = (pixels - tf.constant(setup["mean"], tf.float32)) / tf.constant(setup["scale"], tf.float32)
        return model(pixels, training=False)

    # Weights as constants: nothing will train them, and OpenVINO does not find all variables of a Keras model.
    frozen = convert_variables_to_constants_v2(network.get_concrete_function())

    @tf.function(input_signature=[images], autograph=False)  # type: ignore[untyped-decorator]
    def features(images: Any) -> dict[str, Any]:
        (vectors,) = frozen(images)
        return {FEATURES: vectors}

    # One for each image, since a server may put what several callers ask into one batch.
    @tf.function(input_signature=[images], autograph=False)  # type: ignore[untyped-decorator]
    def identity(images: Any) -> dict[str, Any]:
        return {FINGERPRINT: tf.repeat(tf.constant(setup["fingerprint"]), tf.shape(images)[0])}

    signatures = {SIGNATURE: features, IDENTITY_SIGNATURE: identity}
    without_gradients = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(tf.Module(), setup["folder"], signatures, without_gradients)
