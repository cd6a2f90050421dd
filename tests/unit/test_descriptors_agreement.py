"""Descriptors against the libraries that FrImCla computes them with.

Histograms of colours and Haralick's features are called as it calls them. Of HOG and LBP what is registered has other
parameters (docs/architecture.md says which, and why); of HOG its own are tested, too.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import mahotas
import numpy as np
import pytest
from PIL import Image
from skimage import feature

from offshelf.extraction.descriptors.pixels import grey
from offshelf.extraction.descriptors.shape import hog
from offshelf.extraction.descriptors.spaces import SPACES
from offshelf.extraction.registry import find
from tests.unit.fixed_images import IMAGES, describe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

CONVERSIONS = {"lab": cv2.COLOR_RGB2LAB, "hsv": cv2.COLOR_RGB2HSV}
RANGES = {"lab": [0, 256, 0, 256, 0, 256], "hsv": [0, 180, 0, 256, 0, 256]}

HISTOGRAMS = {
    "lab444": [4, 4, 4],
    "lab888": [8, 8, 8],
    "hsv444": [4, 4, 4],
    "hsv888": [8, 8, 8],
    "lab:8,4,2": [8, 4, 2],
    "lab:1,1,1": [1, 1, 1],
    "lab:7,16,3": [7, 16, 3],
    "lab:256,1,256": [256, 1, 256],
    "hsv:26,3,5": [26, 3, 5],  # hue 90 is at the edge of a step, and OpenCV's arithmetic puts it below
    "hsv:180,2,1": [180, 2, 1],
    "hsv:256,4,4": [256, 4, 4],  # more steps than hues
}


def opencv_histogram(name: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Count colours as FrImCla does."""
    space = name[:3]
    image = cv2.cvtColor(pixels, CONVERSIONS[space])
    counts = cv2.calcHist([image], [0, 1, 2], None, HISTOGRAMS[name], RANGES[space])
    return np.asarray(cv2.normalize(counts, np.empty_like(counts)), dtype=np.float32).ravel()


def opencv_grey(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make an image grey as FrImCla does."""
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), dtype=np.uint8)


def mahotas_haralick(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute Haralick's features as FrImCla does."""
    return np.asarray(mahotas.features.haralick(opencv_grey(pixels)).mean(axis=0))


def skimage_hog(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute gradients by scikit-image, of a square of 128 pixels and with the registered cells."""
    square = np.asarray(Image.fromarray(opencv_grey(pixels)).resize((128, 128), Image.Resampling.BILINEAR))
    return np.asarray(feature.hog(square, orientations=9, pixels_per_cell=(16, 16), cells_per_block=(2, 2)))


def frimclas_hog(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Compute gradients of an image of 231 x 231 pixels with FrImCla's arguments, word for word."""
    return np.asarray(feature.hog(opencv_grey(pixels), 9, (10, 10), (2, 2), transform_sqrt=True))


def skimage_lbp(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Count uniform patterns by scikit-image."""
    patterns = feature.local_binary_pattern(opencv_grey(pixels), 24, 3, "uniform")
    return np.asarray(np.histogram(patterns, bins=np.arange(27))[0] / patterns.size)


def all_agree(pixels: NDArray[np.uint8]) -> bool:
    """Compare all descriptors of an image; the bounds are those that the documentation states."""
    for name in HISTOGRAMS:
        assert describe(name, pixels) == pytest.approx(opencv_histogram(name, pixels), rel=1e-6, abs=1e-9), name
    texture, shape = mahotas_haralick(pixels), skimage_hog(pixels)
    assert describe("haralick", pixels) == pytest.approx(texture, rel=1e-6)
    assert np.linalg.norm(describe("hog", pixels) - shape) <= 0.01 * np.linalg.norm(shape)
    assert np.abs(describe("lbp", pixels) - skimage_lbp(pixels)).sum() <= 0.005
    both = describe("haarhog", pixels)
    assert np.array_equal(both, np.append(describe("hog", pixels), describe("haralick", pixels)))
    return len(both) == len(shape) + len(texture)


@pytest.mark.parametrize("name", IMAGES)
def test_descriptors_are_those_of_frimclas_libraries(name: str) -> None:
    """Vectors are what OpenCV, mahotas and scikit-image compute with the registered parameters."""
    assert all_agree(IMAGES[name])


@pytest.mark.parametrize("name", IMAGES)
def test_frimclas_own_gradients_can_be_computed(name: str) -> None:
    """With FrImCla's parameters, an image that was squeezed as FrImCla squeezes it has the vector that it has there."""
    squeezed = np.asarray(cv2.resize(IMAGES[name], (231, 231)), dtype=np.uint8)
    vector = hog(squeezed, size=231, orientations=9, pixels_per_cell=10, cells_per_block=2, transform_sqrt=True)
    assert vector.shape == (17_424,)
    assert np.array_equal(vector, frimclas_hog(squeezed).astype(np.float32))


def test_descriptors_of_real_photos_are_those_of_frimclas_libraries() -> None:
    """Vectors of photographs are what OpenCV, mahotas and scikit-image compute of them."""
    material = os.environ.get("OFFSHELF_TEST_MATERIAL")
    if not material:
        pytest.skip("OFFSHELF_TEST_MATERIAL names no folder with photographs")
    photos = sorted((Path(material) / "images/dogs-cats/train").glob("*/*.jpg"))[::60]
    assert photos
    for path in photos:
        with Image.open(path) as image:
            assert all_agree(np.asarray(image.convert("RGB"))), path.name


def every_colour() -> Iterator[NDArray[np.uint8]]:
    """Give the 16.7 million colours of 8 bits, in pieces."""
    rest = np.stack(np.meshgrid(np.arange(256), np.arange(256), indexing="ij"), axis=-1)
    for red in range(0, 256, 16):
        piece = np.empty((16, 256, 256, 3), np.uint8)
        piece[..., 0] = np.arange(red, red + 16)[:, np.newaxis, np.newaxis]
        piece[..., 1:] = rest
        yield piece.reshape(16, 256 * 256, 3)


@pytest.mark.parametrize("space", SPACES)
def test_every_colour_is_converted_as_by_opencv(space: str) -> None:
    """No colour counts in another bin than OpenCV would put it in, however many bins there are."""
    convert, extents = SPACES[space]
    for colours in every_colour():
        converted = np.stack(convert(colours), axis=-1)
        assert np.array_equal(converted, cv2.cvtColor(colours, CONVERSIONS[space]))
        assert (converted.min(axis=(0, 1)) >= 0).all()
        assert (converted.max(axis=(0, 1)) < extents).all()


def test_every_colour_becomes_grey_as_by_opencv() -> None:
    """Texture and shape see the grey image that OpenCV would make."""
    assert all(np.array_equal(grey(colours), opencv_grey(colours)) for colours in every_colour())


def test_a_length_in_the_registry_is_that_of_the_libraries() -> None:
    """The lengths that the catalogue names are those of the libraries' vectors."""
    pixels = IMAGES["photo"]
    lengths = {"haralick": mahotas_haralick, "hog": skimage_hog, "lbp": skimage_lbp}
    assert {name: find(name).dimension for name in lengths} == {
        name: len(compute(pixels)) for name, compute in lengths.items()
    }
    assert find("haarhog").dimension == find("hog").dimension + find("haralick").dimension
