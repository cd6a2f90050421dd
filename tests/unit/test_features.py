from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from offshelf.datasets import Dataset, Item
from offshelf.errors import DataLoss, InvalidInput, NotFound, StoreUnavailable
from offshelf.features import (
    FeatureTable,
    ImageOutcome,
    SegmentRow,
    images_in,
    load_features,
    read_segment,
    read_table,
    segment_images,
    segment_inputs,
    segment_without,
    write_segment,
    write_table,
)
from offshelf.images import ImageStatus
from offshelf.store import keys
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from collections.abc import Sequence

FINGERPRINT = hashlib.sha256(b"an extractor").hexdigest()
MAX_PIXELS = 100


def image(name: int) -> str:
    """Digest of a made-up image."""
    return hashlib.sha256(str(name).encode()).hexdigest()


def good(name: int, *values: float) -> SegmentRow:
    """Row of an image with a vector."""
    return SegmentRow(image(name), ImageStatus.OK, "", np.array(values or (name, name + 0.5), dtype=np.float32))


def bad(name: int, status: ImageStatus = ImageStatus.UNREADABLE, reason: str = "half a picture") -> SegmentRow:
    """Row of an image that was put aside."""
    return SegmentRow(image(name), status, reason, None)


def write(store: MemoryStore, rows: Sequence[SegmentRow], **changes: Any) -> str:
    """Write a segment for exactly the images of its rows."""
    options: dict[str, Any] = {
        "max_pixels": MAX_PIXELS,
        "dimension": 2,
        "images": [row.image for row in rows],
        **changes,
    }
    return write_segment(store, FINGERPRINT, rows=rows, **options)


def dataset_of(*names: int) -> Dataset:
    """Make a dataset whose items hold these images, in this order."""
    return Dataset.of(Item(f"cats/{place:03d}.png", "cats", "", image(name)) for place, name in enumerate(names))


def table_of(dataset: Dataset, *segments: str) -> FeatureTable:
    """Make a table of segments."""
    return FeatureTable(dataset.digest, FINGERPRINT, 2, segments)


def test_segment_gives_back_its_rows() -> None:
    """What the extractor writes, vectors and reasons in any language, the trainer reads."""
    store = MemoryStore()
    rows = [good(3), bad(1, ImageStatus.HUNG, "länger als 30 s"), good(2, -1e-30, 3e38)]
    segment = read_segment(store, write(store, rows))
    assert (segment.fingerprint, segment.dimension, segment.max_pixels) == (FINGERPRINT, 2, MAX_PIXELS)
    assert [row.image for row in segment.rows] == sorted(row.image for row in rows)
    read = {row.image: row for row in segment.rows}
    for row in rows:
        assert (read[row.image].status, read[row.image].reason) == (row.status, row.reason)
        if row.vector is None:
            assert read[row.image].vector is None
        else:
            assert np.array_equal(read[row.image].vector, row.vector)  # type: ignore[arg-type]


@given(
    st.lists(st.one_of(st.none(), st.floats(width=32, allow_nan=False, allow_infinity=False)), min_size=1, max_size=9)
)
def test_any_mixture_of_rows_survives(values: list[float | None]) -> None:
    """Vectors stay with their images, wherever images without one lie between them."""
    store = MemoryStore()
    rows = [bad(name) if value is None else good(name, value) for name, value in enumerate(values)]
    read = {row.image: row.vector for row in read_segment(store, write(store, rows, dimension=1)).rows}
    for row in rows:
        vector = read[row.image]
        assert (None if vector is None else vector.tobytes()) == (None if row.vector is None else row.vector.tobytes())


def test_equal_content_gives_equal_bytes() -> None:
    """The same vectors in another order are the same segment."""
    first, second = MemoryStore(), MemoryStore()
    rows = [good(1), bad(2), good(3)]
    assert write(first, rows) == write(second, rows[::-1])
    assert first.objects == second.objects


def test_segment_is_named_by_what_was_asked_for() -> None:
    """A finished segment is found by its images, in any order, even if one of them could not be read."""
    store = MemoryStore()
    asked = [image(1), image(2), image(3)]
    key = write(store, [good(1), good(2)], images=asked)
    assert segment_inputs(FINGERPRINT, asked[::-1]) in key
    assert segment_inputs(FINGERPRINT, asked[:2]) not in key
    assert segment_inputs(image(9), asked) not in key


