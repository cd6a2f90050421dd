"""The orchestrator as a service process: its parts put together, and their life."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

from offshelf.audit import AuditTrail
from offshelf.extraction.extractors import Extractors
from offshelf.extraction.weights.fetching import FetchPolicy
from offshelf.rpc.offload import Offload
from offshelf.services.orchestrator.catalog import ExtractorCatalog
from offshelf.services.orchestrator.datasets_servicer import DatasetServicer
from offshelf.services.orchestrator.dispatch.dispatcher import Dispatcher
from offshelf.services.orchestrator.downloads import Downloads
from offshelf.services.orchestrator.holdings import desk
from offshelf.services.orchestrator.holdings.deletion import delete_dataset
from offshelf.services.orchestrator.holdings.fetching import Fetcher
from offshelf.services.orchestrator.holdings.garbage import collect_garbage
from offshelf.services.orchestrator.metrics import OrchestratorMetrics
from offshelf.services.orchestrator.networks_servicer import NetworkServicer
from offshelf.services.orchestrator.runs.execution import Execution
from offshelf.services.orchestrator.runs.intake import Intake
from offshelf.services.orchestrator.runs.journal import Workbench
from offshelf.services.orchestrator.runs.orchestration import Orchestrator
from offshelf.services.orchestrator.runs.runlog import RunLog
from offshelf.services.orchestrator.servicer import OrchestratorServicer
from offshelf.services.orchestrator.tenure.embedded import EmbeddedTenure
from offshelf.store import DOOR_SECONDS, open_store
from offshelf.v1.dataset_pb2_grpc import add_DatasetServiceServicer_to_server
from offshelf.v1.network_pb2_grpc import add_NetworkServiceServicer_to_server
from offshelf.v1.orchestrator_pb2_grpc import add_OrchestratorServiceServicer_to_server

if TYPE_CHECKING:
    from pathlib import Path

    import grpc.aio
    from prometheus_client import CollectorRegistry

    from offshelf.services.orchestrator.tenure import Tenure
    from offshelf.settings import Settings
    from offshelf.store import ObjectStore


_THREADS = 32
"""For what blocks, mostly on the store. By default there are as many as cores and four, which an absent store fills."""


class OrchestratorService:
    """What `offshelf.rpc.server` serves: runs, datasets and networks of one store, as long as the tenure lasts."""

    name = "offshelf.v1.OrchestratorService"
    other_names = ("offshelf.v1.DatasetService", "offshelf.v1.NetworkService")
    largest_request = 4 * 1024 * 1024
    """A question about 100,000 images has 3.4 MB. Of protobuf, bytes become objects of many times that size."""

    def __init__(self, settings: Settings, store: ObjectStore, tenure: Tenure) -> None:
        self._store = store
        self._tenure = tenure
        self._metrics = OrchestratorMetrics(tenure.fleet.pool)
        self.audit = AuditTrail(store)
        # A server with users of its own must not read for them whatever its account can read. Not so the only user of a
        # machine, who is that account.
        roots = () if settings.users and settings.data_roots is None else settings.data_roots
        fetch = FetchPolicy.of(settings)
        self._downloads = Downloads(settings.weights, fetch) if settings.fleet == "processes" else None
        extractors = Extractors(store, remote=[model.extractor for model in settings.remote_engines])
        catalog = ExtractorCatalog(store, settings.weights, fetch, extractors)
        bench = Workbench(
            store=store,
            catalog=catalog,
            fleet=tenure.fleet,
            dispatcher=Dispatcher(
                fleet=tenure.fleet,
                peers=tenure.peers,
                budget=tenure.budget,
                store=store,
                cores=settings.cores,
                figures=self._metrics,
            ),
            roots=roots,
            unit_seconds=settings.unit_seconds,
            max_pixels=settings.max_image_pixels,
            buckets=settings.data_buckets,
            undisturbed=lambda: self._desk.library.undisturbed(),  # noqa: PLW0108  (which is made later)
            figures=self._metrics,
            scratch=tenure.scratch,
            extractors_at_a_time=tenure.extractors_at_a_time,
            downloads=self._downloads,
        )
        self._orchestrator = Orchestrator(
            store=store,
            log=RunLog(store, tenure.epoch),
            intake=Intake(store, catalog, roots=roots, buckets=settings.data_buckets),
            execute=lambda journal: Execution(bench, journal),
            take_up=tenure.takes_up,
            quota_runs=settings.quota_runs,
            deleting=lambda: self._desk.library.deleting,
            figures=self._metrics,
        )
        self._offload = Offload(desk.THREADS, desk.QUEUE)
        self._desk = desk.Desk(
            store,
            self._offload,
            delete=delete_dataset,
            collect=collect_garbage,
            in_use=self._orchestrator.datasets_in_use,
            quota_images=settings.quota_images,
            quota_bytes=settings.quota_bytes,
            fetch=Fetcher(buckets=settings.data_buckets, hosts=settings.fetch_hosts, beside=store.url),
        )

    @property
    def token_file(self) -> Path | None:
        """File with the token that every call must bring, where there is one."""
        return self._tenure.token_file

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicers to the server."""
        runs = OrchestratorServicer(self._orchestrator, self._store, self._tenure.locate_predictor)
        add_OrchestratorServiceServicer_to_server(runs, server)
        datasets = DatasetServicer(self._desk.library, self._desk.uploads)
        add_DatasetServiceServicer_to_server(datasets, server)
        add_NetworkServiceServicer_to_server(NetworkServicer(self._desk.networks), server)

    def measure(self, registry: CollectorRegistry) -> None:
        """Let Prometheus read what is counted here."""
        self._metrics.register(registry)

    async def warm_up(self) -> None:
        """Learn of the runs in the store."""
        await self._orchestrator.start()

    async def serving(self, address: str) -> None:
        """Let clients find this server."""
        await self._tenure.announce(address)

    async def drain(self) -> None:
        """Let no further client find this server, and stop all runs in such a way that they can be taken up."""
        self._desk.close()
        await self._tenure.withdraw()
        await self._orchestrator.drain()

    async def close(self) -> None:
        """Give everything back, the right to the store last."""
        self._store.close()  # nobody waits any longer for one that is away
        await self._orchestrator.close()
        if self._downloads is not None:
            self._downloads.close()
        await self._offload.close()
        await self._tenure.end()


async def make_service(settings: Settings) -> OrchestratorService:
    """Become the orchestrator of the installation, and put it together.

    Raises
    ------
    Conflict
        If another process has the store, with its address.
    InvalidInput
        If a setting cannot be used.
    """
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, thread_name_prefix="default"))
    tenure: Tenure
    if settings.fleet == "kubernetes":
        from offshelf.services.orchestrator.tenure.cluster import ClusterTenure  # the client of its API is large

        # Before the lease: a store that cannot be used is no reason to take it from somebody.
        store = await asyncio.to_thread(open_store, settings.store, patience=DOOR_SECONDS)
        tenure = await ClusterTenure.begin(settings)
    else:
        tenure = await EmbeddedTenure.begin(settings)
        store = await asyncio.to_thread(open_store, settings.store, patience=DOOR_SECONDS)
    try:
        return OrchestratorService(settings, store, tenure)
    except BaseException:
        with suppress(Exception):
            await tenure.end()
        raise
