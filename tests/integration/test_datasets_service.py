"""Uploads and datasets, between the SDK (or a client that misbehaves) and a real server."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING

import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from offshelf import (
    Client,
    Conflict,
    DeadlineExceeded,
    InvalidDataset,
    InvalidInput,
    NotFound,
    PermissionDenied,
    QuotaExceeded,
    ResourceExhausted,
    Unavailable,
)
from offshelf.client.gateway import Gateway
from offshelf.client.patience import Pauses
from offshelf.client.uploading import upload
from offshelf.datasets import Dataset as StoredDataset
from offshelf.datasets import Item, source_uri
from offshelf.digests import digest_of_bytes
from offshelf.rpc.channel import open_channel
from offshelf.store import keys, open_store
from offshelf.v1 import dataset_pb2 as pb
from offshelf.v1.dataset_pb2_grpc import DatasetServiceStub
from tests.integration.datasets_server import TOKEN, process, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from offshelf import UploadProgress
    from offshelf.client.records import Dataset
    from offshelf.v1.dataset_pb2_grpc import DatasetServiceAsyncStub

SOON = Pauses(attempts=400, first=0.02, longest=0.02, attempts_if_busy=400)
"""Pauses for tests that wait for a server which is being started."""


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A dataset of two classes: twenty small images, two of them equal, and a large one."""
    for number in range(20):
        path = tmp_path / "photos" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photo %d" % (number % 19))
    (tmp_path / "photos" / "cat" / "large.jpg").write_bytes(bytes(range(256)) * 12_000)
    return tmp_path / "photos"


def send(
    address: str, photos: Path, on_progress: Callable[[UploadProgress], None] | None = None, folds: int = 2
) -> Dataset:
    """Upload in this thread, with short pauses."""
    gateway = Gateway(address, token=TOKEN, ca=None)
    try:
        return upload(gateway.datasets, source_uri(str(photos)), folds=folds, on_progress=on_progress, pauses=SOON)
    finally:
        gateway.close()


def piece(data: bytes, *, name: bytes = b"", size: int = 0, offset: int = 0) -> pb.UploadImagesRequest:
    """Make a message with one part of an image."""
    image = bytes.fromhex(digest_of_bytes(name or data))
    digest = bytes.fromhex(digest_of_bytes(data))
    return pb.UploadImagesRequest(
        parts=[pb.ImagePart(image=image, size=size or len(data), offset=offset, data=data, data_digest=digest)]
    )


async def until_there(stub: DatasetServiceAsyncStub, data: bytes) -> None:
    """Ask for an image until it is there."""
    request = pb.FindMissingImagesRequest(images=[bytes.fromhex(digest_of_bytes(data))])
    while (await stub.FindMissingImages(request)).missing:
        pass


def contents(photos: Path) -> dict[str, bytes]:
    """Read all images of a folder, by their key in the store."""
    return {keys.image(digest_of_bytes(data)): data for data in (path.read_bytes() for path in photos.rglob("*.jpg"))}


async def test_a_dataset_is_uploaded_listed_and_deleted(tmp_path: Path, photos: Path) -> None:
    """What the SDK sends arrives byte for byte, is found again, is not sent twice, and goes again."""
    async with serving(tmp_path) as (service, address):

        def use() -> None:
            seen: list[UploadProgress] = []
            with Client(address, TOKEN) as client:
                made = client.upload(photos, on_progress=seen.append)
                assert (made.name, made.images, made.classes, made.user) == ("photos", 21, ("cat", "dog"), "owner")
                assert made.source == f"store:{made.digest}"
                assert made.bytes == sum(path.stat().st_size for path in photos.rglob("*.jpg"))
                assert (seen[-1].images_hashed, seen[-1].images_sent, seen[-1].images_to_send) == (21, 20, 20)
                assert seen[-1].bytes_sent == seen[-1].bytes_to_send > 3_000_000
                seen.clear()
                assert client.upload(photos, name="again", on_progress=seen.append) == made
                assert seen[-1].images_to_send == 0
                (photos / "dog" / "new.jpg").write_bytes(b"new")
                other = client.upload(photos, name="more", on_progress=seen.append)
                assert seen[-1].images_sent == 1
                assert [dataset.name for dataset in client.datasets()] == ["more", "photos"]
                assert client.dataset("more") == client.dataset(other.digest[:8]) == client.dataset(other.digest)
                assert client.delete_dataset("more", dry_run=True).images == 1
                assert client.delete_dataset("more").datasets == client.delete_dataset(made.digest).datasets == 1
                assert list(client.datasets()) == []
                assert client.collect_garbage().bytes == client.collect_garbage(dry_run=False).bytes == 0
                with pytest.raises(InvalidInput, match="7 days"):
                    client.collect_garbage(3)
                with pytest.raises(NotFound, match="offshelf datasets list"):
                    client.dataset("more")

        await asyncio.to_thread(use)
        assert list(service.store.list(keys.IMAGES)) == []


