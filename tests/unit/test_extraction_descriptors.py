from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from offshelf.extraction.decoding import function_of
from offshelf.extraction.descriptors.pixels import bounded, grey
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import Descriptor

if TYPE_CHECKING:
    from numpy.typing import NDArray

NAMES = [name for name, spec in EXTRACTORS.items() if isinstance(spec.method, Descriptor)]


def describe(name: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute a registered descriptor."""
    method = EXTRACTORS[name].method
    assert isinstance(method, Descriptor)
    vector: NDArray[np.float32] = function_of(method.function)(pixels, **method.parameters)
    return vector


def photo(height: int = 60, width: int = 80) -> NDArray[np.uint8]:
    """Make something with edges, colours and noise."""
    generator = np.random.default_rng(3)
    y, x = np.mgrid[:height, :width]
    base = np.stack([x * 255 / width, y * 255 / height, 128 + 100 * np.sin(x * y / 99)], axis=-1)
    return np.clip(base + generator.normal(0, 9, base.shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "pixels",
    [
        np.zeros((1, 1, 3), np.uint8),
        np.full((1, 1, 3), 255, np.uint8),
        np.zeros((40, 50, 3), np.uint8),
        np.full((40, 50, 3), (10, 200, 90), np.uint8),
        photo(1, 3000),
        photo(3000, 1),
        photo(2, 2),
        photo(),
    ],
    ids=["1x1 black", "1x1 white", "black", "one colour", "a row", "a column", "2x2", "photo"],
)
def test_every_image_has_a_vector(name: str, pixels: NDArray[np.uint8]) -> None:
    """An image of any size, even one pixel or one colour, has a vector of the registered length, without NaN."""
    vector = describe(name, pixels)
    assert vector.dtype == np.float32
    assert vector.shape == (EXTRACTORS[name].dimension,)
    assert np.isfinite(vector).all()


@pytest.mark.parametrize("name", ["lab444", "haralick", "hog"])
def test_large_images_cost_no_more(name: str) -> None:
    """An image beyond four megapixels is described by its shrunk self."""
    small = photo(2000, 2000)
    large = small.repeat(2, axis=0).repeat(2, axis=1)
    assert np.array_equal(bounded(large), small)
    assert np.array_equal(describe(name, large), describe(name, small))


@pytest.mark.parametrize("shape", [(3000, 2000), (1, 5_000_000), (5_000_000, 1), (7, 900_001), (2000, 2000)])
def test_the_bound_holds_for_every_shape(shape: tuple[int, int]) -> None:
    """Shrinking ends at four megapixels, keeps the proportions where it can, and leaves small images alone."""
    height, width = bounded(np.zeros((*shape, 3), np.uint8)).shape[:2]
    assert min(height, width) >= 1
    assert height * width <= 4_000_000
    assert height * width > 3_900_000 or min(shape) < 10
    if min(shape) > 100:
        assert height / width == pytest.approx(shape[0] / shape[1], rel=0.01)


@pytest.mark.parametrize(
    ("space", "colour", "steps"),
    [
        # OpenCV's 8-bit values: hue 0 to 179; L * 255 / 100, a + 128, b + 128.
        ("hsv", (255, 0, 0), (0, 3, 3)),  # 0, 255, 255
        ("hsv", (0, 255, 0), (1, 3, 3)),  # 60, 255, 255
        ("hsv", (0, 0, 255), (2, 3, 3)),  # 120, 255, 255
        ("hsv", (255, 0, 2), (0, 3, 3)),  # a hue that rounds to 180 is 0 again
        ("hsv", (0, 0, 0), (0, 0, 0)),
        ("lab", (255, 255, 255), (3, 2, 2)),  # 255, 128, 128
        ("lab", (0, 0, 0), (0, 2, 2)),  # 0, 128, 128
        ("lab", (255, 0, 0), (2, 3, 3)),  # 136, 208, 195
        ("lab", (0, 0, 255), (1, 3, 0)),  # 82, 207, 20
    ],
)
def test_a_colour_falls_where_opencv_puts_it(space: str, colour: tuple[int, int, int], steps: tuple[int, ...]) -> None:
    """A picture of one colour is one bin of the joint histogram: the one of OpenCV's 8-bit colour spaces."""
    vector = describe(f"{space}444", np.full((5, 7, 3), colour, np.uint8)).reshape(4, 4, 4)
    assert vector[steps] == 1
    assert vector.sum() == 1


def test_histograms_count_pixels_and_have_length_one() -> None:
    """A histogram tells how much there is of each colour, whatever the size of the picture."""
    pixels = np.zeros((4, 10, 3), np.uint8)
    pixels[:, :3] = (255, 255, 255)
    vector = describe("hsv888", pixels)
    white, black = np.sort(vector)[-2:]
    assert white / black == pytest.approx(12 / 28)
    assert np.linalg.norm(vector) == pytest.approx(1)
    assert vector == pytest.approx(describe("hsv888", np.tile(pixels, (3, 2, 1))))


def test_grey_is_opencvs() -> None:
    """Texture and shape see the grey picture that OpenCV would make."""
    pixels = np.array([[(255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (10, 20, 30)]], np.uint8)
    assert grey(pixels).tolist() == [[255, 76, 150, 29, 18]]


def test_haralick_agrees_with_mahotas() -> None:
    """Haralick's features are those of mahotas as FrImCla uses it."""
    import mahotas

    expected = mahotas.features.haralick(grey(photo())).mean(axis=0)
    assert describe("haralick", photo()) == pytest.approx(expected, rel=1e-6)


def test_haralick_of_known_texture() -> None:
    """A chequered board has the contrast, correlation and energy that its definition gives."""
    board = (np.indices((20, 20)).sum(axis=0) % 2).astype(np.uint8)
    vector = describe("haralick", np.repeat(board[:, :, np.newaxis], 3, axis=2))
    # Along rows and columns neighbours always differ by 1, along diagonals never.
    assert vector[1] == pytest.approx(0.5)  # contrast
    assert vector[2] == pytest.approx(0, abs=1e-3)  # correlation: -1, 1, -1, 1
    assert vector[0] == pytest.approx(0.5, abs=0.01)  # energy


def test_hog_sees_where_edges_point() -> None:
    """A picture turned by a quarter has its edge directions turned by a quarter."""
    y, x = np.mgrid[:128, :128]
    stripes = np.repeat(((x // 8 % 2) * 255).astype(np.uint8)[:, :, np.newaxis], 3, axis=2)
    upright = describe("hog", stripes).reshape(7, 7, 2, 2, 9).sum(axis=(0, 1, 2, 3))
    lying = describe("hog", stripes.transpose(1, 0, 2)).reshape(7, 7, 2, 2, 9).sum(axis=(0, 1, 2, 3))
    assert int(upright.argmax()) == 0
    assert int(lying.argmax()) == 4
    assert y.shape == x.shape


def test_hog_does_not_depend_on_the_size() -> None:
    """A photo and its enlargement have nearly the same shape vector, of the same length."""
    small = photo(128, 128)
    large = small.repeat(3, axis=0).repeat(3, axis=1)
    one, other = describe("hog", small), describe("hog", large)
    assert float(one @ other / np.linalg.norm(one) / np.linalg.norm(other)) > 0.9


def test_descriptors_do_not_change_their_image() -> None:
    """Describing an image leaves its pixels as they were."""
    pixels: Any = photo()
    pixels.setflags(write=False)
    for name in NAMES:
        assert np.array_equal(describe(name, pixels), describe(name, photo()))
