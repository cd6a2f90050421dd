"""Keras on TensorFlow, one image at a time, as FrImCla extracts: run by an environment of its own.

Usage: python one_by_one.py NETWORK FOLDER SECONDS

FOLDER holds JPEGs. Prints images per second. Imports nothing of Offshelf, which is not installed there.
"""

from __future__ import annotations

import importlib
import itertools
import sys
import time
from pathlib import Path

NETWORKS = {
    "vgg16": ("vgg16", "VGG16", 224),
    "vgg19": ("vgg19", "VGG19", 224),
    "resnet50": ("resnet", "ResNet50", 224),
    "inception": ("inception_v3", "InceptionV3", 299),
    "xception": ("xception", "Xception", 299),
    "densenet": ("densenet", "DenseNet121", 224),
}
"""The networks that FrImCla takes from Keras: module, class, and side of the input."""


def main(name: str, folder: str, seconds: float) -> None:
    """Extract one photo after the other, random weights in the network."""
    import keras
    import numpy as np

    module_name, network, side = NETWORKS[name]
    module = importlib.import_module(f"keras.applications.{module_name}")
    model = getattr(module, network)(weights=None, include_top=False, pooling="avg")

    def extract(path: Path) -> None:
        image = keras.utils.img_to_array(keras.utils.load_img(path, target_size=(side, side)))
        model.predict(module.preprocess_input(np.expand_dims(image, 0)), verbose=0)

    photos = itertools.cycle(sorted(Path(folder).glob("*/*.jpg")))
    for _ in range(5):
        extract(next(photos))
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        extract(next(photos))
        count += 1
    print(count / (time.perf_counter() - began))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
