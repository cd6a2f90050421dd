"""What a store in S3 does while its server is away: asks again with pauses, for a while, and not after being closed."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import NotFound, StoreDenied, StoreFull, StoreUnavailable
from offshelf.store.bucket import Piece
from offshelf.store.patience import Patience, end_waits_with, waits_end_with
from offshelf.store.patient import PatientBucket, PatientStore
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from offshelf.errors import OffshelfError
    from offshelf.store.objects import ObjectInfo

AWAY = StoreUnavailable("The store is away.")


class Time:
    """A clock that only pauses move."""

    def __init__(self) -> None:
        self.now = 100.0
        self.pauses: list[float] = []

    def wait(self, event: threading.Event, seconds: float) -> bool:
        """Let the time pass."""
        self.pauses.append(seconds)
        self.now += seconds
        return event.is_set()

    def patience(self, seconds: float) -> Patience:
        """Make a patience that lives in this time."""
        return Patience(seconds, wait=self.wait, clock=lambda: self.now)


class MoodyStore(MemoryStore):
    """Fails as often as it is told, and may break off its lists."""

    def __init__(self) -> None:
        super().__init__()
        self.errors: list[OffshelfError] = []
        self.listed_before_failing = 0
        self.calls = 0
        self.closed = False

    def _stumble(self) -> None:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)

    def put(self, key: str, data: bytes) -> None:
        """Write an object, and fail after that: what was done may be answered with an error."""
        super().put(key, data)
        self._stumble()

    def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
        """Read an object."""
        self._stumble()
        return super().get(key, offset=offset, length=length)

    def stat(self, key: str) -> ObjectInfo | None:
        """Look an object up."""
        self._stumble()
        return super().stat(key)

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield some objects, then fail."""
        for number, info in enumerate(super().list(prefix)):
            if number >= self.listed_before_failing:
                self._stumble()
            yield info

    def children(self, prefix: str) -> Iterator[str]:
        """Yield some names."""
        self._stumble()
        yield from super().children(prefix)

    def delete(self, key: str) -> None:
        """Remove an object, and fail after that."""
        super().delete(key)
        self._stumble()

    def close(self) -> None:
        """Take note."""
        self.closed = True


@pytest.fixture
def time() -> Time:
    """A time that passes at once."""
    return Time()


@pytest.fixture
def moody() -> MoodyStore:
    """A store that fails when told."""
    return MoodyStore()


@pytest.fixture
def store(moody: MoodyStore, time: Time) -> PatientStore:
    """A patient store around it."""
    return PatientStore(moody, time.patience(90.0))


def test_an_outage_is_not_noticed(store: PatientStore, moody: MoodyStore, tmp_path: Path) -> None:
    """A user whose store is away for a moment gets the same answers as from one that is not."""
    (tmp_path / "file").write_bytes(b"from a file")
    calls: list[tuple[Callable[[], object], object]] = [
        (lambda: store.put("a/b", b"data"), None),
        (lambda: store.put_file("a/c", tmp_path / "file"), None),
        (lambda: store.get("a/b"), b"data"),
        (lambda: store.get("a/b", offset=1, length=2), b"at"),
        (lambda: store.get_file("a/c", tmp_path / "copy"), None),
        (lambda: list(store.children("a/")), ["b", "c"]),
        (lambda: [info.key for info in store.list("a/")], ["a/b", "a/c"]),
        (lambda: store.delete("a/b"), None),
        (lambda: store.stat("a/b"), None),
    ]
    for call, expected in calls:
        moody.errors = [AWAY, AWAY, AWAY]
        assert call() == expected
        assert moody.errors == []
    assert (tmp_path / "copy").read_bytes() == b"from a file"
    assert store.url == moody.url


def test_patience_ends_with_the_same_message(store: PatientStore, moody: MoodyStore, time: Time) -> None:
    """A user whose store stays away is told so after ninety seconds, in the words of the store."""
    moody.errors = [StoreUnavailable(f"The store is away ({number}).") for number in range(1000)]
    with pytest.raises(StoreUnavailable, match=r"The store is away \(\d+\)\."):
        store.get("a/b")
    assert 85.0 < time.now - 100.0 <= 90.0 + 1e-6


def test_pauses_grow_and_are_spread(time: Time) -> None:
    """A thousand clients that lose a store at once do not come back at once, nor ask a store that is away for ever."""
    moody = MoodyStore()
    firsts = []
    for _ in range(100):
        moody.errors = [AWAY] * 1000
        time.pauses.clear()
        with pytest.raises(StoreUnavailable):
            PatientStore(moody, time.patience(60.0)).stat("a")
        firsts.append(time.pauses[0])
        assert all(pause <= 0.25 * 2**number for number, pause in enumerate(time.pauses[:5]))
        assert max(time.pauses) <= 5.0
        assert 12 <= len(time.pauses) < 100
    assert max(firsts) - min(firsts) > 0.1


@pytest.mark.parametrize("error", [StoreDenied("wrong keys"), StoreFull("full"), NotFound("nothing there")])
def test_what_only_a_person_can_mend_is_told_at_once(
    store: PatientStore, moody: MoodyStore, time: Time, error: OffshelfError
) -> None:
    """A user with wrong keys, or a full or read-only store, is told so without a pause."""
    moody.errors = [error]
    with pytest.raises(type(error)):
        store.put("a", b"x")
    assert time.pauses == []
    assert moody.calls == 1