def test_another_machine_overwrites_nothing() -> None:
    """Vectors with other last bits make a segment of their own beside the first."""
    store = MemoryStore()
    first = write(store, [good(1, 1.0, 2.0)])
    second = write(store, [good(1, 1.0, float(np.nextafter(np.float32(2), np.float32(3))))])
    assert first != second
    assert set(store.objects) == {first, second}


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [good(1, float("nan"), 0)],
        [good(1, float("inf"), 0)],
        [good(1, 1, 2, 3)],
        [good(1), good(1)],
        [SegmentRow(image(1), ImageStatus.OK, "", None)],
        [SegmentRow(image(1), ImageStatus.HUNG, "", np.zeros(2, dtype=np.float32))],
    ],
)
def test_defects_are_not_written(rows: list[SegmentRow]) -> None:
    """A vector with NaN, of a wrong length or without its image never gets into the store."""
    store = MemoryStore()
    with pytest.raises(ValueError, match=r".+"):
        write(store, rows)
    assert not store.objects


def test_unasked_images_are_not_written() -> None:
    """A row for an image that nobody asked for is a defect."""
    with pytest.raises(ValueError, match="not asked for"):
        write(MemoryStore(), [good(1)], images=[image(2)])


def test_altered_segment_is_refused() -> None:
    """A segment in which a bit has changed, or that is gone, is a loss of data and not a wrong vector."""
    store = MemoryStore()
    key = write(store, [good(1)])
    original = store.objects[key]
    store.objects[key] = original[:-30] + bytes([original[-30] ^ 1]) + original[-29:]
    with pytest.raises(DataLoss, match="not what was written"):
        read_segment(store, key)
    store.delete(key)
    with pytest.raises(DataLoss, match="missing"):
        read_segment(store, key)
    with pytest.raises(DataLoss):
        read_segment(store, "features/other/thing.parquet")


def test_unparsable_segment_is_refused() -> None:
    """A file that is no segment is a loss of data, even if its name fits its content."""
    store = MemoryStore()
    for data in (b"PAR1 not really", b""):
        key = keys.segment(FINGERPRINT, image(1), hashlib.sha256(data).hexdigest())
        store.put(key, data)
        with pytest.raises(DataLoss, match="parsed"):
            read_segment(store, key)


def test_segment_of_another_extractor_is_refused() -> None:
    """A segment that was moved to another extractor's place is not taken for its."""
    store = MemoryStore()
    key = write(store, [good(1)])
    moved = key.replace(FINGERPRINT, image(5))
    store.put(moved, store.get(key))
    with pytest.raises(DataLoss, match="another"):
        read_segment(store, moved)


def test_too_large_counts_under_its_own_limit_alone() -> None:
    """When the limit on pixels is raised, images that were too large are extracted again, and no others."""
    store = MemoryStore()
    key = write(store, [good(1), bad(2), bad(3, ImageStatus.TOO_LARGE)])
    why = "half a picture"
    known = {image(1): ImageOutcome(ImageStatus.OK, ""), image(2): ImageOutcome(ImageStatus.UNREADABLE, why)}
    too_large = {image(3): ImageOutcome(ImageStatus.TOO_LARGE, why)}
    assert images_in(store, key, max_pixels=MAX_PIXELS) == known | too_large
    assert images_in(store, key, max_pixels=MAX_PIXELS + 1) == known


def test_table_is_read_by_its_digest() -> None:
    """A table's manifest is found by its digest and is equal to what was written."""
    store = MemoryStore()
    table = table_of(dataset_of(1), write(store, [good(1)]))
    assert read_table(store, FINGERPRINT, write_table(store, table)) == table


def test_altered_table_is_refused() -> None:
    """A manifest that is not there, or was changed, is not used."""
    store = MemoryStore()
    table = table_of(dataset_of(1))
    for digest in (table.digest, "../../etc/passwd"):
        with pytest.raises(NotFound):
            read_table(store, FINGERPRINT, digest)
    store.put(keys.table(FINGERPRINT, table.digest), table.to_json().replace(b'"dimension":2', b'"dimension":3'))
    with pytest.raises(DataLoss):
        read_table(store, FINGERPRINT, table.digest)
    for data in (b"{}", b"[1]", b"\xff", b'{"dataset":1'):
        digest = hashlib.sha256(data).hexdigest()
        store.put(keys.table(FINGERPRINT, digest), data)
        with pytest.raises(DataLoss):
            read_table(store, FINGERPRINT, digest)


