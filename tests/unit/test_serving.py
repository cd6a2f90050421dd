from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from offshelf import models
from offshelf.digests import digest_of, digest_of_bytes
from offshelf.errors import Cancelled, Conflict, DataLoss, InvalidInput, NotFound, StoreUnavailable, Unavailable
from offshelf.estimators import building, persistence
from offshelf.extraction.registry import EXTRACTORS
from offshelf.extraction.spec import fingerprint
from offshelf.features import SegmentRow
from offshelf.images import ImageStatus
from offshelf.leases import LeaseCache
from offshelf.services.predictor.installed import InstalledExtractors
from offshelf.services.predictor.serving import ModelServer
from offshelf.settings import Settings
from offshelf.store import keys
from tests.unit.fakes import MemoryStore
from tests.unit.own_networks import put_network
from tests.unit.tiny_onnx import CHANNELS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from offshelf.store.objects import ObjectInfo

CLASSES = ("bright", "dark", "grey")


@dataclass
class FakeEmbedder:
    """Takes an image's first byte for its only feature; an image without one cannot be read."""

    closed: bool = False
    calls: int = 0

    def extract_bytes(self, images: Sequence[bytes], *, stop: threading.Event) -> list[SegmentRow]:
        """Extract, and take note of it."""
        if stop.is_set():
            raise Cancelled("stopped")
        assert not self.closed
        self.calls += 1
        return [
            SegmentRow(digest_of_bytes(data), ImageStatus.OK, "", np.array([data[0]], dtype=np.float32))
            if data
            else SegmentRow(digest_of_bytes(data), ImageStatus.UNREADABLE, "it is empty", None)
            for data in images
        ]

    def close(self) -> None:
        """Take note of the end."""
        self.closed = True


@dataclass
class FakeExtractors:
    """Gives fake embedders, and remembers which were opened."""

    opened: list[tuple[str, FakeEmbedder]] = field(default_factory=list)
    missing: set[str] = field(default_factory=set)
    warm: bool = False

    def warm_up(self) -> None:
        """Take note."""
        self.warm = True

    def open(self, name: str, fingerprint: str) -> FakeEmbedder:
        """Open one, unless it is missing."""
        del fingerprint
        if name in self.missing:
            raise Conflict(f"There is no {name} here.")
        embedder = FakeEmbedder()
        self.opened.append((name, embedder))
        return embedder


@pytest.fixture
def store() -> MemoryStore:
    """Make an empty store."""
    return MemoryStore()


@pytest.fixture
def extractors() -> FakeExtractors:
    """Make fake extractors."""
    return FakeExtractors()


@pytest.fixture
def server(store: MemoryStore, extractors: FakeExtractors) -> ModelServer:
    """Make a server with room for two models and one extractor."""
    return ModelServer(store, extractors, models_kept=2, extractors_kept=1)


@pytest.fixture
def stop() -> threading.Event:
    """Make an event that nobody sets."""
    return threading.Event()


def write_model(store: MemoryStore, extractor: str = "hog", name: str = "", classes: Sequence[str] = CLASSES) -> str:
    """Fit a small model: bytes around 250 are bright, around 10 dark, and around 120 grey."""
    X = np.array([[250.0], [251.0], [10.0], [11.0], [120.0], [121.0]])
    y = np.array([0, 0, 1, 1, 2, 2])
    estimator = building.fit(building.build("LR", {"C": 1.0}, 0), X, y)
    data = persistence.save(estimator)
    digest = digest_of([extractor, name])
    card = models.ModelCard(
        digest=digest,
        extractor=extractor,
        fingerprint=fingerprint(EXTRACTORS[extractor]) if extractor in EXTRACTORS else "f" * 64,
        classifier="LR",
        settings={"C": 1.0},
        classes=tuple(classes),
        dataset="d" * 64,
        table="e" * 64,
        images=6,
        measure="accuracy",
        seed=0,
        versions=models.installed_versions(),
        estimator_sha256=digest_of_bytes(data),
        made_by="a test",
    )
    models.write_model(store, card, data)
    return digest


def test_prediction(store: MemoryStore, server: ModelServer, stop: threading.Event) -> None:
    """Each image gets its most probable class and the probability of every class, in the order sent."""
    found = server.predict(write_model(store), [b"\x0a", b"\xfa", b"\x78"], stop=stop)
    assert [each.label for each in found] == ["dark", "bright", "grey"]
    for each in found:
        assert tuple(each.probabilities) == CLASSES
        assert sum(each.probabilities.values()) == pytest.approx(1.0)
        assert each.label == max(each.probabilities, key=lambda name: each.probabilities[name])
        assert each.error == ""


def test_unusable_image(store: MemoryStore, server: ModelServer, stop: threading.Event) -> None:
    """An image that cannot be read gets its reason, and the others their classes."""
    model = write_model(store)
    found = server.predict(model, [b"", b"\x0a", b""], stop=stop)
    assert [(each.label, each.error) for each in found] == [("", "it is empty"), ("dark", ""), ("", "it is empty")]
    assert [each.error for each in server.predict(model, [b""], stop=stop)] == ["it is empty"]


