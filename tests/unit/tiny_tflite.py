"""A small TensorFlow Lite file with two outputs, which TensorFlow's own converter has written.

From the root of the repository, in the environment of `make test-serving`, it is written anew by

    .venv-serving/bin/python -m tests.unit.tiny_tflite
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

CHANNELS: Final = 5
"""Of the feature maps: map c is (c + 1) times the mean of the three channels."""
MAPS, MEANS = "PartitionedCall:0", "PartitionedCall:1"
"""What the converter calls the outputs: the maps, of shape (1, 32, 32, 5), and the mean of each."""
FILE: Final = Path(__file__).with_name("two_outputs.tflite")


def converted() -> bytes:
    """Define the network in TensorFlow, and convert it."""
    import tensorflow as tf

    weights = np.repeat(np.arange(1, CHANNELS + 1, dtype=np.float32)[np.newaxis], 3, axis=0) / 3

    @tf.function(input_signature=[tf.TensorSpec([1, 32, 32, 3], tf.float32, name="image")])  # type: ignore[untyped-decorator]
    def network(image: Any) -> dict[str, Any]:
        maps = tf.nn.conv2d(image, weights[np.newaxis, np.newaxis], 1, "VALID")
        return {"maps": maps, "means": tf.reduce_mean(maps, [1, 2])}

    converter = tf.lite.TFLiteConverter.from_concrete_functions([network.get_concrete_function()], tf.Module())
    data: bytes = converter.convert()
    return data


if __name__ == "__main__":
    FILE.write_bytes(converted())
