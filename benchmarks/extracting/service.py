"""The extractor service as it runs: a process of its own, which is sent units as the orchestrator sends them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

from offshelf.datasets import open_source, scan, source_uri, write_dataset
from offshelf.extraction.spec import fingerprint
from offshelf.rpc.channel import open_sync_channel
from offshelf.store import open_store
from offshelf.v1 import extractor_pb2 as pb
from offshelf.v1.extractor_pb2_grpc import ExtractorServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offshelf.extraction.spec import ExtractorSpec

TOKEN = "benchmark"  # noqa: S105  (for loopback, for minutes)
IN_FLIGHT = 2
UNIT_SECONDS = 15.0
_KIBI = 1024


@dataclass(frozen=True)
class Photos:
    """A dataset that the service can read, and its manifest in the service's store."""

    source: str
    digest: str
    images: tuple[str, ...]


def register(store_url: str, place: str, buckets: tuple[str, ...] = ()) -> Photos:
    """List the photos of a folder or bucket and write their manifest."""
    store = open_store(store_url)
    source = source_uri(place, roots=None, buckets=buckets)
    opened = open_source(source, roots=None, store=store, buckets=buckets)
    try:
        dataset, unread = scan(opened)
    finally:
        opened.close()
    if unread:
        raise RuntimeError(f"{len(unread)} photos cannot be read")
    write_dataset(store, dataset)
    return Photos(source, dataset.digest, tuple(sorted({item.digest for item in dataset.items})))


@dataclass(frozen=True)
class Service:
    """A service that is ready."""

    spec: ExtractorSpec
    stub: ExtractorServiceStub
    process: psutil.Process
    ready_s: float

    def images_per_second(self, photos: Photos, count: int) -> float:
        """Extract the first photos, in units of some seconds of work, two at a time."""
        wanted = photos.images[:count]
        size = max(1, round(UNIT_SECONDS / self.spec.cost_seconds))
        units = [wanted[begin : begin + size] for begin in range(0, count, size)]
        began = time.perf_counter()
        with ThreadPoolExecutor(IN_FLIGHT) as threads:
            extracted = sum(threads.map(lambda unit: self._extract(photos, unit), units))
        seconds = time.perf_counter() - began
        if extracted != count:
            raise RuntimeError(f"{extracted} of {count} photos were extracted")
        return count / seconds

    def peak_mb(self, photos: Photos, count: int) -> float:
        """Most memory that the service and its decoders have while they extract.

        The sum of what the kernel takes note of for each, so that no moment is missed. Libraries count in each process.
        """
        processes = (self.process, *self.process.children(recursive=True))
        for process in processes:
            Path(f"/proc/{process.pid}/clear_refs").write_text("5")  # forget the most until now (proc(5))
        self.images_per_second(photos, count)
        return sum(_most_megabytes(process) for process in processes)

    def _extract(self, photos: Photos, unit: tuple[str, ...]) -> int:
        request = pb.ExtractSegmentRequest(
            extractor=self.spec.name,
            fingerprint=fingerprint(self.spec),
            dataset=photos.digest,
            source=photos.source,
            images=[bytes.fromhex(image) for image in unit],
        )
        # To its end: a stream that is left at its last message counts as cancelled.
        answers = list(self.stub.ExtractSegment(request, timeout=600))
        if not answers or not answers[-1].HasField("written"):
            raise RuntimeError("the service wrote nothing")
        return answers[-1].written.images_extracted


def _most_megabytes(process: psutil.Process) -> float:
    """Most resident memory that a process has had since its note of it was cleared (VmHWM of proc(5))."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:")) / _KIBI


@contextmanager
def running(spec: ExtractorSpec, store_url: str, folder: Path, *, cores: int) -> Iterator[Service]:
    """Start the service of an extractor, and end it."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    settings = {
        "OFFSHELF_STORE": store_url,
        "OFFSHELF_TOKEN_FILE": str(token),
        "OFFSHELF_EXTRACTOR": spec.name,
        "OFFSHELF_CORES": str(cores),
    }
    began = time.perf_counter()
    with subprocess.Popen(
        [sys.executable, "-m", "offshelf.services.extractor"],
        env={**os.environ, **settings},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None  # noqa: S101  (asked for above)
            ready = json.loads(process.stdout.readline())
            if not ready["ready"]:
                raise RuntimeError(ready["error"])
            seconds = time.perf_counter() - began
            with open_sync_channel(ready["address"], token=TOKEN) as channel:
                yield Service(spec, ExtractorServiceStub(channel), psutil.Process(process.pid), seconds)
        finally:
            process.terminate()
