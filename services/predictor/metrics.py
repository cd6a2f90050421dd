"""What Prometheus reads of the predictor."""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram

_SECONDS_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


class PredictorMetrics:
    """Counts images and loads of models."""

    def __init__(self) -> None:
        # Their own place until `register`: whoever makes this may serve no metrics at all.
        own = CollectorRegistry()
        self._images = Counter("offshelf_predictions", "Images, by what became of them.", ["outcome"], registry=own)
        self._loads = Histogram(
            "offshelf_model_load_seconds",
            "Time to load a model or an extractor into memory.",
            ["what"],
            buckets=_SECONDS_BUCKETS,
            registry=own,
        )

    def register(self, registry: CollectorRegistry) -> None:
        """Let a registry show all of it."""
        registry.register(self._images)
        registry.register(self._loads)

    def images(self, count: int, *, refused: int) -> None:
        """Count the images of one call, and how many of them could not be used."""
        self._images.labels("classified").inc(count - refused)
        self._images.labels("refused").inc(refused)

    def loaded(self, what: str, seconds: float) -> None:
        """Count that a model or an extractor ("model", "extractor") was loaded."""
        self._loads.labels(what).observe(seconds)
