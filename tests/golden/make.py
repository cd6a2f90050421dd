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

os.environ["KERAS_BACKEND"] = "tensorflow"
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"  # plain kernels: the reference should have as little cleverness as possible

import keras
import numpy as np

from tests.golden.definitions import DEFINITIONS
from tests.golden.generated import IMAGES, fill, image


def main(names: list[str]) -> None:
    """Write the vectors of the networks of these names, or of all."""
    for name in names or DEFINITIONS:
        definition = DEFINITIONS[name]
        size = (definition.size, definition.size)
        pixels = np.stack([image(name, number, size) for number in range(IMAGES)]).astype(np.float32)
        vectors = {}
        for output in definition.outputs:
            keras.utils.clear_session()
            model = definition.build(output)
            fill(model, name, definition.gain)
            vectors[output] = np.stack(
                [model(definition.preprocess(each[np.newaxis].copy())).numpy()[0] for each in pixels]
            )
            first, second = vectors[output]
            norms = np.linalg.norm(vectors[output], axis=1)
            print(name, output, vectors[output].shape, norms, "cosine", first @ second / norms.prod())  # noqa: T201
        np.savez(Path(__file__).parent / f"{name}.npz", allow_pickle=False, **vectors)


if __name__ == "__main__":
    main(sys.argv[1:])
