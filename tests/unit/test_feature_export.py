"""Features in one Parquet file: for whoever wants nothing else."""

from __future__ import annotations

import json
import threading
import tracemalloc
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from offshelf import features
from offshelf.datasets import Dataset, Item
from offshelf.digests import digest_of
from offshelf.errors import Cancelled, DataLoss
from offshelf.features import FeatureTable, SegmentRow
from offshelf.images import ImageStatus
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

RUNNING = threading.Event()
FINGERPRINT = {"hog": digest_of("hog"), "lab:2,3,4": digest_of("lab")}
DIMENSION = {"hog": 3, "lab:2,3,4": 24}


def image(number: int) -> str:
    """Digest of a made-up image."""
    return digest_of(["image", number])


def vector(number: int, name: str) -> np.ndarray:
    """Make the vector of an image."""
    seed = [number, *name.encode()]
    return np.random.default_rng(seed).normal(size=DIMENSION[name]).astype(np.float32)


def items(count: int, *, groups: bool = False) -> Dataset:
    """Make a dataset whose order is not that of its digests, and whose last two images are equal."""
    return Dataset.of(
        Item(f"{number % 2}/{number:05}.png", ("cat", "dog")[number % 2], f"g{number}" if groups else "", image(kept))
        for number in range(count)
        for kept in [min(number, count - 2)]
    )


def table(
    store: MemoryStore, dataset: Dataset, name: str, *, bad: tuple[int, ...] = (), a_segment: int = 4
) -> FeatureTable:
    """Write segments of a dataset's images, in the order of their digests, and a table over them."""
    numbers = {image(number): number for number in range(len(dataset.items))}
    wanted = sorted({item.digest for item in dataset.items})
    segments = []
    for begin in range(0, len(wanted), a_segment):
        rows = [
            SegmentRow(digest, ImageStatus.UNREADABLE, "it is empty", None)
            if numbers[digest] in bad
            else SegmentRow(digest, ImageStatus.OK, "", vector(numbers[digest], name))
            for digest in wanted[begin : begin + a_segment]
        ]
        inputs = [row.image for row in rows]
        segments.append(
            features.write_segment(store, FINGERPRINT[name], inputs, rows, max_pixels=1000, dimension=DIMENSION[name])
        )
    made = FeatureTable(dataset.digest, FINGERPRINT[name], DIMENSION[name], tuple(segments))
    features.write_table(store, made)
    return made


def export(store: MemoryStore, dataset: Dataset, tables: dict[str, FeatureTable], path: Path) -> pq.ParquetFile:
    """Export and open what was written."""
    features.export_features(store, dataset, tables, path, stop=RUNNING)
    return pq.ParquetFile(path)


def test_a_file_has_a_row_an_image_in_the_dataset_s_order(tmp_path: Path) -> None:
    """Whoever reads it with pandas or polars finds path, label and digest, and each vector where it belongs."""
    store, dataset = MemoryStore(), items(11)
    tables = {"lab:2,3,4": table(store, dataset, "lab:2,3,4", bad=(2,)), "hog": table(store, dataset, "hog", bad=(5,))}
    found = export(store, dataset, tables, tmp_path / "features.parquet").read()
    assert found.column_names == ["path", "label", "image", "lab:2,3,4", "hog"]
    assert found["path"].to_pylist() == [item.path for item in dataset.items]
    assert found["label"].to_pylist() == list(dataset.labels)
    assert found["image"].to_pylist() == [item.digest for item in dataset.items]
    for name, bad in (("lab:2,3,4", 2), ("hog", 5)):
        assert found.schema.field(name).type == pa.list_(pa.float32(), DIMENSION[name])
        for item, numbers in zip(dataset.items, found[name].to_pylist(), strict=True):
            number = min(int(item.path[2:7]), 9)
            if number == bad:
                assert numbers is None
            else:
                assert np.array_equal(np.float32(numbers), vector(number, name))