async def test_garbage_goes_only_if_that_is_asked_for(tmp_path: Path) -> None:
    """A call that leaves everything out tells what nothing needs, and deletes nothing."""
    async with serving(tmp_path) as (service, address), open_channel(address, token=TOKEN) as channel:
        stub = DatasetServiceStub(channel)
        key = keys.image(digest_of_bytes(b"nobody's"))
        service.store.put(key, b"nobody's")
        old = time.time() - 8 * 86_400
        os.utime(tmp_path / "store" / key, (old, old))
        told = await stub.CollectGarbage(pb.CollectGarbageRequest())
        assert told.removal.images == 1
        assert service.store.stat(key) is not None
        assert (await stub.CollectGarbage(pb.CollectGarbageRequest(delete=True))).removal == told.removal
        assert service.store.stat(key) is None


async def test_datasets_are_listed_in_pages(tmp_path: Path, photos: Path) -> None:
    """However many datasets there are, all come, the newest first; a made-up page token is refused."""
    async with serving(tmp_path) as (_, address), open_channel(address, token=TOKEN) as channel:
        for number in range(5):
            (photos / "dog" / "0.jpg").write_bytes(b"%d" % number)
            await asyncio.to_thread(send, address, photos)
        stub: DatasetServiceAsyncStub = DatasetServiceStub(channel)
        found: list[pb.Dataset] = []
        token = ""
        while token or not found:
            answer = await stub.ListDatasets(pb.ListDatasetsRequest(page_size=2, page_token=token))
            found += answer.datasets
            token = answer.next_page_token
        assert len({dataset.digest for dataset in found}) == 5
        times = [dataset.created_at.ToNanoseconds() for dataset in found]
        assert times == sorted(times, reverse=True)
        with pytest.raises(InvalidInput, match="token"):
            await stub.ListDatasets(pb.ListDatasetsRequest(page_token="x"))


async def test_a_wrong_digest_is_refused_and_named(tmp_path: Path) -> None:
    """Bytes that are not what their name says are not stored, and the answer says which; the rest is stored."""
    async with serving(tmp_path) as (service, address), open_channel(address, token=TOKEN) as channel:
        stub: DatasetServiceAsyncStub = DatasetServiceStub(channel)
        answer = await stub.UploadImages(iter([piece(b"good"), piece(b"bad", name=b"other"), piece(b"fine")]))
        assert answer.images_stored == 2
        assert [refused.image.hex() for refused in answer.refused] == [digest_of_bytes(b"other")]
        assert len(list(service.store.list(keys.IMAGES))) == 2
        with pytest.raises(InvalidInput, match="in order"):
            await stub.UploadImages(iter([piece(b"second", name=b"x", size=9, offset=3)]))
        with pytest.raises(InvalidInput, match="32 bytes"):
            await stub.FindMissingImages(pb.FindMissingImagesRequest(images=[b"short"]))