def test_class_without_images(store: MemoryStore, server: ModelServer, stop: threading.Event) -> None:
    """A class that the model was fitted without, since none of its images could be used, has probability 0."""
    (found,) = server.predict(write_model(store, classes=(*CLASSES, "unseen")), [b"\x0a"], stop=stop)
    assert found.probabilities["unseen"] == 0.0
    assert found.label == "dark"


def test_what_cannot_be_asked(store: MemoryStore, server: ModelServer, stop: threading.Event) -> None:
    """A wrong name of a model, no image, or a model that is not there are told apart."""
    model = write_model(store)
    for name in ("", "best", "../spec", model[:-1]):
        with pytest.raises(InvalidInput, match="not the digest of a model"):
            server.predict(name, [b"\x0a"], stop=stop)
    with pytest.raises(InvalidInput, match="no image"):
        server.predict(model, [], stop=stop)
    with pytest.raises(NotFound, match="no model"):
        server.predict("0" * 64, [b"\x0a"], stop=stop)


def test_altered_model(store: MemoryStore, server: ModelServer, stop: threading.Event) -> None:
    """A model whose file was altered is not opened."""
    model = write_model(store)
    store.objects[keys.model(model)] += b"x"
    with pytest.raises(DataLoss, match="fit the model again"):
        server.predict(model, [b"\x0a"], stop=stop)


def test_model_of_another_library(store: MemoryStore, server: ModelServer, stop: threading.Event) -> None:
    """A model fitted with another scikit-learn is refused with what to install, rather than answering wrongly."""
    model = write_model(store)
    card = models.read_card(store, model)
    store.put(keys.model_card(model), replace(card, versions={**card.versions, "scikit-learn": "1.2.1"}).to_json())
    with pytest.raises(Conflict, match=r"scikit-learn==1\.2"):
        server.predict(model, [b"\x0a"], stop=stop)


def test_missing_extractor(
    store: MemoryStore, server: ModelServer, extractors: FakeExtractors, stop: threading.Event
) -> None:
    """A model whose extractor cannot be had says so, and answers as soon as it can be had, without a restart."""
    model = write_model(store)
    extractors.missing.add("hog")
    with pytest.raises(Conflict, match="no hog here"):
        server.predict(model, [b"\x0a"], stop=stop)
    extractors.missing.clear()
    assert server.predict(model, [b"\x0a"], stop=stop)[0].label == "dark"


def test_extractors_are_shared_and_given_back(
    store: MemoryStore, server: ModelServer, extractors: FakeExtractors, stop: threading.Event
) -> None:
    """Models of one extractor share it; an extractor that is no longer needed frees its memory and processes."""
    first, second = write_model(store, "hog", "first"), write_model(store, "hog", "second")
    other = write_model(store, "haralick")

    for model in (first, second, first):
        server.predict(model, [b"\x0a"], stop=stop)
    assert [name for name, _ in extractors.opened] == ["hog"]
    server.predict(other, [b"\x0a"], stop=stop)
    assert [(name, embedder.closed) for name, embedder in extractors.opened] == [("hog", True), ("haralick", False)]
    server.close()
    assert all(embedder.closed for _, embedder in extractors.opened)
    with pytest.raises(Unavailable):
        server.predict(first, [b"\x0a"], stop=stop)


def test_stopping(store: MemoryStore, server: ModelServer, stop: threading.Event) -> None:
    """A request that nobody waits for any more is given up."""
    model = write_model(store)
    stop.set()
    with pytest.raises(Cancelled):
        server.predict(model, [b"\x0a"], stop=stop)
    with pytest.raises(Cancelled):
        server.list(10, "", stop=stop)


def test_list_of_models(store: MemoryStore, server: ModelServer, stop: threading.Event) -> None:
    """All models are listed page by page, each once; one that is still being written is not among them."""
    written = sorted(write_model(store, name=str(number)) for number in range(5))
    store.put(keys.model("0" * 64), b"written before its card")
    store.put("models/notes.txt", b"somebody's")

    assert server.list(0, "", stop=stop).models == tuple(written)
    pages, token = [], ""
    while True:
        page = server.list(2, token, stop=stop)
        pages.append(page.models)
        if not (token := page.next_token):
            break
    assert pages == [tuple(written[:2]), tuple(written[2:4]), tuple(written[4:])]
    assert server.list(5, "", stop=stop).next_token == ""
    with pytest.raises(InvalidInput, match="page token"):
        server.list(2, "models/", stop=stop)


def test_description(store: MemoryStore, server: ModelServer, stop: threading.Event) -> None:
    """A model's card says what it is."""
    model = write_model(store)
    assert server.describe(model, stop=stop).classes == CLASSES
    for missing in ("0" * 64, "best"):
        with pytest.raises(NotFound, match="no model"):
            server.describe(missing, stop=stop)


def test_warm_up(server: ModelServer, extractors: FakeExtractors) -> None:
    """What every request needs is imported before the service is ready."""
    server.warm_up()
    assert extractors.warm


