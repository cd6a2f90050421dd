"""What the settings of an installation come to, through whole services that were put together from them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from offshelf import Client, PermissionDenied, QuotaExceeded, ResourceExhausted
from offshelf.datasets import open_source, scan, write_dataset
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import fingerprint
from offshelf.features import read_segment
from offshelf.images import ImageStatus
from offshelf.rpc.auth import read_token
from offshelf.rpc.channel import open_channel
from offshelf.runs import RunState
from offshelf.services.extractor.__main__ import make_service as make_extractor
from offshelf.store import open_store
from offshelf.v1 import extractor_pb2
from offshelf.v1.extractor_pb2_grpc import ExtractorServiceStub
from tests.e2e.installation import write_photo
from tests.integration.datasets_server import TOKEN
from tests.integration.rclone_s3 import BUCKET, serve_s3
from tests.integration.stand_ins import served
from tests.integration.whole_services import (
    EXTRACTOR,
    Namespace,
    orchestrator_of_cluster,
    orchestrator_of_machine,
    settings_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf import Run
    from offshelf.v1.extractor_pb2_grpc import ExtractorServiceAsyncStub

MINE, NOT_MINE = f"s3://{BUCKET}/mine/pets", f"s3://{BUCKET}/others/pets"


def write_photos(folder: Path) -> Path:
    """Write two classes of two images each."""
    for kind, label in enumerate(("cat", "dog")):
        for number in range(2):
            write_photo(folder / label / f"{number}.png", kind, number)
    return folder


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A dataset in a folder."""
    return write_photos(tmp_path / "photos")


@pytest.fixture
def buckets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The same dataset twice in a bucket, of whose S3 server our services know address and keys."""
    (tmp_path / "s3").mkdir()
    with serve_s3(tmp_path / "s3") as server:
        for owner in ("mine", "others"):
            write_photos(tmp_path / "s3" / BUCKET / owner / "pets")
        for name, value in {**server.environ, "OFFSHELF_S3_ENDPOINT": f"http://{server.address}"}.items():
            monkeypatch.setenv(name, value)
        yield


def begin(client: Client, dataset: str, seed: int = 0) -> Run:
    """Start a run, which in a `Namespace` does not end by itself."""
    return client.run(dataset, extractors=EXTRACTOR, classifiers="LR", folds=2, seed=seed)


@pytest.mark.parametrize(("setting", "most"), [("quota_images", 3), ("quota_bytes", 1)])
async def test_a_user_has_as_many_images_as_the_installation_says(
    setting: str, most: int, tmp_path: Path, photos: Path
) -> None:
    """An installation with a quota takes no more of one user, and says by which setting."""

    def use(address: str) -> None:
        with Client(address, TOKEN) as client, pytest.raises(QuotaExceeded, match=f"OFFSHELF_{setting.upper()}"):
            client.upload(photos)

    async with orchestrator_of_cluster(tmp_path, **{setting: most}) as server:
        await asyncio.to_thread(use, server.address)


async def test_a_user_has_as_many_runs_as_the_installation_says(tmp_path: Path, photos: Path) -> None:
    """An installation with a quota of runs starts no more for one user until one of theirs has ended."""

    def use(address: str) -> None:
        with Client(address, TOKEN) as client:
            first = begin(client, f"server:{photos}")
            with pytest.raises(ResourceExhausted, match="one user may have 1"):
                begin(client, f"server:{photos}", seed=1)
            first.cancel()
            begin(client, f"server:{photos}", seed=1)

    async with orchestrator_of_cluster(tmp_path, quota_runs=1) as server:
        await asyncio.to_thread(use, server.address)


@pytest.mark.usefixtures("buckets")
async def test_runs_read_the_buckets_of_the_installation_and_no_others(tmp_path: Path) -> None:
    """A dataset in a bucket that the platform team has named is read; any other is refused before a run is made."""

    def use(address: str) -> None:
        with Client(address, TOKEN) as client:
            with pytest.raises(PermissionDenied, match="OFFSHELF_DATA_BUCKETS"):
                begin(client, NOT_MINE)
            assert list(client.runs()) == []
            for status in begin(client, MINE).updates():
                assert status.state is not RunState.FAILED, status.error
                if status.progress.images_total:
                    assert status.progress.images_total == 4
                    return

    async with orchestrator_of_cluster(tmp_path, data_buckets=f"s3://{BUCKET}/mine") as server:
        await asyncio.to_thread(use, server.address)


@pytest.mark.usefixtures("buckets")
async def test_extractors_read_the_buckets_of_the_installation_and_no_others(tmp_path: Path) -> None:
    """An extractor reads images from a bucket that the platform team has named, and from none beside it."""
    settings = settings_of(tmp_path, extractor=EXTRACTOR, data_buckets=f"s3://{BUCKET}/mine")
    store = open_store(settings.store)
    dataset, _ = scan(open_source(MINE, roots=None, buckets=(MINE,)))
    write_dataset(store, dataset)

    def request(source: str) -> extractor_pb2.ExtractSegmentRequest:
        images = [bytes.fromhex(item.digest) for item in dataset.items]
        return extractor_pb2.ExtractSegmentRequest(
            extractor=EXTRACTOR,
            fingerprint=fingerprint(EXTRACTORS[EXTRACTOR]),
            dataset=dataset.digest,
            source=source,
            images=images,
        )

    async with (
        served(await make_extractor(settings), settings) as server,
        open_channel(server.address, token=TOKEN) as channel,
    ):
        stub: ExtractorServiceAsyncStub = ExtractorServiceStub(channel)
        with pytest.raises(PermissionDenied, match="OFFSHELF_DATA_BUCKETS"):
            [answer async for answer in stub.ExtractSegment(request(NOT_MINE), timeout=60)]
        *_, last = [answer async for answer in stub.ExtractSegment(request(MINE), timeout=60)]
    rows = read_segment(store, last.written.key).rows
    assert [row.status for row in rows] == [ImageStatus.OK] * 4


async def test_the_orchestrator_of_a_cluster_goes_on_with_its_runs(tmp_path: Path, photos: Path) -> None:
    """When the orchestrator's pod was replaced, the runs that it had go on without anybody asking for them."""
    cluster = Namespace()
    async with orchestrator_of_cluster(tmp_path, cluster) as server:
        run = await asyncio.to_thread(began, server.address, TOKEN, photos)
    async with orchestrator_of_cluster(tmp_path, cluster) as server:
        assert await asyncio.to_thread(goes_on, server.address, TOKEN, run)


async def test_the_server_of_one_machine_goes_on_with_its_runs(tmp_path: Path, photos: Path) -> None:
    """When `offshelf up` is started again, the runs that it had go on without anybody asking for them."""
    token = tmp_path / "store" / ".embedded" / "token"
    async with orchestrator_of_machine(tmp_path) as server:
        run = await asyncio.to_thread(began, server.address, read_token(token), photos)
    async with orchestrator_of_machine(tmp_path) as server:
        assert await asyncio.to_thread(goes_on, server.address, read_token(token), run)


def began(address: str, token: str, photos: Path) -> str:
    """Start a run and leave it; gives its id."""
    with Client(address, token) as client:
        return begin(client, f"server:{photos}").id


def goes_on(address: str, token: str, run: str) -> bool:
    """Tell whether a run is being worked on."""
    with Client(address, token) as client:
        return client.get(run).state in {RunState.PENDING, RunState.RUNNING}
