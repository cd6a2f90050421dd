"""What the builders of networks are given, and how a Keras model becomes what they give back."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from offshelf.extraction.runtime import load_openvino
from offshelf.extraction.spec import Weights, WeightsFile

if TYPE_CHECKING:
    from offshelf.extraction.spec import Network


@dataclass(frozen=True, slots=True)
class Blueprint:
    """What a network is built from, its weights file apart.

    A builder is a function of a blueprint and the bytes of the weights file, whose digest has been checked. It gives an
    `openvino.Model` that takes one image, float32 of shape (1, height, width, 3) or (1, 3, height, width), in the
    network's own order of colours and range of values; and gives one vector, float32 of shape (1, features). Where the
    file is not what the network needs it raises `DataLoss`.
    """

    weights: Weights
    """The weights that are taken."""
    file: str
    """Name of the file; its ending tells the format."""
    size: tuple[int, int]
    """Height and width of the input, pixels."""
    output: str
    """What is taken from the network: `offshelf.extraction.spec.Network.outputs`."""

    @classmethod
    def of(cls, network: Network, file: WeightsFile) -> Blueprint:
        """Make the blueprint of a network from one of its files."""
        return cls(network.taken_weights, file.name, network.size, network.output)

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Blueprint:
        """Rebuild what `to_json` made."""
        weights = data["weights"]
        files = tuple(WeightsFile(**file) for file in weights["files"])
        return cls(Weights(**{**weights, "files": files}), data["file"], tuple(data["size"]), data["output"])


def exported(model: Any) -> Any:
    """Turn a Keras model of one image, built on Keras' OpenVINO backend, into an `openvino.Model`.

    Keras' export makes the number of images variable, whatever the model says. It is fixed again: MobileNet v3 takes a
    quarter less time so, and EfficientNetV2 half.
    """
    with tempfile.TemporaryDirectory(prefix="offshelf-network-") as folder:
        path = Path(folder, "network.xml")
        model.export(str(path), format="openvino", verbose=False)
        # Read again: what Keras' export holds in memory is shared with its own variables.
        graph = load_openvino().Core().read_model(path)
    graph.reshape(list(model.input_shape))
    return graph
