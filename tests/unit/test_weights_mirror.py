from __future__ import annotations

import hashlib
import time
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import DataLoss, PermissionDenied, StoreDenied, StoreUnavailable
from offshelf.extraction.spec import WeightsFile
from offshelf.extraction.weights.checking import LEDGER, read_ledger
from offshelf.extraction.weights.mirror import KEPT_SECONDS, WeightsMirror
from tests.unit.test_datasets_bucket import MemoryBucket

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.errors import OffshelfError
    from offshelf.store.bucket import Piece


class CountingBucket(MemoryBucket):
    """Counts how often it is asked for a size."""

    def __init__(self, *names: str) -> None:
        super().__init__(*names)
        self.asked = 0

    def size(self, name: str) -> int | None:
        """Look an object up."""
        self.asked += 1
        if name in self.errors:
            raise self.errors[name]
        return super().size(name)


def test_a_mirror_is_not_asked_again_and_again() -> None:
    """A user's list of extractors costs one question a file, and a file that is put there is seen within a minute."""
    bucket, now = CountingBucket("there.npz"), [1000.0]
    mirror = WeightsMirror(bucket, clock=lambda: now[0])
    for _ in range(3):
        assert mirror.has("there.npz")
        assert not mirror.has("missing.npz")
    assert bucket.asked == 2
    assert bucket.reads == 0
    bucket.objects["missing.npz"] = b"x"
    now[0] += KEPT_SECONDS + 1
    assert mirror.has("missing.npz")
    assert mirror.url == bucket.url


def test_a_mirror_that_is_away_is_no_missing_file() -> None:
    """A user whose mirror is away for a moment is not told that weights are missing, and it is asked again."""
    bucket = CountingBucket("there.npz")
    bucket.errors["there.npz"] = StoreUnavailable("away")
    mirror = WeightsMirror(bucket)
    with pytest.raises(StoreUnavailable):
        mirror.has("there.npz")
    bucket.errors.clear()
    assert mirror.has("there.npz")


def test_large_weights_are_read_in_pieces() -> None:
    """A user's weights arrive whole, however large they are."""
    bucket = MemoryBucket()
    for size in (0, 5, 8 << 20, (20 << 20) + 3):
        bucket.objects["w.npz"] = bytes(range(251)) * (size // 251) + b"e" * (size % 251)
        file = WeightsFile("w.npz", f"sha256:{hashlib.sha256(bucket.objects['w.npz']).hexdigest()}")
        assert WeightsMirror(bucket).read(file) == bucket.objects["w.npz"]
    assert bucket.reads == 1 + 1 + 1 + 3


def test_weights_that_are_replaced_meanwhile_are_not_mixed() -> None:
    """A user never gets the beginning of one file and the end of another."""

    class Replaced(MemoryBucket):
        def read(self, name: str, *, offset: int = 0, length: int) -> Piece:
            piece = super().read(name, offset=offset, length=length)
            self.objects[name] = b"y" * (20 << 20)
            return piece

    bucket = Replaced()
    bucket.objects["w.npz"] = b"x" * (20 << 20)
    with pytest.raises(DataLoss, match="was replaced while it was read"):
        WeightsMirror(bucket).read(WeightsFile("w.npz", "size:1"))


def test_the_first_file_of_a_weak_digest_holds_in_a_bucket_too(tmp_path: Path) -> None:
    """Where authors publish a size alone, a user gets the file that was pulled or verified first, and no other one."""
    bucket, now = MemoryBucket(), [1000.0]
    file = WeightsFile("theirs", "size:3")
    (tmp_path / "theirs").write_bytes(b"one")
    mirror = WeightsMirror(bucket, clock=lambda: now[0])
    mirror.put(file, tmp_path / "theirs")
    assert read_ledger(bucket.objects[LEDGER])["theirs"].sha256 == hashlib.sha256(b"one").hexdigest()
    assert WeightsMirror(bucket).read(file) == b"one"
    (tmp_path / "theirs").write_bytes(b"two")
    with pytest.raises(DataLoss, match=r"theirs is not the file it should be \(SHA-256"):
        WeightsMirror(bucket).put(file, tmp_path / "theirs")
    bucket.objects["theirs"] = b"two"
    for use in (mirror.read, mirror.check, mirror.vouch, WeightsMirror(bucket).read):
        with pytest.raises(DataLoss, match=r"theirs is not the file it should be \(SHA-256"):
            use(file)
    # What another process recorded meanwhile is seen within a minute.
    del bucket.objects[LEDGER]
    now[0] += KEPT_SECONDS + 1
    assert mirror.read(file) == b"two"


def test_a_record_in_a_bucket_is_not_asked_for_again_and_again() -> None:
    """A run that reads many files of a bucket reads its record once, and none for those that have a SHA-256."""
    bucket = MemoryBucket("a", "b", "c")
    mirror = WeightsMirror(bucket, clock=lambda: 1000.0)
    strong = WeightsFile("c", f"sha256:{hashlib.sha256(b'c').hexdigest()}")
    assert mirror.vouch(strong).size == 1
    assert (bucket.reads, LEDGER in bucket.objects) == (1, False)
    for name in ("a", "b"):
        assert mirror.read(WeightsFile(name, "size:1")) == name.encode()
    assert bucket.reads == 1 + 2 + 1
    for name in ("a", "b"):
        mirror.vouch(WeightsFile(name, "size:1"))
    assert read_ledger(bucket.objects[LEDGER]).keys() == {"a", "b"}
    # The first that was recorded holds, whatever comes at the same time.
    bucket.objects["a"] = b"x"
    entry = read_ledger(bucket.objects[LEDGER])["a"]
    late = WeightsMirror(bucket)
    late._ledger = time.monotonic(), {}
    late.vouch(WeightsFile("a", "size:1"))
    assert read_ledger(bucket.objects[LEDGER])["a"] == entry


@pytest.mark.parametrize("error", [StoreDenied("no writing"), StoreUnavailable("away")])
def test_a_bucket_that_may_not_be_written_to_has_no_record(error: OffshelfError) -> None:
    """Services that may only read get their weights as before, also where a missing record counts as refused."""

    class ReadOnly(MemoryBucket):
        def put_file(self, name: str, path: Path) -> None:
            del name, path
            raise error

    bucket = ReadOnly("theirs")
    bucket.errors[LEDGER] = PermissionDenied("it may not be read")
    file = WeightsFile("theirs", "size:6")
    assert WeightsMirror(bucket).vouch(file).size == 6
    assert WeightsMirror(bucket).read(file) == b"theirs"
    assert LEDGER not in bucket.objects
