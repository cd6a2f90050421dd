"""Make the golden vectors: what Keras on TensorFlow computes with generated weights from generated images.

From the root of the repository, in an environment of its own with the Keras version of requirements/lock.txt:

    python3 -m venv /tmp/golden && /tmp/golden/bin/pip install tensorflow-cpu keras==3.15.1
    /tmp/golden/bin/python -m tests.golden.make [NETWORK...]

Writes tests/golden/<network>.npz, an array an output, a row an image. Nothing of Offshelf takes part.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # plain kernels: the reference should have as little cleverness as possible

import keras
import numpy as np

from tests.golden import googlenet, overfeat
from tests.golden.definitions import DEFINITIONS
from tests.golden.generated import IMAGES, fill, image

if TYPE_CHECKING:
    from numpy.typing import NDArray

OTHERS = {googlenet.NAME: googlenet, overfeat.NAME: overfeat}
"""Networks that Keras has no definition of."""


def main(names: list[str]) -> None:
    """Write the vectors of the networks of these names, or of all."""
    for name in names or [*DEFINITIONS, *OTHERS]:
        vectors = OTHERS[name].vectors(_pixels(name, OTHERS[name].SIZE)) if name in OTHERS else _of_keras(name)
        for output, (first, second) in vectors.items():
            norms = np.linalg.norm([first, second], axis=1)
            print(name, output, first.shape, norms, "cosine", first @ second / norms.prod())  # noqa: T201
        np.savez(Path(__file__).parent / f"{name}.npz", allow_pickle=False, **vectors)


def _of_keras(name: str) -> dict[str, NDArray[np.float32]]:
    definition = DEFINITIONS[name]
    vectors = {}
    for output in definition.outputs:
        keras.utils.clear_session()
        model = definition.build(output)
        fill(model, name, definition.gain)
        vectors[output] = np.stack(
            [
                model(definition.preprocess(each[np.newaxis].copy())).numpy()[0]
                for each in _pixels(name, definition.size)
            ]
        )
    return vectors


def _pixels(name: str, size: int) -> NDArray[np.float32]:
    return np.stack([image(name, number, (size, size)) for number in range(IMAGES)]).astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1:])