def test_table_says_where_its_segments_went() -> None:
    """A table whose segments were written anew keeps its name and gives the same vectors, as often as that happens."""
    store = MemoryStore()
    dataset = dataset_of(1, 2, 3)
    first, second, third = (write(store, [good(name), good(other)]) for name, other in ((1, 7), (2, 8), (3, 9)))
    alone = write(store, [good(7, 1, 1)])
    table = table_of(dataset, alone, first, second, third)
    digest = write_table(store, table)
    expected = load_features(store, table, dataset).X.tolist()
    for gone in ({first: image(7), second: image(8)}, {third: image(9)}):
        moves = {alone: ""}
        for key, digest_of_image in gone.items():
            moves[key], data = segment_without(store, key, {digest_of_image})
            store.put(moves[key], data)
            store.delete(key)
        store.delete(alone)
        table = table.moved_to(moves)
        assert write_table(store, table) == digest
        table = read_table(store, FINGERPRINT, digest)
        assert table.segments == (alone, first, second, third)
        assert set(table.stored_segments) <= store.objects.keys()
        assert len(table.stored_segments) == 3
        assert load_features(store, table, dataset).X.tolist() == expected
    again = table.moved_to({table.stored_segments[0]: first, "of another table": "elsewhere"})
    assert again.stored_segments[0] == first
    assert first not in again.moved


@pytest.mark.parametrize("moved", [["segment"], {"not of the table": "x"}, {"a": 1}, "text"])
def test_table_with_impossible_moves_is_refused(moved: object) -> None:
    """What says nonsense about where segments went is damaged."""
    store = MemoryStore()
    table = table_of(dataset_of(1), "a")
    document = {**json.loads(table.to_json()), "moved": moved}
    store.put(keys.table(FINGERPRINT, table.digest), json.dumps(document).encode())
    with pytest.raises(DataLoss):
        read_table(store, FINGERPRINT, table.digest)


def test_segment_without_some_images_has_all_others() -> None:
    """Taking images out of a segment leaves every other row as it was, and a name that says nothing of them."""
    store = MemoryStore()
    rows = [good(1), bad(2, reason="größer"), good(3, -1e-30, 3e38), good(4)]
    key = write(store, rows, images=[image(name) for name in range(1, 6)])
    new, data = segment_without(store, key, {image(1), image(2), image(9)})
    assert set(store.objects) == {key}
    store.put(new, data)
    kept = {row.image: row for row in read_segment(store, key).rows}
    left = read_segment(store, new)
    assert [row.image for row in left.rows] == sorted([image(3), image(4)])
    for row in left.rows:
        assert row.vector is not None
        assert row.vector.tobytes() == kept[row.image].vector.tobytes()  # type: ignore[union-attr]
    assert left.max_pixels == MAX_PIXELS
    assert segment_inputs(FINGERPRINT, [image(3), image(4)]) in new
    with pytest.raises(ValueError, match="needs a row"):
        segment_without(store, new, {image(3), image(4)})


def test_images_of_a_segment_are_read_without_its_vectors() -> None:
    """Asking which images lie in a segment of megabytes costs kilobytes, also over a slow line."""

    class Counting(MemoryStore):
        read = 0

        def get(self, key: str, *, offset: int = 0, length: int | None = None) -> bytes:
            data = super().get(key, offset=offset, length=length)
            self.read += len(data)
            return data

    store = Counting()
    vectors = np.random.default_rng(0).normal(size=(300, 2000)).astype(np.float32)
    rows = [SegmentRow(image(name), ImageStatus.OK, "", vectors[name]) for name in range(300)]
    key = write(store, rows, dimension=2000)
    info = store.stat(key)
    assert info is not None
    assert segment_images(store, info) == {image(name) for name in range(300)}
    assert store.read < info.size / 10