async def test_a_damaged_piece_is_refused_and_named(tmp_path: Path) -> None:
    """An image of which a piece was altered on its way is not stored, and the answer says which; others are."""
    async with serving(tmp_path) as (service, address), open_channel(address, token=TOKEN) as channel:
        stub: DatasetServiceAsyncStub = DatasetServiceStub(channel)
        large = [bytes([number]) * (1 << 20) for number in range(3)]
        sent = [
            piece(part, name=b"".join(large), size=3 << 20, offset=number << 20) for number, part in enumerate(large)
        ]
        sent[1].parts[0].data = large[0]
        small = piece(b"small")
        small.parts[0].data_digest = bytes(32)
        answer = await stub.UploadImages(iter([*sent, small, piece(b"fine")]))
        assert answer.images_stored == 1
        refused = {each.image.hex(): each.reason for each in answer.refused}
        damaged = "a piece of it arrived damaged: send it again"
        assert refused == {digest_of_bytes(b"".join(large)): damaged, digest_of_bytes(b"small"): damaged}
        assert [info.key for info in service.store.list(keys.IMAGES)] == [keys.image(digest_of_bytes(b"fine"))]


async def test_a_message_has_its_limits(tmp_path: Path) -> None:
    """As many images as one may ask for fit into a question; what is larger, or in too many pieces, says what to do."""
    async with serving(tmp_path) as (_, address), open_channel(address, token=TOKEN) as channel:
        stub: DatasetServiceAsyncStub = DatasetServiceStub(channel)
        asked = [number.to_bytes(32, "big") for number in range(100_000)]
        answer = await stub.FindMissingImages(pb.FindMissingImagesRequest(images=asked))
        assert len(answer.missing) == 100_000
        with pytest.raises(InvalidInput, match="ask for at most 100000"):
            await stub.FindMissingImages(pb.FindMissingImagesRequest(images=[b""] * 100_001))
        with pytest.raises(ResourceExhausted, match=r"limit of 4 MiB\. Send less at once"):
            await stub.FindMissingImages(pb.FindMissingImagesRequest(images=[bytes(32)] * 130_000))
        with pytest.raises(InvalidInput, match="more than 4096 parts"):
            await stub.UploadImages(iter([pb.UploadImagesRequest(parts=[pb.ImagePart()] * 4097)]))
        items = pb.DatasetItems(items=[pb.DatasetItem()] * 20_001)
        with pytest.raises(InvalidInput, match="more than 20000 items"):
            await stub.CreateDataset(iter([pb.CreateDatasetRequest(items=items)]))


async def test_long_names_fit_into_messages(tmp_path: Path) -> None:
    """A dataset with the longest of paths is described in messages that the server takes."""
    deep = "/".join(["d" * 200] * 18)
    items = [Item(f"{deep}/{n}.jpg", ("cat", "dog")[n % 2], "", digest_of_bytes(b"x")) for n in range(2000)]
    async with serving(tmp_path) as (_, address):

        def describe() -> None:
            gateway = Gateway(address, token=TOKEN, ca=None)
            try:
                gateway.datasets.create("deep", items)
            finally:
                gateway.close()

        with pytest.raises(Conflict, match="1 of the dataset's images"):
            await asyncio.to_thread(describe)


async def test_tools_find_all_services_of_an_orchestrator(tmp_path: Path) -> None:
    """An ordinary gRPC tool lists runs and datasets, though one process serves both."""
    with process(tmp_path) as (_, address):
        async with open_channel(address, token=TOKEN) as channel:
            asked = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
            [answer] = [
                answer async for answer in reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(asked)
            ]
    names = {service.name for service in answer.list_services_response.service}
    assert names >= {"offshelf.v1.OrchestratorService", "offshelf.v1.DatasetService"}


