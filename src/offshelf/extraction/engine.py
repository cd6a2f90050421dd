"""What runs networks. The engine in process: OpenVINO on the CPU, one image a request, one thread a request.

A vector then depends on its image alone, to the last bit: not on its neighbours in a batch, not on how many cores there
are, not on what else runs. Nothing is lost by it: on two cores two such streams gave 47 GoogLeNet images a second, and
batches of 16 or 32 on both cores 45.
"""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING, Any, Protocol

from offshelf.extraction.runtime import load_openvino

if TYPE_CHECKING:
    import threading

    import numpy as np
    from numpy.typing import NDArray

    from offshelf.extraction.conversion import ConvertedNetwork
    from offshelf.extraction.spec import Precision


class InferenceEngine(Protocol):
    """A network that is ready to be asked: `Engine`, or one elsewhere (`offshelf.rpc.remote_engine`). Thread-safe."""

    @property
    def seconds_in_inference(self) -> float:
        """How long the longest inference under way, which cannot be interrupted, has taken; 0 if none is."""
        ...

    def infer(self, pixels: NDArray[np.uint8], *, stop: threading.Event | None = None) -> NDArray[np.float32]:
        """Compute one embedding.

        Parameters
        ----------
        pixels
            Shape (height, width, 3), RGB, of the size that the network takes.
        stop
            Ends waiting for an engine that is away when it is set.

        Returns
        -------
        ndarray of float32, shape (dimension,)

        Raises
        ------
        EngineUnavailable, EngineMismatch
            If the engine is elsewhere and away, or serves something else.
        Cancelled
            If `stop` was set meanwhile.
        """
        ...

    def close(self) -> None:
        """Give everything back; calls that wait raise `Cancelled`."""
        ...


_REQUESTS_A_CORE = 2
"""While one image is computed the next is ready: its core does not wait for Python in between."""


class Engine:
    """A network that is ready to be asked from any number of threads.

    Parameters
    ----------
    network
        What `offshelf.extraction.conversion` made.
    precision
        Of its arithmetic.
    cores
        Images inferred at the same time, each on one thread; further calls wait.
    """

    def __init__(self, network: ConvertedNetwork, *, cores: int, precision: Precision = "f32") -> None:
        ov = load_openvino()
        core = ov.Core()
        compiled = core.compile_model(
            core.read_model(model=network.xml, weights=network.bin),
            "CPU",
            {
                # Explicit, since the default on CPUs with bf16 is bf16, silently.
                "INFERENCE_PRECISION_HINT": precision,
                "EXECUTION_MODE_HINT": "ACCURACY" if precision == "f32" else "PERFORMANCE",
                "NUM_STREAMS": cores,
                "INFERENCE_NUM_THREADS": cores,
                # Two services pinned to the same cores would take turns on one and leave the other idle.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._began: dict[object, float] = {}
        self._requests: queue.LifoQueue[_Request] = queue.LifoQueue()
        for _ in range(_REQUESTS_A_CORE * cores):
            self._requests.put(_Request(compiled.create_infer_request()))

    @property
    def seconds_in_inference(self) -> float:
        """How long the longest inference under way has taken; 0 if none is.

        An image takes well under a second, and an inference that never ends cannot be interrupted: whoever watches this
        process has to know.
        """
        return max((time.monotonic() - began for began in list(self._began.values())), default=0.0)

    def infer(
        self,
        pixels: NDArray[np.uint8],
        *,
        stop: threading.Event | None = None,  # noqa: ARG002 - nothing here is waited for
    ) -> NDArray[np.float32]:
        """See `InferenceEngine`."""
        request = self._requests.get()
        self._began[request] = time.monotonic()
        try:
            return request.infer(pixels)
        finally:
            del self._began[request]
            self._requests.put(request)

    def close(self) -> None:
        """See `InferenceEngine`; the memory goes with the last reference."""


class _Request:
    """A request of OpenVINO's, with its input and its output as arrays: whoever hands it arrays pays for each call."""

    def __init__(self, request: Any) -> None:
        self._request = request
        self._input: NDArray[np.uint8] = request.get_input_tensor().data
        self._output: NDArray[np.float32] = request.get_output_tensor().data

    def infer(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._input[0] = pixels
        # Started and waited for, so that it can be ready behind another one.
        self._request.start_async()
        self._request.wait()
        vector: NDArray[np.float32] = self._output[0].copy()
        return vector
