"""What decode workers do with images that ask for too much, or about which C libraries have much to say."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest
from PIL import Image

from offshelf.extraction import decoding
from offshelf.extraction.decoding import Decoded
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import Network
from offshelf.extraction.squeezing import squeezed
from offshelf.images import ImageStatus
from offshelf.workers import KEEPING_MEMORY, ONE_THREAD, WorkerPool
from offshelf.workers.memory import more_memory_at_most
from tests.unit.odd_images import encoded, hostile, one_of_each_kind, picture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from offshelf.extraction.spec import ExtractorSpec

HARALICK = EXTRACTORS["haralick"]
SIDE = 6000
MEGABYTES = 1 << 20


def decoder(spec: ExtractorSpec = HARALICK, **changes: Any) -> AbstractContextManager[WorkerPool]:
    """Make one worker with the setup that extraction gives it, but for what a test changes."""
    setup = {**decoding.setup(spec, 100_000_000), **changes}
    return WorkerPool(1, decoding.HANDLER, setup=setup, environment={**ONE_THREAD, **KEEPING_MEMORY})


@pytest.fixture(scope="module")
def short_of_memory() -> Iterator[WorkerPool]:
    """Give a decoder with room for a photo, but, with all that it keeps of earlier ones, not for 36 megapixels."""
    with decoder(memory=24 * MEGABYTES) as pool:
        yield pool


def decoded(pool: WorkerPool, *images: bytes) -> list[Decoded]:
    """Have a worker decode images in one call."""
    return decoding.answers(*pool.call(*decoding.call(images)))


def decoders() -> list[int]:
    """List the workers that this process has."""
    children = psutil.Process().children()
    return [child.pid for child in children if "offshelf.workers.child" in child.cmdline()]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF"])
def test_what_takes_too_much_memory_is_too_large(short_of_memory: WorkerPool, kind: str) -> None:
    """An image that decoding has no memory for is put aside as too large, by the same process that takes the next."""
    small = encoded(picture(), kind)
    before = decoded(short_of_memory, small)
    processes = decoders()
    options = {"compression": "tiff_lzw"} if kind == "TIFF" else {}  # a large file would be given as much memory
    huge = encoded(Image.new("RGB", (SIDE, SIDE), "red"), kind, **options)
    reason = "decoding it takes more memory than an image may"
    assert decoded(short_of_memory, huge) == [Decoded(ImageStatus.TOO_LARGE, reason)]
    assert before[0].status is ImageStatus.OK
    assert decoded(short_of_memory, small) == before
    assert decoders() == processes


def test_images_of_one_call_know_nothing_of_each_other() -> None:
    """What comes out for an image is the same to the last bit alone and beside others, usable or not."""
    images = [encoded(picture(), "PNG"), b"no image", b"", encoded(picture(width=90), "JPEG")]
    with decoder() as pool:
        together = decoded(pool, *images)
        assert together == [decoded(pool, data)[0] for data in images]
    assert [image.status is ImageStatus.OK for image in together] == [True, False, False, True]


def test_a_limit_ends_with_its_block() -> None:
    """What one image may take says nothing about the next one."""
    with more_memory_at_most(8 * MEGABYTES), pytest.raises(MemoryError):
        bytearray(1024 * MEGABYTES)  # more than this process may have kept of what it needed before
    assert len(bytearray(1024 * MEGABYTES)) == 1024 * MEGABYTES


@pytest.mark.parametrize(
    "name", [name for name in sorted(EXTRACTORS) if not isinstance(EXTRACTORS[name].method, Network)]
)
@pytest.mark.nightly
def test_images_at_the_limit_on_pixels_have_the_memory_they_need(name: str) -> None:
    """With the limits as they are, images of 100 megapixels are described, in every format that takes much memory."""
    side = 10_000
    image = Image.effect_mandelbrot((side, side), (-3, -2.5, 2, 2.5), 20).convert("RGB")
    files = [encoded(image, "JPEG", progressive=True, subsampling=0)]
    if name == "haralick":
        files += [encoded(image.convert("CMYK"), "JPEG", progressive=True), encoded(image, "WEBP", method=0)]
    del image
    with decoder(EXTRACTORS[name]) as pool:
        assert [image.status for data in files for image in decoded(pool, data)] == [ImageStatus.OK] * len(files)


def test_libraries_do_not_fill_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    """Damaged faxes, of which a library has a line to say for every row, leave nothing in the service's log."""
    fax = one_of_each_kind()["tiff group 4"]
    with decoder() as pool:
        for data in hostile([fax], 40, seed=0):
            decoded(pool, data)
    assert capfd.readouterr().err == ""


def test_networks_have_large_photos_decoded_at_half_their_size() -> None:
    """A network whose input is much smaller than a photo sees it as before; a photo of usual size is decoded whole."""
    googlenet = EXTRACTORS["googlenet"]
    assert isinstance(googlenet.method, Network)
    tiny = replace(googlenet, method=replace(googlenet.method, size=(32, 32)))
    assert decoding.setup(googlenet, 1)["enough"] == 4 * 224
    assert decoding.setup(HARALICK, 1)["enough"] is None
    data = encoded(picture(width=600, height=400), "JPEG")
    with decoder(tiny) as halved, decoder(tiny, enough=None) as whole:
        pixels = [np.frombuffer(decoded(pool, data)[0].array, np.uint8).astype(int) for pool in (halved, whole)]
    whole_image = squeezed(Image.open(io.BytesIO(data)), size=(32, 32))
    assert (pixels[1] == whole_image.ravel()).all()
    assert 0 < np.abs(pixels[0] - pixels[1]).max() <= 2