def test_a_file_says_where_its_numbers_come_from(tmp_path: Path) -> None:
    """Years later it still names the dataset, each extractor's fingerprint and the version that made it."""
    store, dataset = MemoryStore(), items(4, groups=True)
    file = export(store, dataset, {"hog": table(store, dataset, "hog")}, tmp_path / "features.parquet")
    assert file.schema_arrow.names == ["path", "label", "group", "image", "hog"]
    assert file.read()["group"].to_pylist() == list(dataset.groups)
    assert json.loads(file.schema_arrow.metadata[b"offshelf.features"]) == {
        "dataset": dataset.digest,
        "extractors": {"hog": {"dimension": 3, "fingerprint": FINGERPRINT["hog"]}},
        "offshelf": version("offshelf"),
        "version": features.EXPORT_VERSION,
    }


def test_images_without_labels_have_no_column_of_them(tmp_path: Path) -> None:
    """Nobody takes an empty text for a class."""
    store = MemoryStore()
    dataset = Dataset.of(Item(f"{number}.png", "", "", image(number)) for number in range(4))
    file = export(store, dataset, {"hog": table(store, dataset, "hog")}, tmp_path / "features.parquet")
    assert file.schema_arrow.names == ["path", "image", "hog"]


def test_equal_tables_give_equal_bytes_and_equal_names(tmp_path: Path) -> None:
    """A file that is there need not be made again; other extractors, or another order, are another file."""
    store, dataset = MemoryStore(), items(9)
    hog, lab = table(store, dataset, "hog"), table(store, dataset, "lab:2,3,4")
    export(store, dataset, {"hog": hog, "lab:2,3,4": lab}, tmp_path / "one.parquet")
    export(store, dataset, {"hog": hog, "lab:2,3,4": lab}, tmp_path / "two.parquet")
    assert (tmp_path / "one.parquet").read_bytes() == (tmp_path / "two.parquet").read_bytes()
    names = {
        features.export_digest(tables, dataset)
        for tables in ({"hog": hog}, {"hog": hog, "lab:2,3,4": lab}, {"lab:2,3,4": lab, "hog": hog})
    }
    assert len(names) == 3


def test_memory_does_not_grow_with_the_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server of little memory writes a file of any size: it holds some segments and one row group at a time."""
    monkeypatch.setitem(DIMENSION, "hog", 4096)
    monkeypatch.setattr(features.export, "_GROUP_BYTES", 16 * 4 * 4096)

    def peak(count: int) -> int:
        store, dataset = MemoryStore(), items(count)
        tables = {"hog": table(store, dataset, "hog", a_segment=8)}
        tracemalloc.start()
        try:
            file = export(store, dataset, tables, tmp_path / f"{count}.parquet")
            assert file.num_row_groups == count // 16
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(64)  # what is imported and cached stays
    few, many = peak(64), peak(512)
    assert many < few + 1_000_000, "eight times the images, and 7 MB more of vectors"


def test_what_was_lost_in_the_store_is_said(tmp_path: Path) -> None:
    """A file with holes is never taken for a whole one."""
    store, dataset = MemoryStore(), items(9)
    tables = {"hog": table(store, dataset, "hog")}
    del store.objects[tables["hog"].segments[1]]
    with pytest.raises(DataLoss, match="is missing: run again"):
        export(store, dataset, tables, tmp_path / "features.parquet")


def test_a_table_of_another_extractor_is_refused(tmp_path: Path) -> None:
    """No column ever holds the vectors of another extractor than it says."""
    store, dataset = MemoryStore(), items(9)
    hog = table(store, dataset, "hog")
    wrong = FeatureTable(dataset.digest, FINGERPRINT["lab:2,3,4"], 3, hog.segments)
    with pytest.raises(DataLoss, match="of another extractor"):
        export(store, dataset, {"lab:2,3,4": wrong}, tmp_path / "features.parquet")


def test_an_export_can_be_stopped(tmp_path: Path) -> None:
    """Ctrl-C does not wait for gigabytes."""
    store, dataset = MemoryStore(), items(9)
    tables, stop = {"hog": table(store, dataset, "hog")}, threading.Event()
    stop.set()
    with pytest.raises(Cancelled):
        features.export_features(store, dataset, tables, tmp_path / "features.parquet", stop=stop)
