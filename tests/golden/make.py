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

import numpy as np

from tests.golden.generated import IMAGES, image
from tests.golden.registry import REFERENCES

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.golden.reference import Reference


def main(names: list[str]) -> None:
    """Write the vectors of the networks of these names, or of all."""
    for name in names or REFERENCES:
        vectors = REFERENCES[name].vectors(_pixels(REFERENCES[name]))
        for output, (first, second) in vectors.items():
            norms = np.linalg.norm([first, second], axis=1)
            print(name, output, first.shape, norms, "cosine", first @ second / norms.prod())  # noqa: T201
        np.savez(Path(__file__).parent / f"{name}.npz", allow_pickle=False, **vectors)


def _pixels(reference: Reference) -> NDArray[np.float32]:
    size = (reference.size, reference.size)
    return np.stack([image(reference.name, number, size) for number in range(IMAGES)]).astype(np.float32)


if __name__ == "__main__":
    main(sys.argv[1:])
