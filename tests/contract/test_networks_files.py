"""What becomes of weights files, right ones and wrong ones."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from offshelf.errors import DataLoss
from offshelf.extraction.conversion import convert
from offshelf.extraction.engine import Engine
from offshelf.extraction.registry import find
from offshelf.extraction.spec import Network
from offshelf.extraction.squeezing import squeezed
from offshelf.extraction.weights.finding import read_weights
from offshelf.images import decode_image
from tests.golden.networks import weights_file, with_file

if TYPE_CHECKING:
    from numpy.typing import NDArray


def refusal(data: bytes, extractor: str = "squeezenet") -> str:
    """Convert a network from a file that cannot be right, and give what users read."""
    with pytest.raises(DataLoss) as caught:
        convert(*with_file(find(extractor), data), data)
    return caught.value.message


def test_a_file_that_was_cut_off_is_refused() -> None:
    """Half a weights file is refused with its name, its size and the size it should have."""
    data = weights_file("squeezenet")
    message = refusal(data[: len(data) // 2])
    assert message.startswith("squeezenet.h5, the weights of a random squeezenet, cannot be read as HDF5")
    assert f"{len(data) // 2} bytes" in message
    assert str(len(data)) in message


def test_what_is_no_h5_file_is_refused() -> None:
    """A web page that was saved under the name of a weights file is refused with that name."""
    assert "squeezenet.h5" in refusal(b"<html>Not found</html>" * 100)
    assert "squeezenet.h5" in refusal(b"")


def test_the_file_of_another_network_is_refused() -> None:
    """A file of another network is refused with how many layers were expected and found."""
    message = refusal(weights_file("squeezenet"), "vgg16")
    assert "vgg16.h5 does not hold the weights of a random vgg16" in message
    assert "expected 13 layers, found 25 saved layers" in message


@pytest.mark.parametrize("change", ["shape", "array", "layer", "layout"])
def test_a_file_of_another_version_is_refused(change: str) -> None:
    """A file with another shape, without an array, without a layer, or in another layout is refused with its name."""
    buffer = io.BytesIO(weights_file("squeezenet"))
    with h5py.File(buffer, "r+") as file:
        layer = file[next(name for name in file.attrs["layer_names"] if file[name].attrs["weight_names"].size)]
        kernel = layer.attrs["weight_names"][0]
        match change:
            case "shape":
                del layer[kernel]
                layer[kernel] = np.zeros((3, 3, 3, 96), np.float32)
            case "array":
                del layer[kernel]
            case "layer":
                layer.attrs["weight_names"] = np.array([], dtype="S1")
            case "layout":
                del file.attrs["layer_names"]
    message = refusal(buffer.getvalue())
    assert message.startswith("squeezenet.h5 does not hold the weights of a random squeezenet: ")
    if change == "shape":
        assert "(3, 3, 3, 64)" in message
        assert "(3, 3, 3, 96)" in message


def test_squeezenet_with_its_real_weights_tells_dogs_from_cats() -> None:
    """The published weights, in the published file, give features that are good for something."""
    folder = os.environ.get("OFFSHELF_TEST_MATERIAL", "")
    if not folder:
        pytest.skip("OFFSHELF_TEST_MATERIAL is not set: there are no real weights and photos here")
    spec = find("squeezenet")
    assert isinstance(spec.method, Network)
    size = spec.method.size
    engine = Engine(convert(spec, *read_weights(spec, str(Path(folder, "weights")))), cores=1)

    def features(part: str, count: int) -> tuple[NDArray[np.float32], list[str]]:
        classes = sorted(Path(folder, "images", "dogs-cats", part).iterdir())
        photos = [photo for each in classes for photo in sorted(each.iterdir())[:count]]
        pixels = (squeezed(decode_image(photo.read_bytes(), max_pixels=10**8), size=size) for photo in photos)
        return np.stack([engine.infer(each) for each in pixels]), [photo.parent.name for photo in photos]

    judge = LogisticRegression(C=1e-4, max_iter=1000).fit(*features("train", 100))
    assert judge.score(*features("test", 50)) >= 0.9
