"""The extractor as it really runs: a process of its own over a directory store, spoken to through gRPC."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
import pytest

from offshelf.errors import Conflict, InvalidInput, NotFound, PermissionDenied, UnknownName
from offshelf.extraction.pipeline import Extraction
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.registry import find as spec_of
from offshelf.extraction.spec import Network, fingerprint
from offshelf.features import read_segment
from offshelf.images import ImageStatus
from offshelf.store import keys, open_store
from offshelf.v1 import extractor_pb2 as pb
from tests.integration.extractor_process import (
    FINGERPRINT,
    LONG,
    NAME,
    Running,
    Sample,
    digit,
    make_sample,
    running,
    spawned,
    written,
)
from tests.unit import tiny_onnx
from tests.unit.own_networks import put_network
from tests.unit.tiny_onnx import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Running, Sample]]:
    """Give one extractor and a sample, for tests that change neither."""
    folder = tmp_path_factory.mktemp("extractor")
    sample = make_sample(folder)
    with running(folder, NAME, data_roots=str(folder)) as extractor:
        yield extractor, sample


def test_it_says_what_it_serves(shared: tuple[Running, Sample]) -> None:
    """The planner can ask a replica which extractor it is."""
    answer = shared[0].stub.Describe(pb.DescribeRequest())
    assert (answer.extractor, answer.fingerprint, answer.dimension) == (NAME, FINGERPRINT, 13)


def test_a_segment_is_extracted(shared: tuple[Running, Sample]) -> None:
    """Images of a dataset become a segment in the store: a vector for each, or a status and a reason."""
    extractor, sample = shared
    answer = written(extractor.stub, sample.request())
    assert (answer.images_extracted, answer.images_quarantined, list(answer.unread)) == (12, 1, [])
    segment = read_segment(sample.store, answer.key)
    assert (segment.fingerprint, segment.dimension) == (FINGERPRINT, 13)
    statuses = {row.image: row.status for row in segment.rows}
    assert statuses.pop(sample.digest("one/truncated.png")) is ImageStatus.UNREADABLE
    assert set(statuses.values()) == {ImageStatus.OK}


def test_the_same_images_give_the_same_segment(shared: tuple[Running, Sample], tmp_path: Path) -> None:
    """A unit that is done again, even by another process with other cores, writes the same bytes."""
    extractor, sample = shared
    first = written(extractor.stub, sample.request())
    before = sample.store.stat(first.key)
    assert written(extractor.stub, sample.request(images=sample.request().images[::-1])).key == first.key
    with running(tmp_path, NAME, store=sample.store.url, cores="1") as another:
        assert written(another.stub, sample.request()).key == first.key
    after = sample.store.stat(first.key)
    assert before is not None
    assert after is not None
    assert before.size == after.size


def test_images_sent_along_give_the_vectors_of_the_segment(shared: tuple[Running, Sample]) -> None:
    """Prediction sees the very vectors that were trained on, and unusable images are told one by one."""
    extractor, sample = shared
    rows = {row.image: row for row in read_segment(sample.store, written(extractor.stub, sample.request()).key).rows}
    paths = ["two/12.png", "one/truncated.png", "one/3.png"]
    sent = [(sample.folder / path).read_bytes() for path in paths]
    answer = extractor.stub.ExtractImages(pb.ExtractImagesRequest(images=[*sent, b"no image"]))
    assert [result.status for result in answer.results] == [
        pb.IMAGE_STATUS_OK,
        pb.IMAGE_STATUS_UNREADABLE,
        pb.IMAGE_STATUS_OK,
        pb.IMAGE_STATUS_UNREADABLE,
    ]
    for path, result in zip(paths, answer.results, strict=False):
        row = rows[sample.digest(path)]
        assert result.reason == row.reason
        if row.vector is not None:
            assert np.array_equal(np.array(result.embedding, np.float32), row.vector)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"extractor": "hog", "fingerprint": fingerprint(EXTRACTORS["hog"])},
            "This replica serves haralick, not 'hog'",
        ),
        ({"fingerprint": "0" * 64}, "another fingerprint"),
        ({"images": []}, "No image is named"),
        ({"images": [b"short"]}, "something else than its SHA-256"),
        ({"source": "ftp://example.org"}, "no source of images"),
    ],
)
def test_a_wrong_request_is_refused(shared: tuple[Running, Sample], changes: dict[str, Any], message: str) -> None:
    """A unit for another extractor, version, or of no image is refused with what is wrong."""
    extractor, sample = shared
    with pytest.raises((InvalidInput, Conflict), match=message):
        written(extractor.stub, sample.request(**changes))


def test_no_image_sent_is_refused(shared: tuple[Running, Sample]) -> None:
    """A call without an image says so."""
    with pytest.raises(InvalidInput, match="No image"):
        shared[0].stub.ExtractImages(pb.ExtractImagesRequest())


def test_an_unknown_dataset_and_a_foreign_folder_are_refused(shared: tuple[Running, Sample]) -> None:
    """A dataset that was never scanned is not found; a folder outside the data roots is not read."""
    extractor, sample = shared
    with pytest.raises(NotFound):
        written(extractor.stub, sample.request(dataset="0" * 64))
    with pytest.raises(PermissionDenied, match="OFFSHELF_DATA_ROOTS"):
        written(extractor.stub, sample.request(source="folder:/"))


def test_a_call_that_is_given_up_stops_the_work(shared: tuple[Running, Sample]) -> None:
    """An extractor whose client has left serves the next one."""
    extractor, sample = shared
    call = extractor.stub.ExtractSegment(sample.request(), timeout=LONG)
    call.cancel()
    assert written(extractor.stub, sample.request()).images_extracted == 12


def test_what_changed_since_the_scan_is_in_no_segment(tmp_path: Path) -> None:
    """Images that changed or vanished after their dataset was read are named, and the others are extracted."""
    sample = make_sample(tmp_path)
    (sample.folder / "one" / "1.png").write_bytes(digit(99))
    (sample.folder / "two" / "11.png").unlink()
    lost = {sample.digest("one/1.png"), sample.digest("two/11.png")}
    with running(tmp_path, NAME) as extractor:
        answer = written(extractor.stub, sample.request())
        assert (answer.images_extracted, answer.images_quarantined) == (10, 1)
        assert {unread.image.hex() for unread in answer.unread} == lost
        assert all(unread.reason for unread in answer.unread)
        assert lost.isdisjoint(row.image for row in read_segment(sample.store, answer.key).rows)
        nothing = written(extractor.stub, sample.request(images=sorted(bytes.fromhex(image) for image in lost)))
        assert (nothing.key, len(nothing.unread)) == ("", 2)


def test_sigterm_drains_and_leaves_nothing(tmp_path: Path) -> None:
    """A stopped extractor exits 0 and leaves no decoder behind."""
    with running(tmp_path, NAME, cores="2") as extractor:
        decoders = psutil.Process(extractor.process.pid).children()
        assert len(decoders) == 2
        extractor.process.terminate()
        assert extractor.process.wait(LONG) == 0
        psutil.wait_procs(decoders, LONG)
        assert not any(decoder.is_running() for decoder in decoders)


def test_a_killed_extractor_leaves_nothing(tmp_path: Path) -> None:
    """An extractor that is killed takes its decoders with it."""
    with running(tmp_path, NAME) as extractor:
        decoders = psutil.Process(extractor.process.pid).children()
        extractor.process.kill()
        gone, alive = psutil.wait_procs(decoders, LONG)
        assert (len(gone), alive) == (len(decoders), [])


@pytest.mark.parametrize(
    ("extractor", "kind", "message"),
    [
        ("harralick", "UnknownName", "Did you mean 'haralick'?"),
        ("", "InvalidInput", "OFFSHELF_EXTRACTOR"),
        ("googlenet", "NotFound", "googlenet needs its weights, googlenet_bvlc.npz or bvlc_googlenet"),
    ],
)
def test_what_cannot_start_says_why(tmp_path: Path, extractor: str, kind: str, message: str) -> None:
    """An extractor that cannot be served ends at once, with the reason and the fix for whoever started it."""
    with spawned(tmp_path, extractor) as process:
        assert process.stdout is not None
        answer = json.loads(process.stdout.readline())
        assert (answer["ready"], answer["kind"]) == (False, kind)
        assert message in answer["error"]
        assert process.wait(LONG) == 2


@pytest.fixture(scope="module")
def material() -> Path:
    """Give the folder of real images and weights."""
    folder = os.environ.get("OFFSHELF_TEST_MATERIAL", "")
    if not folder:
        pytest.skip("OFFSHELF_TEST_MATERIAL is not set: there are no real weights and photos here")
    return Path(folder)


def test_googlenet_starts_without_weights_once_it_was_converted(tmp_path: Path, material: Path) -> None:
    """The real GoogLeNet serves; and its second start needs neither its weights nor Keras."""
    photo = min((material / "images/dogs-cats/test").glob("*/*")).read_bytes()
    answers = []
    for weights in (str(material / "weights"), ""):
        with running(tmp_path, "googlenet", weights=weights) as extractor:
            answers.append(extractor.stub.ExtractImages(pb.ExtractImagesRequest(images=[photo])))
            maps = Path(f"/proc/{extractor.process.pid}/maps")
            assert not maps.exists() or "h5py" not in maps.read_text()
    assert answers[0] == answers[1]
    assert len(answers[0].results[0].embedding) == 1024


def test_googlenet_knows_cats_and_dogs(tmp_path: Path, material: Path) -> None:
    """With its real weights the network puts a cat among its first five guesses for a cat, and a dog for a dog."""
    googlenet = EXTRACTORS["googlenet"]
    assert isinstance(googlenet.method, Network)
    spec = replace(googlenet, dimension=1000, method=replace(googlenet.method, output="classes"))
    extraction = Extraction(
        spec,
        store=open_store(str(tmp_path / "store")),
        weights=str(material / "weights"),
        cores=2,
        max_pixels=10**8,
        decode_seconds=LONG,
    )
    extraction.start()
    try:
        for label, classes in (("cat", range(281, 288)), ("dog", range(151, 269))):
            photos = [path.read_bytes() for path in sorted((material / "images/dogs-cats/test" / label).iterdir())]
            vectors = [row.vector for row in extraction.extract_bytes(photos) if row.vector is not None]
            assert len(vectors) == len(photos)
            first_five = [set(np.argsort(-vector)[:5].tolist()) for vector in vectors]
            assert np.mean([not guesses.isdisjoint(classes) for guesses in first_five]) >= 0.95
    finally:
        extraction.close()


def test_a_network_of_a_users_own_tells_how_long_its_vectors_are(tmp_path: Path) -> None:
    """A process that serves one has found it in the store, converted it and tried it before it is ready."""
    sample = make_sample(tmp_path)
    own = put_network(sample.store)
    with running(tmp_path, own.name) as extractor:
        described = extractor.stub.Describe(pb.DescribeRequest())
        assert (described.extractor, described.fingerprint) == (own.name, fingerprint(own.spec))
        assert described.dimension == CHANNELS
        answer = written(extractor.stub, sample.request(extractor=own.name, fingerprint=described.fingerprint))
    assert answer.dimension == CHANNELS == read_segment(sample.store, answer.key).dimension


def test_a_network_that_does_not_fit_says_why_before_anything_is_served(tmp_path: Path) -> None:
    """Whoever started the process reads the reason on its first line, as of any extractor that cannot be had."""
    store = open_store(str(tmp_path / "store"))
    own = put_network(store, tiny_onnx.network(64))
    with spawned(tmp_path, own.name) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.readline())
        assert process.wait(LONG) == 2
    assert (said["ready"], said["kind"]) == (False, "InvalidInput")
    assert "net.onnx does not fit: expected an image of 32 x 32 pixels" in said["error"]
    assert not list(store.list(keys.NETWORKS))


def test_a_custom_extractor_serves_what_it_is_asked_for(tmp_path: Path) -> None:
    """One replica set serves extractors with parameters and networks of users' own; a bad one ends nothing."""
    sample = make_sample(tmp_path)
    good, bad = put_network(sample.store), put_network(sample.store, b"no network", name="bad.onnx")
    wanted = [spec_of("lab:2,3,4"), good.spec, spec_of("hsv:2,2,2"), good.spec]
    with running(tmp_path, "custom") as extractor:
        assert extractor.stub.Describe(pb.DescribeRequest()) == pb.DescribeResponse()
        for spec, length in zip(wanted, (24, CHANNELS, 8, CHANNELS), strict=True):
            request = sample.request(extractor=spec.name, fingerprint=fingerprint(spec))
            assert written(extractor.stub, request).dimension == length
            answer = extractor.stub.ExtractImages(pb.ExtractImagesRequest(images=[digit(1)], extractor=spec.name))
            assert len(answer.results[0].embedding) == length
        with pytest.raises(InvalidInput, match=r"bad\.onnx cannot be read"):
            written(extractor.stub, sample.request(extractor=bad.name, fingerprint=fingerprint(bad.spec)))
        with pytest.raises(InvalidInput, match="There is no network"):
            written(extractor.stub, sample.request(extractor="onnx:net@0123456789ab"))
        with pytest.raises(Conflict, match="another fingerprint"):
            written(extractor.stub, sample.request(extractor=good.name))
        with pytest.raises(InvalidInput, match="must name one"):
            extractor.stub.ExtractImages(pb.ExtractImagesRequest(images=[digit(1)]))
        with pytest.raises(UnknownName, match="no extractor"):
            extractor.stub.ExtractImages(pb.ExtractImagesRequest(images=[digit(1)], extractor="nobody"))
