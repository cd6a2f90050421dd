"""The engine alone on tensors that are ready: the most that a service could reach.

OpenVINO is asked in several ways (single images in as many streams as cores, batches of several sizes), and the best
counts.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np

from offshelf.extraction.runtime import load_openvino

if TYPE_CHECKING:
    from offshelf.extraction.conversion import ConvertedNetwork
    from offshelf.extraction.spec import Precision

_WAYS = ((1, 0), (8, 0), (8, 1), (16, 0), (16, 1), (32, 1))
"""Images in a batch, and streams; 0 streams means one for each core."""


class RawEngine:
    """A network compiled in each way that works."""

    def __init__(self, network: ConvertedNetwork, *, precision: Precision, cores: int) -> None:
        ov = load_openvino()
        core = ov.Core()
        self._ways: dict[str, tuple[Any, Any, int]] = {}
        for batch, streams in _WAYS:
            model = core.read_model(model=network.xml, weights=network.bin)
            shape = list(model.input().shape)
            config = {
                "INFERENCE_PRECISION_HINT": precision,
                "NUM_STREAMS": streams or cores,
                "INFERENCE_NUM_THREADS": cores,
                "ENABLE_CPU_PINNING": False,
            }
            try:
                if batch > 1:
                    model.reshape([batch, *shape[1:]])
                compiled = core.compile_model(model, "CPU", config)
            except RuntimeError:
                continue  # a graph may have its batch of one written into it
            tensor = np.random.default_rng(0).integers(0, 256, (batch, *shape[1:]), dtype=np.uint8)
            jobs = ov.AsyncInferQueue(compiled, (streams or cores) * 2)
            self._ways[f"{batch} in {streams or cores} streams"] = (jobs, tensor, batch)

    def images_per_second(self, seconds: float) -> dict[str, float]:
        """Run each way for some seconds."""
        return {way: self._rate(*parts, seconds) for way, parts in self._ways.items()}

    @staticmethod
    def _rate(jobs: Any, tensor: Any, batch: int, seconds: float) -> float:
        for _ in range(2 * len(jobs)):
            jobs.start_async([tensor])
        jobs.wait_all()
        began, count = time.perf_counter(), 0
        while time.perf_counter() - began < seconds:
            jobs.start_async([tensor])
            count += batch
        jobs.wait_all()
        return count / (time.perf_counter() - began)