async def test_a_dataset_needs_all_its_images(tmp_path: Path) -> None:
    """A dataset is made when all images are there; before, the error says how many are missing. No path leaves it."""
    async with serving(tmp_path) as (_, address), open_channel(address, token=TOKEN) as channel:
        stub: DatasetServiceAsyncStub = DatasetServiceStub(channel)

        def described(*paths: str, name: str = "pets") -> list[pb.CreateDatasetRequest]:
            items = [
                pb.DatasetItem(path=path, label=path.partition("/")[0], image=bytes.fromhex(digest_of_bytes(b"x")))
                for path in paths
            ]
            header = pb.CreateDatasetRequest(header=pb.DatasetHeader(name=name))
            return [header, *(pb.CreateDatasetRequest(items=pb.DatasetItems(items=[item])) for item in items)]

        with pytest.raises(Conflict, match="1 of the dataset's images are not in the store"):
            await stub.CreateDataset(iter(described("cat/1", "dog/1")))
        await stub.UploadImages(iter([piece(b"x")]))
        for wrong in (
            described("cat/1", "../1"),
            described("cat/1", "/etc/1"),
            described("cat/1", "dog//1"),
            described("cat/1", "cat/1", "dog/1"),
            described(),
            described("cat/1", "dog/1", name="two\nlines"),
            described("cat/1", "dog/1")[1:],
            [*described("cat/1"), *described("dog/1")],
            [],
        ):
            with pytest.raises(InvalidInput):
                await stub.CreateDataset(iter(wrong))
        made = await stub.CreateDataset(iter(described("dog/1", "cat/1")))
        assert (made.dataset.images, list(made.dataset.classes)) == (2, ["cat", "dog"])
        found = await stub.GetDataset(pb.GetDatasetRequest(digest=made.dataset.digest))
        assert found.dataset == made.dataset
        one = await stub.CreateDataset(iter(described("cat/1", "cat/2")))
        assert list(one.dataset.classes) == ["cat"], "enough for whoever wants features alone"


async def test_a_dataset_that_a_run_uses_is_not_deleted(tmp_path: Path, photos: Path) -> None:
    """Deleting is refused while a run needs the dataset, and nothing of it goes."""
    async with serving(tmp_path) as (service, address):
        made = await asyncio.to_thread(send, address, photos)
        service.in_use = frozenset({made.digest})

        def delete() -> None:
            with Client(address, TOKEN) as client:
                client.delete_dataset(made.digest)

        with pytest.raises(Conflict, match="run"):
            await asyncio.to_thread(delete)
        service.in_use = frozenset()
        await asyncio.to_thread(delete)


async def test_who_sends_slowly_costs_no_one_else(tmp_path: Path, photos: Path) -> None:
    """Silent clients are ended after a while; until then one user has so many, and all else is answered."""
    async with serving(tmp_path, idle_seconds=1.0) as (_, address), open_channel(address, token=TOKEN) as channel:
        stub: DatasetServiceAsyncStub = DatasetServiceStub(channel)
        begun = []

        async def silent(number: int, said: asyncio.Event) -> AsyncIterator[pb.UploadImagesRequest]:
            yield piece(b"%d" % number)
            said.set()
            await asyncio.Event().wait()

        for number in range(8):
            said = asyncio.Event()
            begun.append(stub.UploadImages(silent(number, said)))
            await said.wait()
        for number in range(8):
            await until_there(stub, b"%d" % number)
        with pytest.raises(ResourceExhausted, match="as many as this server takes"):
            await stub.UploadImages(iter([piece(b"x")]))
        answer = await stub.FindMissingImages(pb.FindMissingImagesRequest(images=[bytes(32)]))
        assert list(answer.missing) == [bytes(32)]
        uploaded = await asyncio.to_thread(send, address, photos)  # waits for its turn, and gets it
        assert uploaded.images == 21
        for call in begun:
            with pytest.raises(DeadlineExceeded, match="is kept"):
                await call


