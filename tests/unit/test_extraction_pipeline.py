from __future__ import annotations

import io
import queue
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from offshelf.datasets import ImageUnread
from offshelf.digests import digest_of_bytes
from offshelf.errors import Cancelled, Internal, StoreUnavailable
from offshelf.extraction import decoding, pipeline
from offshelf.extraction.engine import Engine
from offshelf.extraction.pipeline import Extraction
from offshelf.extraction.registry import EXTRACTORS
from offshelf.images import ImageStatus
from offshelf.workers import ONE_THREAD, WorkerPool
from tests.unit.fakes import MemoryStore
from tests.unit.tiny_network import random_arrays, tiny_spec
from tests.unit.worker_handlers import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.features import SegmentRow

HARALICK = EXTRACTORS["haralick"]


def png(seed: int, width: int = 30, height: int = 20) -> bytes:
    """Make an encoded image."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def reader(*images: bytes) -> tuple[Callable[[str], bytes], list[str]]:
    """Give what reads these images by their digests, and the digests."""
    by_digest = {digest_of_bytes(image): image for image in images}

    def read(digest: str) -> bytes:
        try:
            return by_digest[digest]
        except KeyError:
            raise ImageUnread("no longer exists") from None

    return read, list(by_digest)


def make(spec: ExtractorSpec = HARALICK, **changes: Any) -> Extraction:
    """Make an extraction with small limits."""
    arguments: dict[str, Any] = {
        "store": MemoryStore(),
        "weights": "",
        "cores": 2,
        "max_pixels": 10_000,
        "decode_seconds": 60.0,
    }
    return Extraction(spec, **(arguments | changes))


@pytest.fixture(scope="module")
def haralick() -> Iterator[Extraction]:
    """Give a descriptor that is ready."""
    extraction = make()
    extraction.start()
    yield extraction
    extraction.close()


def never() -> threading.Event:
    """Give a stop event that nobody sets."""
    return threading.Event()


def vectors(rows: tuple[SegmentRow, ...] | list[SegmentRow]) -> dict[str, bytes]:
    """Give the bytes of each vector by its image."""
    return {row.image: b"" if row.vector is None else row.vector.tobytes() for row in rows}


def test_rows_come_in_the_order_asked_for(haralick: Extraction) -> None:
    """Each image has its row, in the order asked for, and is counted once."""
    read, images = reader(*(png(seed) for seed in range(12)))
    done: list[None] = []
    found = haralick.extract(read, images[::-1], on_done=lambda: done.append(None), stop=never())
    assert [row.image for row in found.rows] == images[::-1]
    assert all(row.status is ImageStatus.OK and row.reason == "" for row in found.rows)
    assert all(row.vector is not None and row.vector.shape == (13,) for row in found.rows)
    assert len(done) == len(images)
    assert found.unread == ()


def test_unusable_images_are_put_aside_with_their_reason(haralick: Extraction) -> None:
    """Empty, truncated, mislabelled and oversized images have a status and a reason, and spoil nothing."""
    good = png(0)
    rows = haralick.extract_bytes([b"", good[:100], b"a text named .jpg", png(1, 200, 200), good])
    assert [row.status for row in rows] == [
        ImageStatus.UNREADABLE,
        ImageStatus.UNREADABLE,
        ImageStatus.UNREADABLE,
        ImageStatus.TOO_LARGE,
        ImageStatus.OK,
    ]
    assert [row.vector is None for row in rows] == [True] * 4 + [False]
    assert "zero bytes" in rows[0].reason
    assert "200 x 200" in rows[3].reason


def test_images_that_cannot_be_read_are_in_no_row(haralick: Extraction) -> None:
    """Images that have changed or vanished since their dataset was read are named apart, with the reason, in order."""
    read, images = reader(*(png(seed) for seed in range(9)))
    lost = [digit * 64 for digit in "0123"]
    asked = [lost[0], *images[:4], lost[1], *images[4:], *lost[2:]]
    done: list[None] = []
    found = haralick.extract(read, asked, on_done=lambda: done.append(None), stop=never())
    assert [row.image for row in found.rows] == images
    assert [(each.image, each.reason) for each in found.unread] == [(image, "no longer exists") for image in lost]
    assert len(done) == len(asked)


def test_large_files_are_decoded_one_by_one() -> None:
    """Large files are not held in memory together, small ones are decoded several at once, and all are used."""
    calls: list[list[int]] = []

    class Watched(WorkerPool):
        """A pool that takes note of the bytes of each image of a call."""

        def call(self, header: Any, payload: Any = b"", **limits: Any) -> Any:
            """See `WorkerPool.call`."""
            calls.append(header["lengths"])
            return super().call(header, payload, **limits)

    def new_decoders(size: int) -> WorkerPool:
        return Watched(size, decoding.HANDLER, setup=decoding.setup(HARALICK, 10_000), environment=ONE_THREAD)

    large, small = png(0) + bytes(3 << 20), png(0)
    with closing(make(cores=1, new_decoders=new_decoders)) as extraction:
        rows = extraction.extract_bytes([large, large, *[small] * 10])
    assert [row.status for row in rows] == [ImageStatus.OK] * 12
    assert sum(map(len, calls)) == 12
    assert max(map(sum, calls)) < 4 << 20
    assert max(map(len, calls)) == 3


def test_shares_become_smaller_towards_the_end() -> None:
    """No thread is given much when the others have nothing left to do; and every image is in one share."""
    images = [str(number) for number in range(50)]
    shares = list(pipeline._shares(images, threads=4, most=5))
    assert [image for share in shares for image in share] == images
    assert [len(share) for share in shares[:4]] == [5, 5, 5, 5]
    assert sorted(map(len, shares), reverse=True) == list(map(len, shares))
    assert list(map(len, shares))[-4:] == [1, 1, 1, 1]
    assert list(pipeline._shares([], threads=4, most=5)) == []


def test_stopping_ends_the_work(haralick: Extraction) -> None:
    """Work that is asked to stop ends as cancelled, and the extractor serves on."""
    read, images = reader(*(png(seed) for seed in range(8)))
    stop = threading.Event()
    with pytest.raises(Cancelled):
        haralick.extract(read, images, on_done=stop.set, stop=stop)
    assert len(haralick.extract(read, images, on_done=lambda: None, stop=never()).rows) == len(images)


def test_a_store_that_fails_is_no_quarantine(haralick: Extraction) -> None:
    """What keeps all images from being read ends the work with its own error."""

    def read(_digest: str) -> bytes:
        raise StoreUnavailable("The store cannot be reached: try again.")

    with pytest.raises(StoreUnavailable):
        haralick.extract(read, ["0" * 64] * 9, on_done=lambda: None, stop=never())


@pytest.fixture
def moody(tmp_path: Path) -> Iterator[Extraction]:
    """Give an extraction whose decoder does what its images say."""

    def new_decoders(size: int) -> WorkerPool:
        handler = "tests.unit.worker_handlers:decode_as_told"
        return WorkerPool(size, handler, setup={"folder": str(tmp_path)}, environment=ENVIRONMENT)

    extraction = make(decode_seconds=1.0, new_decoders=new_decoders)
    extraction.start()
    yield extraction
    extraction.close()


def test_images_that_crash_or_hang_the_decoder_cost_only_themselves(moody: Extraction) -> None:
    """An image that twice crashes or hangs the decoder is put aside with that reason; its neighbours are used."""
    texts = [b"fine", b"crash", b"fine too", b"hang", b"truncated", b"fine again"]
    rows = moody.extract_bytes(texts)
    assert [row.status for row in rows] == [
        ImageStatus.OK,
        ImageStatus.CRASHED,
        ImageStatus.OK,
        ImageStatus.HUNG,
        ImageStatus.UNREADABLE,
        ImageStatus.OK,
    ]
    assert [row.reason for row in rows][1:4:2] == [
        "decoding it failed twice: in the end it ended the decoder's process",
        "decoding it failed twice: in the end it took longer than 2 seconds",
    ]
    assert [row.vector is None for row in rows] == [False, True, False, True, True, False]


def test_one_crash_is_forgiven(moody: Extraction) -> None:
    """An image whose decoder crashed for another reason is used."""
    (row,) = moody.extract_bytes([b"crash once"])
    assert row.status is ImageStatus.OK


def test_one_decoding_that_takes_too_long_is_forgiven(moody: Extraction) -> None:
    """An image that came when the machine had no time for it is used, and not put aside for ever."""
    (row,) = moody.extract_bytes([b"hang once"])
    assert row.status is ImageStatus.OK


def test_the_second_trial_decides(moody: Extraction) -> None:
    """An image has two trials whatever goes wrong in them, and not two of each kind."""
    (row,) = moody.extract_bytes([b"hang, then crash"])
    assert row.status is ImageStatus.CRASHED
    assert row.reason == "decoding it failed twice: in the end it ended the decoder's process"


def test_a_second_trial_can_be_stopped(tmp_path: Path) -> None:
    """Whoever cancels does not wait for the time that a second trial may take."""
    stop, trials = threading.Event(), []

    def new_decoders(size: int) -> WorkerPool:
        trials.append(size)
        if len(trials) == 2:
            stop.set()
        handler = "tests.unit.worker_handlers:decode_as_told"
        return WorkerPool(size, handler, setup={"folder": str(tmp_path)}, environment=ENVIRONMENT)

    extraction = make(decode_seconds=1.0, new_decoders=new_decoders)
    try:
        with pytest.raises(Cancelled):
            extraction.extract_bytes([b"hang"], stop=stop)
    finally:
        extraction.close()
    assert trials == [2, 1]


def test_a_vector_that_is_no_number_is_put_aside(moody: Extraction) -> None:
    """No vector of NaN or infinity comes out."""
    (row,) = moody.extract_bytes([b"not a number"])
    assert (row.status, row.vector) == (ImageStatus.UNREADABLE, None)
    assert row.reason == "its features are not finite numbers"


def test_an_extractor_that_does_not_work_says_so_at_its_start() -> None:
    """An extractor that cannot even describe a generated image never becomes ready, and leaves no process."""
    extraction = make(max_pixels=10)
    with pytest.raises(Internal, match="haralick does not work on this machine: 64 x 64 pixels"):
        extraction.start()
    with pytest.raises(Cancelled):
        extraction.extract_bytes([png(0)])


def test_vectors_depend_on_their_image_alone(tmp_path: Path) -> None:
    """Vectors are equal to the last bit whatever the order, the unit, the neighbours and the number of cores."""
    spec = tiny_spec(tmp_path, random_arrays())
    store = MemoryStore()
    read, images = reader(*(png(seed, 40 + seed, 60 - seed) for seed in range(16)))
    found: list[dict[str, bytes]] = []
    for cores in (1, 3):
        extraction = make(spec, store=store, weights=str(tmp_path), cores=cores)
        extraction.start()
        try:
            for unit in (images, images[::-1], images[5:6]):
                rows = extraction.extract(read, unit, on_done=lambda: None, stop=never()).rows
                assert [row.image for row in rows] == unit
                found.append(vectors(rows))
            found.append(vectors(extraction.extract_bytes([read(image) for image in images])))
        finally:
            extraction.close()
    for result in found:
        assert result.items() <= found[0].items()
    assert len(set(found[0].values())) == len(images)


def test_an_inference_that_never_ends_is_seen_from_outside() -> None:
    """A network that hangs makes its process not live, so that it can be replaced; an idle one is live."""
    entered, leave = threading.Event(), threading.Event()

    class Request:
        """An inference request that hangs until it is let go."""

        def infer(self, _pixels: object) -> np.ndarray:
            """Hang."""
            entered.set()
            leave.wait()
            return np.zeros(2, np.float32)

    engine = Engine.__new__(Engine)
    engine._began = {}
    engine._requests = queue.LifoQueue()
    engine._requests.put(Request())  # type: ignore[arg-type]
    assert engine.seconds_in_inference == 0
    hanging = threading.Thread(target=engine.infer, args=(np.zeros((8, 8, 3), np.uint8),))
    hanging.start()
    try:
        assert entered.wait(30)
        assert engine.seconds_in_inference > 0
    finally:
        leave.set()
        hanging.join()
    assert engine.seconds_in_inference == 0
