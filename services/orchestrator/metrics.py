"""What Prometheus reads of the orchestrator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.registry import Collector

    from offshelf.services.orchestrator.fleet.replicas import ReplicaPool

_SECONDS_BUCKETS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320)


class OrchestratorMetrics:
    """Counts what happens to units, images and runs, and shows what the fleet has; `Figures` for Prometheus."""

    def __init__(self, pool: ReplicaPool) -> None:
        self._pool = pool
        # Their own place until `register`: whoever makes this may serve no metrics at all.
        own = CollectorRegistry()
        self._units = Counter(
            "offshelf_units", "Attempts at units of work, by how they ended.", ["role", "outcome"], registry=own
        )
        self._unit_seconds = Histogram(
            "offshelf_unit_seconds", "Time of one attempt at a unit.", ["role"], buckets=_SECONDS_BUCKETS, registry=own
        )
        self._retried = Counter(
            "offshelf_units_retried", "Units that were sent again, by the reason.", ["role", "reason"], registry=own
        )
        self._images = Counter(
            "offshelf_images", "Images of runs, by what became of them.", ["extractor", "outcome"], registry=own
        )
        self._cache = Counter(
            "offshelf_cache", "Look-ups of finished work in the store.", ["what", "outcome"], registry=own
        )
        self._runs = Counter("offshelf_runs_ended", "Runs that have ended, by how.", ["state"], registry=own)

    def register(self, registry: CollectorRegistry) -> None:
        """Let a registry show all of it."""
        counted: tuple[Collector, ...] = (
            self._units,
            self._unit_seconds,
            self._retried,
            self._images,
            self._cache,
            self._runs,
            self,
        )
        for collector in counted:
            registry.register(collector)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Say how many replicas are ready and how many units wait for one; see Prometheus' `Collector`."""
        ready = GaugeMetricFamily("offshelf_replicas_ready", "Replicas that are ready.", labels=["role"])
        waiting = GaugeMetricFamily("offshelf_units_waiting", "Units that wait for a replica.", labels=["role"])
        counts: dict[str, tuple[int, int]] = {}
        for role in self._pool.roles():
            are_ready, wait = counts.get(_bounded(str(role)), (0, 0))
            counts[_bounded(str(role))] = are_ready + len(self._pool.ready(role)), wait + self._pool.waiting(role)
        for label, (are_ready, wait) in counts.items():
            ready.add_metric([label], are_ready)
            waiting.add_metric([label], wait)
        yield ready
        yield waiting

    def unit_ended(self, role: str, outcome: str, seconds: float) -> None:
        """See `Figures`."""
        self._units.labels(_bounded(role), outcome).inc()
        self._unit_seconds.labels(_bounded(role)).observe(seconds)

    def unit_retried(self, role: str, reason: str) -> None:
        """See `Figures`."""
        self._retried.labels(_bounded(role), reason).inc()

    def images(self, extractor: str, outcome: str, count: int) -> None:
        """See `Figures`."""
        self._images.labels(_bounded(extractor), outcome).inc(count)

    def cache(self, what: str, *, hits: int, misses: int) -> None:
        """See `Figures`."""
        self._cache.labels(what, "hit").inc(hits)
        self._cache.labels(what, "miss").inc(misses)

    def run_ended(self, state: str) -> None:
        """See `Figures`."""
        self._runs.labels(state).inc()


def _bounded(name: str) -> str:
    """Leave an extractor's parameters, and the name of somebody's network, out of a label: there is no end of them."""
    return name.partition(":")[0]