async def test_the_audit_log_names_what_a_stream_was_about(tmp_path: Path, photos: Path) -> None:
    """An auditor finds how many images somebody sent and which dataset they wanted of them, also where that failed."""
    items = [Item(f"{label}/1", label, "", digest_of_bytes(label.encode())) for label in ("cat", "dog")]
    described = [pb.DatasetItem(path=it.path, label=it.label, image=bytes.fromhex(it.digest)) for it in items]
    header = pb.CreateDatasetRequest(header=pb.DatasetHeader(name="pets"))
    async with serving(tmp_path, quota_images=21) as (service, address):
        made = await asyncio.to_thread(send, address, photos)
        async with open_channel(address, token=TOKEN) as channel:
            stub: DatasetServiceAsyncStub = DatasetServiceStub(channel)
            with pytest.raises(QuotaExceeded):
                await stub.UploadImages(iter([piece(b"one"), piece(b"two")]))
            with pytest.raises(Conflict):
                await stub.CreateDataset(
                    iter([header, pb.CreateDatasetRequest(items=pb.DatasetItems(items=described))])
                )
    lines = [
        json.loads(line) for info in service.store.list("audit/") for line in service.store.get(info.key).splitlines()
    ]
    found = {(line["who"], line["what"], line["target"], line["outcome"]) for line in lines}
    assert ("owner", "UploadImages", "images: 20", "OK") in found
    assert {target for _, what, target, code in found if what == "UploadImages" and code == "RESOURCE_EXHAUSTED"} <= {
        "images: 1",
        "images: 2",
    }
    assert ("owner", "CreateDataset", made.digest, "OK") in found
    assert ("owner", "CreateDataset", StoredDataset.of(items).digest, "FAILED_PRECONDITION") in found


async def test_a_connection_that_is_cut_leaves_nothing_behind(tmp_path: Path) -> None:
    """Clients that vanish in the middle of an image free their places at once; complete images stay."""
    async with serving(tmp_path) as (service, address):
        for number in range(10):
            said = asyncio.Event()

            async def cut(number: int, said: asyncio.Event) -> AsyncIterator[pb.UploadImagesRequest]:
                yield piece(b"whole %d" % number)
                yield piece(bytes(1 << 20), name=b"never", size=3 << 20)
                said.set()
                await asyncio.Event().wait()

            async with open_channel(address, token=TOKEN) as channel:
                stub: DatasetServiceAsyncStub = DatasetServiceStub(channel)
                call = stub.UploadImages(cut(number, said))
                await said.wait()
                await until_there(stub, b"whole %d" % number)
                call.cancel()
        assert len(list(service.store.list(keys.IMAGES))) == 10


def test_an_upload_outlives_a_server_that_is_killed(tmp_path: Path, photos: Path) -> None:
    """`kill -9` in the middle, and a start on the same store and port: the same upload ends, with every byte."""
    for number in range(1500):
        (photos / "dog" / f"more {number}.jpg").write_bytes(b"%d" % number * 5000)
    killed = threading.Event()
    with process(tmp_path) as (first, address):

        def kill(progress: UploadProgress) -> None:
            if progress.images_sent > 300 and not killed.is_set():
                first.send_signal(signal.SIGKILL)
                killed.set()

        outcome: list[Dataset] = []
        sending = threading.Thread(target=lambda: outcome.append(send(address, photos, kill)))
        sending.start()
        first.wait()
        with process(tmp_path, port=int(address.rpartition(":")[2])):
            sending.join()
    assert killed.is_set()
    store = open_store(str(tmp_path / "store"))
    assert outcome[0].images == 1521
    assert {info.key: store.get(info.key) for info in store.list(keys.IMAGES)} == contents(photos)


def test_a_server_that_stops_ends_uploads_in_order(tmp_path: Path, photos: Path) -> None:
    """SIGTERM in the middle of an upload: the server is gone in its time, the SDK says how to go on, and it does."""
    for number in range(1500):
        (photos / "dog" / f"more {number}.jpg").write_bytes(b"%d" % number * 20_000)
    stopped = threading.Event()
    with process(tmp_path) as (first, address):

        def stop(progress: UploadProgress) -> None:
            if progress.images_sent > 300 and not stopped.is_set():
                stopped.set()
                first.terminate()

        with pytest.raises(Unavailable, match="the same command goes on from there"):
            upload_impatiently(address, photos, stop)
        assert first.wait() == 0
    there = len(list(open_store(str(tmp_path / "store")).list(keys.IMAGES)))
    assert there
    seen: list[UploadProgress] = []
    with process(tmp_path) as (_, address):
        assert send(address, photos, seen.append).images == 1521
    assert seen[-1].images_to_send == 1520 - there