def test_a_list_that_breaks_off_goes_on(store: PatientStore, moody: MoodyStore) -> None:
    """A user gets each object of a long list once, in order, also if the store goes away in its middle."""
    keys = [f"a/{number}" for number in range(8)]
    for key in keys:
        store.put(key, b"x")
    moody.listed_before_failing = 3
    moody.errors = [AWAY, AWAY]
    assert [info.key for info in store.list("a/")] == keys
    assert moody.errors == []


def test_each_outage_of_a_long_list_has_its_own_patience(store: PatientStore, moody: MoodyStore, time: Time) -> None:
    """A user whose store stumbles now and then during a very long list gets all of it."""
    keys = [f"a/{number:03d}" for number in range(200)]
    for key in keys:
        moody.put(key, b"x")
    found = []
    for info in store.list("a/"):
        found.append(info.key)
        moody.errors = [AWAY, AWAY, AWAY]
        moody.listed_before_failing = len(found)
    assert found == keys
    assert time.now - 100.0 > 90.0


def test_a_closed_store_waits_no_more(moody: MoodyStore) -> None:
    """A service that is told to stop while its store is away stops at once."""
    waiting = threading.Event()

    def wait(event: threading.Event, seconds: float) -> bool:
        waiting.set()
        return event.wait(seconds)

    store = PatientStore(moody, Patience(3600.0, first=3600.0, longest=3600.0, wait=wait))
    moody.errors = [AWAY] * 3
    outcome: list[BaseException] = []

    def ask() -> None:
        try:
            store.get("a/b")
        except StoreUnavailable as error:
            outcome.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    waiting.wait()
    store.close()
    asking.join()
    assert outcome == [AWAY]
    assert moody.closed
    with pytest.raises(StoreUnavailable):
        store.get("a/b")
    with pytest.raises(StoreUnavailable):
        store.get("a/b")
    moody.objects["a/b"] = b"still usable"
    assert store.get("a/b") == b"still usable"


def test_work_that_is_stopped_waits_no_more(store: PatientStore, moody: MoodyStore, time: Time) -> None:
    """A user who cancels a run while the store is away does not wait for the store."""
    stop = threading.Event()
    moody.errors = [AWAY] * 1000
    with waits_end_with(None), waits_end_with(stop):
        stop.set()
        with pytest.raises(StoreUnavailable):
            store.get("a/b")
    assert time.pauses == []
    moody.errors = [AWAY]
    moody.objects["a/b"] = b"x"
    assert store.get("a/b") == b"x", "the work of others goes on"


def test_a_stop_is_looked_at_in_the_middle_of_a_pause(moody: MoodyStore) -> None:
    """A user who cancels in the middle of a long pause does not wait for its end."""
    stop = threading.Event()
    moody.errors = [AWAY] * 10

    def wait(event: threading.Event, seconds: float) -> bool:
        assert seconds <= 0.1
        stop.set()
        return event.is_set()

    store = PatientStore(moody, Patience(3600.0, first=3600.0, longest=3600.0, wait=wait))

    def work() -> None:
        end_waits_with(stop)
        with pytest.raises(StoreUnavailable):
            store.get("a/b")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(moody.errors) == 9


def test_an_outage_is_logged_once(store: PatientStore, moody: MoodyStore, caplog: pytest.LogCaptureFixture) -> None:
    """An operator finds in the log that a service waits for its store, and why, but not once for each try."""
    moody.errors = [AWAY] * 5
    moody.objects["a"] = b"x"
    with caplog.at_level(logging.WARNING):
        store.get("a")
        moody.errors = [AWAY]
        store.get("a")
    assert [record.message for record in caplog.records] == ["waiting for the store"]
    assert caplog.records[0].__dict__["reason"] == "The store is away."


class MoodyBucket:
    """A bucket of two objects, listed out of order, that fails as often as it is told."""

    url = "s3://moody"

    def __init__(self) -> None:
        self.errors: list[StoreUnavailable] = []
        self.written: list[str] = []

    def _stumble(self) -> None:
        if self.errors:
            raise self.errors.pop(0)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield one name, fail, yield the other."""
        yield f"{prefix}b", 1
        self._stumble()
        yield f"{prefix}a", 1

    def size(self, name: str) -> int | None:
        """Fail, or say something."""
        self._stumble()
        return len(name)

    def read(self, name: str, *, offset: int = 0, length: int) -> Piece:
        """Fail, or give the name."""
        self._stumble()
        return Piece(name.encode()[offset : offset + length], len(name), "1")

    def put_file(self, name: str, path: Path) -> None:
        """Fail, or remember the name."""
        del path
        self._stumble()
        self.written.append(name)


def test_a_bucket_is_waited_for_as_well(time: Time) -> None:
    """A user whose images lie in a bucket that is away for a moment gets them all, once."""
    bucket = MoodyBucket()
    patient = PatientBucket(bucket, time.patience(90.0))
    bucket.errors = [AWAY, AWAY]
    assert list(patient.list("x/")) == [("x/b", 1), ("x/a", 1)]
    bucket.errors = [AWAY, AWAY]
    assert patient.size("four") == 4
    bucket.errors = [AWAY, AWAY]
    assert patient.read("four", offset=1, length=2) == Piece(b"ou", 4, "1")
    bucket.errors = [AWAY, AWAY]
    patient.put_file("new", Path("/nowhere"))
    assert bucket.written == ["new"]
    assert patient.url == bucket.url
