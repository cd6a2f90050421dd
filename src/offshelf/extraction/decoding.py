"""What a decode worker does: encoded bytes in; a descriptor's vector, or pixels ready for a network, out.

It runs in a process of its own (`offshelf.workers`), because parsers fed with hostile bytes may crash or hang. A pure
function of its bytes: which worker takes an image, and after which other one, makes no difference.
"""

from __future__ import annotations

import importlib
from functools import partial
from typing import TYPE_CHECKING, Any

from offshelf.extraction.spec import Descriptor, ExtractorSpec
from offshelf.images import ImageStatus, UnusableImage, decode

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.workers import Handler

HANDLER = "offshelf.extraction.decoding:handler"
"""This module's factory, as `offshelf.workers.WorkerPool` wants it named."""


def setup(spec: ExtractorSpec, max_pixels: int) -> dict[str, Any]:
    """Make the setup of the workers for an extractor, as JSON."""
    if isinstance(spec.method, Descriptor):
        return {"max_pixels": max_pixels, "function": spec.method.function, "parameters": dict(spec.method.parameters)}
    return {"max_pixels": max_pixels, "function": "", "parameters": {"size": spec.method.size}}


def handler(setup: dict[str, Any]) -> Handler:
    """Build what answers the calls: ``({}, image bytes)`` gives ``({"status", "reason"}, array bytes)``.

    The array is float32, the vector, for a descriptor; and uint8, RGB, of shape (height, width, 3) for a network.
    """
    function: Callable[..., NDArray[Any]] = squeezed
    if setup["function"]:
        function = function_of(setup["function"])
    describe = partial(function, **setup["parameters"])
    # Imports the libraries now, so that the first image is not the one that is slow.
    describe(_sample())

    def answer(header: dict[str, Any], data: bytes) -> tuple[dict[str, Any], bytes]:  # noqa: ARG001 - Handler's form
        try:
            pixels = decode(data, max_pixels=setup["max_pixels"])
        except UnusableImage as error:
            return {"status": error.status.value, "reason": error.reason}, b""
        try:
            array = describe(pixels)
        except Exception as error:  # noqa: BLE001 - it worked on the sample, so one odd image must not end a run
            reason = f"its features cannot be computed ({type(error).__name__})"
            return {"status": ImageStatus.UNREADABLE.value, "reason": reason}, b""
        return {"status": ImageStatus.OK.value, "reason": ""}, array.tobytes()

    return answer


def function_of(name: str) -> Callable[..., NDArray[np.float32]]:
    """Import the function of a descriptor (`offshelf.extraction.spec.Descriptor.function`)."""
    module, _, function = name.partition(":")
    return getattr(importlib.import_module(f"offshelf.extraction.descriptors.{module}"), function)  # type: ignore[no-any-return]


def squeezed(pixels: NDArray[np.uint8], *, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Bring an image to a height and width, whatever its proportions (`spec.PREPROCESSING_VERSION`)."""
    import numpy as np
    from PIL import Image

    height, width = size
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR))


def _sample() -> NDArray[np.uint8]:
    import numpy as np

    return (np.arange(64 * 64 * 3) % 251).astype(np.uint8).reshape(64, 64, 3)