def upload_impatiently(address: str, photos: Path, on_progress: Callable[[UploadProgress], None]) -> None:
    """Upload, and give up at the second failure."""
    gateway = Gateway(address, token=TOKEN, ca=None)
    once = Pauses(attempts=1, first=0.01, longest=0.01)
    try:
        upload(gateway.datasets, source_uri(str(photos)), on_progress=on_progress, pauses=once)
    finally:
        gateway.close()


def test_ctrl_c_stops_an_upload_at_once(tmp_path: Path, photos: Path) -> None:
    """Interrupting leaves no thread at work, and what was sent is not sent again."""
    with process(tmp_path) as (_, address):

        def interrupt(progress: UploadProgress) -> None:
            if progress.images_sent:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            send(address, photos, interrupt)
        assert not any(thread.name.startswith("upload") for thread in threading.enumerate())
        assert send(address, photos).images == 21


def test_users_of_a_server_name_no_path_of_it_unless_it_has_roots(tmp_path: Path, photos: Path) -> None:
    """A server with users that says nothing of data roots reads none of its files for them."""
    with (
        process(tmp_path) as (_, address),
        Client(address, TOKEN) as client,
        pytest.raises(PermissionDenied, match="add its folder to OFFSHELF_DATA_ROOTS"),
    ):
        client.run(f"server:{photos}")


async def test_a_quota_ends_an_upload_with_its_reason(tmp_path: Path, photos: Path) -> None:
    """Who may have no more is told so once, without further attempts; what was sent counts."""
    async with serving(tmp_path, quota_images=15) as (service, address):
        with pytest.raises(QuotaExceeded, match=r"15 of 15 images are used.*administrator"):
            await asyncio.to_thread(send, address, photos)
        assert len(list(service.store.list(keys.IMAGES))) == 15


async def test_what_changes_during_an_upload_is_read_again(tmp_path: Path, photos: Path) -> None:
    """An image that is replaced after it was hashed is uploaded as it is now; one that is gone is reported."""
    async with serving(tmp_path) as (service, address):
        changed = False

        def change(progress: UploadProgress) -> None:
            nonlocal changed
            if progress.images_hashed == 21 and not changed:
                changed = True
                (photos / "cat" / "2.jpg").write_bytes(b"another")
                (photos / "cat" / "large.jpg").write_bytes(bytes(5 << 20))
                (photos / "dog" / "1.jpg").unlink()

        made = await asyncio.to_thread(send, address, photos, change)
        assert made.images == 20
        assert [(image.path, image.reason) for image in made.skipped] == [("dog/1.jpg", "no longer exists")]
        stored = {info.key for info in service.store.list(keys.IMAGES)}
        assert stored == contents(photos).keys()


async def test_images_that_cannot_be_read_are_reported(tmp_path: Path, photos: Path) -> None:
    """A broken link is left out and named; too few images that are left end the upload before anything is sent."""
    (photos / "cat" / "link.jpg").symlink_to(photos / "cat" / "nowhere.jpg")
    async with serving(tmp_path) as (_, address):
        made = await asyncio.to_thread(send, address, photos)
        assert [image.path for image in made.skipped] == ["cat/link.jpg"]
        with pytest.raises(InvalidDataset, match="dog"):
            await asyncio.to_thread(lambda: send(address, photos, folds=12))


async def test_an_image_that_somebody_deletes_meanwhile_is_sent_again(tmp_path: Path, photos: Path) -> None:
    """If images go between their upload and the making of the dataset, the SDK sends them once more."""
    async with serving(tmp_path) as (service, address):
        gone = False

        def delete(progress: UploadProgress) -> None:
            nonlocal gone
            if progress.images_to_send and progress.images_sent == progress.images_to_send and not gone:
                gone = True
                for info in list(service.store.list(keys.IMAGES))[:5]:
                    service.store.delete(info.key)

        assert (await asyncio.to_thread(send, address, photos, delete)).images == 21
        assert gone
        assert len(list(service.store.list(keys.IMAGES))) == 20
