"""What the builders of networks are given, and how a Keras model becomes what they give back."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from offshelf.extraction.runtime import load_openvino
from offshelf.extraction.spec import Weights, WeightsFile

if TYPE_CHECKING:
    from offshelf.extraction.spec import Network


DataFormat: TypeAlias = Literal["channels_first", "channels_last"]


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a network is built from, its weights file apart.

    A builder is a function of a blueprint and the bytes of the weights file, whose digest has been checked. It gives an
    `openvino.Model` that takes one image, float32 of shape (1, height, width, 3) or (1, 3, height, width), in the
    network's own order of colours and range of values; and gives one vector, float32 of shape (1, features). Where the
    file is not what the network needs it raises `DataLoss`.

    Those that define their network in Keras build it on Keras' TensorFlow backend, too, if it is to be served. They
    then give a Keras model of any number of images, (n, height, width, 3).
    """

    weights: Weights
    """The weights that are taken."""
    file: str
    """Name of the file; its ending tells the format."""
    size: tuple[int, int]
    """Height and width of the input, pixels."""
    output: str
    """What is taken from the network: `offshelf.extraction.spec.Network.outputs`."""
    served: bool = False
    """Whether TensorFlow is to serve it, and not OpenVINO."""

    @classmethod
    def of(cls, network: Network, file: WeightsFile, *, served: bool = False) -> Blueprint:
        """Make the blueprint of a network from one of its files."""
        return cls(network.taken_weights, file.name, network.size, network.output, served)

    def data_format(self, wanted: DataFormat = "channels_first") -> DataFormat:
        """Return the order of dimensions that the network is built with: TensorFlow's CPU has one alone."""
        return "channels_last" if self.served else wanted

    def image(self, data_format: DataFormat) -> Any:
        """Make the Keras input of the network."""
        import keras

        shape = (3, *self.size) if data_format == "channels_first" else (*self.size, 3)
        return keras.Input(shape, batch_size=None if self.served else 1)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Blueprint:
        """Rebuild what `to_json` made."""
        weights = data["weights"]
        files = tuple(WeightsFile(**file) for file in weights["files"])
        return cls(**{**data, "weights": Weights(**{**weights, "files": files}), "size": tuple(data["size"])})


def exported(model: Any, blueprint: Blueprint) -> Any:
    """Turn a Keras model into what a builder gives: one that is served as it is, else an `openvino.Model`.

    Keras' export makes the number of images variable, whatever the model says. It is fixed again: MobileNet v3 takes a
    quarter less time so, and EfficientNetV2 half.
    """
    if blueprint.served:
        return model
    with tempfile.TemporaryDirectory(prefix="offshelf-network-") as folder:
        path = Path(folder, "network.xml")
        model.export(str(path), format="openvino", verbose=False)
        # Read again: what Keras' export holds in memory is shared with its own variables.
        graph = load_openvino().Core().read_model(path)
    graph.reshape(list(model.input_shape))
    return graph
