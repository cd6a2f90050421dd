"""Extractor processes, and what they are given to do."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from offshelf.datasets import open_source, scan, source_uri, write_dataset
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import fingerprint
from offshelf.rpc.channel import open_sync_channel
from offshelf.store import open_store
from offshelf.v1 import extractor_pb2 as pb
from offshelf.v1.extractor_pb2_grpc import ExtractorServiceStub

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf.datasets import Dataset
    from offshelf.store import ObjectStore

TOKEN = "a-token-for-tests"
NAME = "haralick"
FINGERPRINT = fingerprint(EXTRACTORS[NAME])
LONG = 60.0


@dataclass(frozen=True)
class Running:
    """An extractor process that is ready."""

    process: subprocess.Popen[str]
    stub: ExtractorServiceStub


@contextmanager
def running(folder: Path, extractor: str, **settings: str) -> Iterator[Running]:
    """Start an extractor over the store in the folder, and end it however the test ends."""
    with spawned(folder, extractor, **settings) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        assert ready["ready"], ready
        with open_sync_channel(ready["address"], token=TOKEN) as channel:
            yield Running(process, ExtractorServiceStub(channel))


@contextmanager
def spawned(folder: Path, extractor: str, **settings: str) -> Iterator[subprocess.Popen[str]]:
    """Start the process alone."""
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(TOKEN)
    given = {"store": str(folder / "store"), "token_file": str(token), "extractor": extractor, "fetch": "never"}
    given |= settings
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("OFFSHELF_")}
    with subprocess.Popen(
        [sys.executable, "-m", "offshelf.services.extractor"],
        env={**inherited, **{f"OFFSHELF_{name.upper()}": value for name, value in given.items()}},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def digit(seed: int) -> bytes:
    """Make a small picture, like an enlarged digit."""
    pixels = np.random.default_rng(seed).integers(0, 17, (8, 8), dtype=np.uint8) * 15
    file = io.BytesIO()
    Image.fromarray(pixels).resize((64, 64)).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Sample:
    """A dataset on disk whose manifest is in the store."""

    folder: Path
    source: str
    dataset: Dataset
    store: ObjectStore

    def request(self, **changes: Any) -> pb.ExtractSegmentRequest:
        """Ask for all its images."""
        images = sorted({bytes.fromhex(item.digest) for item in self.dataset.items})
        arguments: dict[str, Any] = {
            "extractor": NAME,
            "fingerprint": FINGERPRINT,
            "dataset": self.dataset.digest,
            "source": self.source,
            "images": images,
        }
        return pb.ExtractSegmentRequest(**(arguments | changes))

    def digest(self, path: str) -> str:
        """Give the digest of an image."""
        return next(item.digest for item in self.dataset.items if item.path == path)


def make_sample(folder: Path) -> Sample:
    """Write two classes of pictures, one of them truncated, and scan them."""
    images = folder / "images"
    for label, seeds in (("one", range(6)), ("two", range(10, 16))):
        (images / label).mkdir(parents=True)
        for seed in seeds:
            (images / label / f"{seed}.png").write_bytes(digit(seed))
    (images / "one" / "truncated.png").write_bytes(digit(0)[:60])
    store = open_store(str(folder / "store"))
    source = source_uri(str(images))
    dataset, unread = scan(open_source(source, roots=None))
    assert unread == []
    write_dataset(store, dataset)
    return Sample(images, source, dataset, store)


def written(stub: ExtractorServiceStub, request: pb.ExtractSegmentRequest) -> pb.SegmentWritten:
    """Extract, and give the last message after only progress came before."""
    *before, last = list(stub.ExtractSegment(request, timeout=LONG))
    done = [message.progress.images_done for message in before]
    assert done == sorted(done)
    assert {message.WhichOneof("event") for message in before} <= {"progress"}
    return last.written