def test_images_of_a_damaged_segment_are_not_guessed() -> None:
    """What cannot be parsed is damaged; that the store is away is something else, and both are said."""
    store = MemoryStore()
    key = write(store, [good(1)])
    info = store.stat(key)
    assert info is not None
    whole = store.objects[key]
    newer = io.BytesIO()
    pq.write_table(
        pq.read_table(io.BytesIO(whole)).replace_schema_metadata({"offshelf.segment": '{"version":9}'}), newer
    )
    for data in (b"", b"PAR1", whole[:-9], newer.getvalue()):
        store.objects[key] = data
        with pytest.raises(DataLoss):
            segment_images(store, replace(info, size=len(data)))

    class Away(MemoryStore):
        def get(self, key: str, **_range: int | None) -> bytes:
            raise StoreUnavailable(f"The store is away, and {key} with it.")

    with pytest.raises(StoreUnavailable):
        segment_images(Away(), info)


def test_features_are_in_the_order_of_the_dataset() -> None:
    """Rows of X follow the dataset's items; those without a vector are listed with their reason."""
    store = MemoryStore()
    dataset = dataset_of(5, 1, 2, 4, 3)
    table = table_of(dataset, write(store, [good(1), bad(2)]), write(store, [good(3), good(5)]))
    features = load_features(store, table, dataset)
    assert features.X.tolist() == [[5, 5.5], [1, 1.5], [3, 3.5]]
    assert features.X.dtype == np.float32
    assert features.X.flags.c_contiguous
    assert features.items == (0, 1, 4)
    assert [(skipped.item, skipped.status) for skipped in features.skipped] == [(2, "unreadable"), (3, "unreadable")]
    assert features.skipped[0].reason == "half a picture"
    assert "missing or had changed" in features.skipped[1].reason


def test_equal_images_share_a_vector() -> None:
    """Two items with the same bytes both get the vector that was made once."""
    store = MemoryStore()
    dataset = dataset_of(1, 2, 1)
    features = load_features(store, table_of(dataset, write(store, [good(1), bad(2)])), dataset)
    assert features.X.tolist() == [[1, 1.5], [1, 1.5]]
    assert features.items == (0, 2)


def test_first_listed_segment_counts() -> None:
    """Of two segments with the same image, the one listed first gives its vector."""
    store = MemoryStore()
    dataset = dataset_of(1, 2)
    ones, twos = write(store, [good(1, 1, 1)]), write(store, [good(1, 2, 2), good(2, 2, 2)])
    assert load_features(store, table_of(dataset, ones, twos), dataset).X.tolist() == [[1, 1], [2, 2]]
    assert load_features(store, table_of(dataset, twos, ones), dataset).X.tolist() == [[2, 2], [2, 2]]


def test_vector_counts_before_a_failure() -> None:
    """An image that was too large under an old limit and extracted under a new one is used."""
    store = MemoryStore()
    dataset = dataset_of(1, 2)
    old = write(store, [bad(1, ImageStatus.TOO_LARGE, "2 megapixels"), bad(2)])
    new = write(store, [good(1, 3, 3)], max_pixels=MAX_PIXELS * 9)
    features = load_features(store, table_of(dataset, old, new), dataset)
    assert features.X.tolist() == [[3, 3]]
    assert [(skipped.item, skipped.status) for skipped in features.skipped] == [(1, ImageStatus.UNREADABLE)]


def test_no_usable_image_gives_an_empty_matrix() -> None:
    """A dataset of which nothing could be used gives no rows, and says so for each item."""
    store = MemoryStore()
    dataset = dataset_of(1, 2)
    features = load_features(store, table_of(dataset, write(store, [bad(1), bad(2)])), dataset)
    assert features.X.shape == (0, 2)
    assert len(features.skipped) == 2


def test_table_of_another_dataset_is_refused() -> None:
    """Features are never paired with the labels of another dataset."""
    with pytest.raises(InvalidInput):
        load_features(MemoryStore(), table_of(dataset_of(1)), dataset_of(2))


def test_segment_of_another_dimension_is_refused() -> None:
    """A table that names a segment with vectors of another length is refused."""
    store = MemoryStore()
    dataset = dataset_of(1)
    with pytest.raises(DataLoss):
        load_features(store, table_of(dataset, write(store, [good(1, 1, 2, 3)], dimension=3)), dataset)


def test_import_is_light() -> None:
    """Importing the features' module loads neither pyarrow nor NumPy."""
    code = "import sys, offshelf.features; print(sorted({'pyarrow', 'numpy', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
