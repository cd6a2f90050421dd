"""What a decode worker does: encoded bytes in; a descriptor's vector, or pixels ready for a network, out.

It runs in a process of its own (`offshelf.workers`), because parsers fed with hostile bytes may crash or hang. A pure
function of its bytes: which worker takes an image, and after which other one, makes no difference.

An image may take 20 bytes of memory for each pixel of the limit on pixels (2 GB by default), twice its file and 256 MiB
beyond what its worker has when it comes. Most formats need 10 bytes a pixel, progressive JPEGs up to 14, and WebP 17.
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final, TypeVar

from offshelf.extraction.spec import Descriptor, ExtractorSpec
from offshelf.extraction.squeezing import squeezed
from offshelf.images import ImageStatus, UnusableImage, decode, decode_image
from offshelf.images.reasons import TOO_MUCH_MEMORY
from offshelf.workers.memory import more_memory_at_most

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.workers import Handler, Header

Data = TypeVar("Data", bytes, memoryview)

HANDLER = "offshelf.extraction.decoding:handler"
"""This module's factory, as `offshelf.workers.WorkerPool` wants it named."""

_ENOUGH: Final = 4
"""JPEGs are decoded at no less than so many times the longer side of a network's input. The filter of `squeezed`
averages the rest, so that hardly any pixel of the input changes by more than the filter's own rounding: the cosine of
features to those of the whole image is at least 0.9995 (docs/architecture.md has the figures)."""

_BYTES_A_PIXEL: Final = 20
_BYTES_BESIDE: Final = 256 << 20

_SIDE: Final = 64  # of the sample, in pixels


@dataclass(frozen=True, slots=True)
class Decoded:
    """What became of an image."""

    status: ImageStatus
    reason: str
    """Empty for `ImageStatus.OK`."""
    array: bytes | memoryview = b""
    """Of the vector or of the pixels; empty for any other status."""


def setup(spec: ExtractorSpec, max_pixels: int) -> dict[str, Any]:
    """Make the setup of the workers for an extractor, as JSON."""
    common = {"max_pixels": max_pixels, "memory": _BYTES_A_PIXEL * max_pixels + _BYTES_BESIDE}
    if isinstance(spec.method, Descriptor):
        parameters = dict(spec.method.parameters)
        return {**common, "function": spec.method.function, "parameters": parameters, "enough": None}
    size = spec.method.size
    return {**common, "function": "", "parameters": {"size": size}, "enough": _ENOUGH * max(size)}


def call(images: Sequence[bytes]) -> tuple[Header, bytes]:
    """Make the call that has a worker decode images."""
    return {"lengths": [len(data) for data in images]}, b"".join(images)


def answers(header: Header, content: bytes | bytearray) -> list[Decoded]:
    """Read a worker's answer to `call`: what became of each image, in order."""
    arrays = _split(memoryview(content), [image["length"] for image in header["images"]])
    return [
        Decoded(ImageStatus(image["status"]), str(image["reason"]), array)
        for image, array in zip(header["images"], arrays, strict=True)
    ]


def handler(setup: dict[str, Any]) -> Handler:
    """Build what answers a `call`.

    An array is float32, the vector, for a descriptor; and uint8, RGB, of shape (height, width, 3) for a network.
    """
    # A descriptor looks at an array; a network's image is squeezed at once, and never copied in its own size.
    read: Callable[..., Any] = decode if setup["function"] else decode_image
    function: Callable[..., NDArray[Any]] = function_of(setup["function"]) if setup["function"] else squeezed
    describe = partial(function, **setup["parameters"])
    # Imports the libraries now, so that the first image is not the one that is slow.
    describe(read(_sample(), max_pixels=_SIDE * _SIDE))
    _mute()

    def decoded(data: bytes) -> Decoded:
        with more_memory_at_most(setup["memory"] + 2 * len(data)):
            try:
                array = describe(read(data, max_pixels=setup["max_pixels"], enough=setup["enough"]))
            except UnusableImage as error:
                return Decoded(error.status, error.reason)
            except MemoryError:
                return Decoded(ImageStatus.TOO_LARGE, TOO_MUCH_MEMORY)
            except Exception:  # noqa: BLE001 - it worked on the sample, so one odd image must not end a run
                return Decoded(ImageStatus.UNREADABLE, "its features cannot be computed")
        return Decoded(ImageStatus.OK, "", array.tobytes())

    def answer(header: Header, data: bytes) -> tuple[Header, bytes]:
        images = [decoded(image) for image in _split(data, header["lengths"])]
        outcomes = [
            {"status": image.status.value, "reason": image.reason, "length": len(image.array)} for image in images
        ]
        return {"images": outcomes}, b"".join(image.array for image in images)

    return answer


def function_of(name: str) -> Callable[..., NDArray[np.float32]]:
    """Import the function of a descriptor (`offshelf.extraction.spec.Descriptor.function`)."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(f"offshelf.extraction.descriptors.{module}"), function)  # type: ignore[no-any-return]


def _split(data: Data, lengths: Iterable[int]) -> Iterator[Data]:
    """Cut what was joined."""
    begin = 0
    for length in lengths:
        yield data[begin : begin + length]
        begin += length


def _mute() -> None:
    """Send what C libraries say of images nowhere: it can be thousands of lines, and the reason tells what matters."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.close(nowhere)


def _sample() -> bytes:
    """Make a PPM that nothing can be wrong with."""
    return b"P6 %d %d 255\n" % (_SIDE, _SIDE) + bytes(number % 251 for number in range(3 * _SIDE * _SIDE))