def test_loaded_once() -> None:
    """Of many requests for a model that is not loaded yet, one loads it and all are answered."""
    begun, go_on = threading.Event(), threading.Event()
    loads = []

    def load(key: str) -> str:
        loads.append(key)
        begun.set()
        go_on.wait()
        return key.upper()

    cache: LeaseCache[str, str] = LeaseCache(load, lambda _: None, capacity=1)

    def use() -> str:
        with cache.lease("a") as value:
            return value

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(use) for _ in range(8)]
        begun.wait()
        go_on.set()
        assert {answer.result() for answer in answers} == {"A"}
    assert loads == ["a"]


def test_not_given_back_while_in_use() -> None:
    """A request keeps what it works with, even if others need the room meanwhile or the server stops."""
    disposed: list[str] = []
    cache: LeaseCache[str, str] = LeaseCache(str, disposed.append, capacity=1)
    with cache.lease("a"):
        with cache.lease("b"):
            assert disposed == []
            cache.close()
        assert disposed == ["b"]
    assert disposed == ["b", "a"]


def test_failure_is_not_kept() -> None:
    """A failure to load is told to whoever waited, and the next request tries again."""
    failing = [True]

    def load(key: str) -> str:
        if failing:
            raise NotFound("not yet")
        return key

    disposed: list[str] = []
    cache: LeaseCache[str, str] = LeaseCache(load, disposed.append, capacity=1)
    for _ in range(2):
        with pytest.raises(NotFound), cache.lease("a"):
            pytest.fail("there is nothing to use")
    failing.clear()
    with cache.lease("a") as value:
        assert value == "a"
    assert disposed == []


def test_what_is_loaded_can_be_looked_at() -> None:
    """Whoever watches over it sees what is there, in use or not, and nothing that has failed to load."""
    cache: LeaseCache[str, str] = LeaseCache(lambda key: {"a": "A", "b": "B"}[key], lambda _: None, capacity=2)
    with cache.lease("a"), cache.lease("b"):
        assert cache.values() == ["A", "B"]
    with pytest.raises(KeyError), cache.lease("c"):
        pytest.fail("there is nothing to use")
    assert cache.values() == ["B"]


def test_a_model_of_a_network_that_is_not_here(store: MemoryStore) -> None:
    """A model that was brought from elsewhere says that it needs its network, and how to bring that; then it works."""
    installed = InstalledExtractors(store, Settings(store="unused", cores=1), EXTRACTORS)
    own = put_network(MemoryStore())
    with pytest.raises(Conflict, match=f"needs the network {own.name}.*Client.upload_network"):
        installed.open(own.name, fingerprint(own.spec))
    put_network(store)
    embedder = installed.open(own.name, fingerprint(own.spec))
    try:
        assert embedder.dimension == CHANNELS
    finally:
        embedder.close()


def test_extractor_of_another_version(store: MemoryStore) -> None:
    """A model made with another version of its extractor is refused with the fix: its answers would be wrong."""
    installed = InstalledExtractors(store, Settings(store="unused"), EXTRACTORS)
    with pytest.raises(Conflict, match="another version of hog"):
        installed.open("hog", "0" * 64)
    with pytest.raises(Conflict, match="'vgg99', which this version of Offshelf does not have"):
        installed.open("vgg99", "0" * 64)


def test_extractor_without_weights(store: MemoryStore) -> None:
    """A model whose network has no weights here says which file to put where."""
    installed = InstalledExtractors(store, Settings(store="unused", fetch="never"), EXTRACTORS)
    with pytest.raises(Conflict, match=r"googlenet needs its weights.*OFFSHELF_WEIGHTS"):
        installed.open("googlenet", fingerprint(EXTRACTORS["googlenet"]))


def test_deleted_model_is_not_served_for_long(
    store: MemoryStore, extractors: FakeExtractors, stop: threading.Event
) -> None:
    """A model that was deleted with its dataset is refused a minute later, also where it was loaded; others stay."""
    now = 0.0
    server = ModelServer(store, extractors, clock=lambda: now)
    gone, stays = write_model(store), write_model(store, name="stays")
    for model in (gone, stays):
        server.predict(model, [b"\x0a"], stop=stop)
    store.delete(keys.model_card(gone))
    now = 30.0
    assert server.predict(gone, [b"\x0a"], stop=stop)[0].label == "dark"
    now = 61.0
    for _ in range(2):
        with pytest.raises(NotFound, match="There is no model"):
            server.predict(gone, [b"\x0a"], stop=stop)
    assert server.predict(stays, [b"\x0a"], stop=stop)[0].label == "dark"


def test_loaded_model_is_served_while_the_store_is_away(extractors: FakeExtractors, stop: threading.Event) -> None:
    """A predictor that has its model needs no store: nobody waits for one that does not answer."""

    class Shaky(MemoryStore):
        away = False

        def stat(self, key: str) -> ObjectInfo | None:
            if self.away:
                raise StoreUnavailable("no answer")
            return super().stat(key)

    store, now = Shaky(), 0.0
    server = ModelServer(store, extractors, clock=lambda: now)
    model = write_model(store)
    server.predict(model, [b"\x0a"], stop=stop)
    store.away, now = True, 100.0
    assert server.predict(model, [b"\x0a"], stop=stop)[0].label == "dark"
