"""Keras' weights files: HDF5 in the layout of Keras 1 and 2, a group a layer.

Layers are matched by their order, since names differ between versions of Keras. Those of the network and of the file
have to agree in number and in the shapes of all arrays.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offshelf.errors import DataLoss
from offshelf.extraction.networks.blueprint import exported

if TYPE_CHECKING:
    from offshelf.extraction.networks.blueprint import Blueprint


def filled(model: Any, blueprint: Blueprint, data: bytes) -> Any:
    """Fill a Keras model with the weights in an h5 file, and make what a builder gives of it.

    Parameters
    ----------
    model
        A Keras model whose input is `Blueprint.image`.
    blueprint
        What is built; with "flatten", feature maps become one vector, by row, column and channel.
    data
        The file.

    Raises
    ------
    DataLoss
        If the file cannot be read, or holds other layers or shapes than the model has.
    """
    import keras

    _load(model, blueprint, data)
    if blueprint.output == "flatten":
        data_format = "channels_first" if model.input_shape[1] == len("RGB") else "channels_last"
        model = keras.Model(model.inputs, keras.layers.Flatten(data_format=data_format)(model.output))
    return exported(model, blueprint)


def _load(model: Any, blueprint: Blueprint, data: bytes) -> None:
    with tempfile.TemporaryDirectory(prefix="offshelf-weights-") as folder:
        path = Path(folder, "weights.h5")
        path.write_bytes(data)
        try:
            model.load_weights(path)
        except OSError as error:
            raise DataLoss(
                f"{blueprint.file}, the weights of {blueprint.weights.name}, cannot be read as HDF5, {len(data)} bytes "
                f"of it: get the file again. ({error})"
            ) from error
        except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError) as error:
            # What the parsers make of a file of another layout, too.
            raise DataLoss(
                f"{blueprint.file} does not hold the weights of {blueprint.weights.name}: {error.args[0]}"
            ) from error
