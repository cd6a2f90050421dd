from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from offshelf.errors import DataLoss, StoreUnavailable
from offshelf.extraction.weights.mirror import KEPT_SECONDS, WeightsMirror
from tests.unit.test_datasets_bucket import MemoryBucket

if TYPE_CHECKING:
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
        assert WeightsMirror(bucket).read("w.npz") == bucket.objects["w.npz"]
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
        WeightsMirror(bucket).read("w.npz")
