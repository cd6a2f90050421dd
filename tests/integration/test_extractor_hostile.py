"""An extractor that strangers' images are sent to, as it really runs: it serves on, as it was."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from offshelf.rpc.channel import open_sync_channel
from offshelf.store import open_store
from offshelf.v1 import extractor_pb2 as pb
from offshelf.v1.extractor_pb2_grpc import ExtractorServiceStub
from tests.integration.extractor_process import TOKEN, spawned
from tests.unit.odd_images import hostile, one_of_each_kind
from tests.unit.own_networks import put_network

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

CORES = 2
BATCH = 50
BATCH_BYTES = 16 << 20
LONG = 280.0
PHOTOS = 12

PLAIN = re.compile(r"[A-Za-z0-9 ,:()-]+")

GROWTH = 128 << 20
"""Bytes by which the memory of the service, and that of each decoder, may have grown in the end: what allocators keep
of images of all sizes (`workers.KEEPING_MEMORY`). A leak of ten kilobytes an image is more after ten thousand."""


class Attacked:
    """An extractor process, and what is known of it from outside."""

    def __init__(self, service: psutil.Process, stub: ExtractorServiceStub, health: str) -> None:
        self.service = service
        self._stub = stub
        self._health = health

    def extract(self, images: Sequence[bytes]) -> list[pb.ImageEmbedding]:
        """Send images along."""
        return list(self._stub.ExtractImages(pb.ExtractImagesRequest(images=images), timeout=LONG).results)

    def statuses(self) -> list[int]:
        """Ask its health service whether it is ready, and whether it is live."""
        with grpc.insecure_channel(self._health) as channel:
            check = health_pb2_grpc.HealthStub(channel).Check
            return [check(health_pb2.HealthCheckRequest(service=name)).status for name in ("", "live")]

    def memory(self) -> list[int]:
        """Give the resident bytes of the service and of each of its decoders."""
        return [process.memory_info().rss for process in (self.service, *self.service.children())]


@contextmanager
def attacked(folder: Path, extractor: str, **settings: str) -> Iterator[Attacked]:
    """Start an extractor with so many decoders as cores."""
    with spawned(folder, extractor, cores=str(CORES), **settings) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["ready"], ready
        with open_sync_channel(ready["address"], token=TOKEN) as channel:
            yield Attacked(psutil.Process(process.pid), ExtractorServiceStub(channel), ready["health"])


def material() -> Path | None:
    """Give the folder of real photos and weights, if there is one."""
    folder = os.environ.get("OFFSHELF_TEST_MATERIAL", "")
    return Path(folder) if folder else None


def originals(seed: int) -> list[bytes]:
    """Give an image of each kind that is read, and real photos where there are some."""
    folder = material()
    photos = sorted((folder / "images").glob("*/*/*")) if folder else []
    photos += sorted((folder / "images").glob("*/*/*/*")) if folder else []
    step = max(1, len(photos) // PHOTOS)
    chosen = [path.read_bytes() for path in photos[seed % step :: step] if path.is_file()]
    return [*one_of_each_kind(seed).values(), *chosen]


def batches(images: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Put images into calls of a size that is allowed."""
    batch: list[bytes] = []
    for image in images:
        batch.append(image)
        if len(batch) == BATCH or sum(map(len, batch)) > BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def attack(extractor: Attacked, count: int, seed: int) -> Counter[str]:
    """Send hostile images, and tell how many had each outcome, once all that must hold has been seen to hold."""
    good = originals(seed)
    before = extractor.extract(good)
    assert {result.status for result in before} == {pb.IMAGE_STATUS_OK}
    decoders = {child.pid for child in extractor.service.children()}
    memory = extractor.memory()
    outcomes: Counter[str] = Counter()
    for batch in batches(hostile(good, count, seed)):
        results = extractor.extract(batch)
        assert len(results) == len(batch)
        for result in results:
            assert (result.status == pb.IMAGE_STATUS_OK) == bool(result.embedding) == (not result.reason)
            assert PLAIN.fullmatch(result.reason or "none"), result.reason
            outcomes[pb.ImageStatus.Name(result.status)] += 1
    assert extractor.extract(good) == before
    assert extractor.statuses() == [health_pb2.HealthCheckResponse.SERVING] * 2
    assert {child.pid for child in extractor.service.children()} == decoders
    assert len(decoders) == CORES
    grown = [after - first for after, first in zip(extractor.memory(), memory, strict=True)]
    assert max(grown) < GROWTH, grown
    assert outcomes.total() == count
    # Damage that a format does not notice leaves an image; most is noticed, and none ends or hangs a decoder.
    assert outcomes.keys() <= {"IMAGE_STATUS_OK", "IMAGE_STATUS_UNREADABLE", "IMAGE_STATUS_TOO_LARGE"}
    assert outcomes["IMAGE_STATUS_UNREADABLE"] > count / 4
    return outcomes


def test_hostile_images_leave_a_descriptor_as_it_was(tmp_path: Path) -> None:
    """After damaged images of every format good ones give the vectors that they gave before, bit by bit."""
    with attacked(tmp_path, "haralick") as extractor:
        attack(extractor, 150, seed=0)


def test_hostile_images_leave_a_network_as_it_was(tmp_path: Path) -> None:
    """And so does a network, which sees them at its own size."""
    own = put_network(open_store(str(tmp_path / "store")))
    with attacked(tmp_path, own.name) as extractor:
        attack(extractor, 150, seed=0)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [1, 2])
def test_a_thousand_hostile_images_leave_a_descriptor_as_it_was(tmp_path: Path, seed: int) -> None:
    """After a thousand of them, too, in the same processes, which have not grown."""
    with attacked(tmp_path, "hsv444") as extractor:
        attack(extractor, 1_000, seed)


@pytest.mark.nightly
@pytest.mark.parametrize("seed", [3, 4])
def test_a_thousand_hostile_images_leave_a_network_as_it_was(tmp_path: Path, seed: int) -> None:
    """A network with its real weights gives good images the vectors that it gave before."""
    folder = material()
    if folder is None:
        pytest.skip("OFFSHELF_TEST_MATERIAL is not set: there are no real weights here")
    with attacked(tmp_path, "googlenet", weights=str(folder / "weights")) as extractor:
        attack(extractor, 1_000, seed)


@pytest.mark.nightly
def test_ten_thousand_hostile_images_do_not_make_it_grow(tmp_path: Path) -> None:
    """Memory stays within the same bound for ten times as many."""
    with attacked(tmp_path, "hsv444") as extractor:
        attack(extractor, 10_000, seed=5)
