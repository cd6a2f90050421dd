"""Images without labels: for features alone, and for nothing else."""

from __future__ import annotations

import threading
import zipfile
from typing import TYPE_CHECKING

import pytest

from offshelf.datasets import Dataset, Item, check_classes, open_source, scan
from offshelf.datasets.bucket import BucketSource
from offshelf.errors import InvalidDataset, InvalidInput
from offshelf.services.orchestrator.holdings.draft import Draft
from tests.unit.test_datasets_bucket import MemoryBucket

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.datasets import ImageSource

NAMES = ("b.png", "a.JPG", "notes.txt", ".hidden.png")


def folder(root: Path, *names: str) -> ImageSource:
    """Make a folder of files and open it."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return open_source(f"folder:{root}", roots=None, labelled=False)


def archive(root: Path, *names: str) -> ImageSource:
    """Make a zip of files and open it."""
    with zipfile.ZipFile(root / "x.zip", "w") as file:
        for name in names:
            file.writestr(name, name)
    return open_source(f"zip:{root / 'x.zip'}", roots=None, labelled=False)


def bucket(_root: Path, *names: str) -> ImageSource:
    """Make a bucket of objects."""
    return BucketSource("s3://photos", MemoryBucket(*names), labelled=False)


@pytest.mark.parametrize("made", [folder, archive, bucket])
def test_loose_images_are_a_dataset_without_labels(tmp_path: Path, made: object) -> None:
    """A folder, zip or bucket of images without class folders can be extracted; what is no image is counted."""
    source = made(tmp_path, *NAMES)  # type: ignore[operator]
    assert [(entry.path, entry.label) for entry in source.entries()] == [("a.JPG", ""), ("b.png", "")]
    assert source.ignored == 1
    source.close()


@pytest.mark.parametrize("made", [folder, archive, bucket])
def test_class_folders_are_labels_all_the_same(tmp_path: Path, made: object) -> None:
    """Where there are class folders nothing changes: what lies beside them is passed over."""
    source = made(tmp_path, *NAMES, "cats/1.png")  # type: ignore[operator]
    assert [(entry.path, entry.label) for entry in source.entries()] == [("cats/1.png", "cats")]
    assert source.ignored == 3
    source.close()


@pytest.mark.parametrize("made", [folder, archive, bucket])
def test_nothing_but_other_files_is_refused(tmp_path: Path, made: object) -> None:
    """Whoever names the wrong folder is told so."""
    source = made(tmp_path, "notes.txt")  # type: ignore[operator]
    with pytest.raises(InvalidDataset, match="holds files but no class folders"):
        source.entries()
    source.close()


def test_a_table_of_paths_is_enough(tmp_path: Path) -> None:
    """A CSV needs no column of labels, and one that has it keeps it."""
    folder(tmp_path, "b.png", "a.png")
    (tmp_path / "x.csv").write_text("path\nb.png\na.png\n")
    source = open_source(f"csv:{tmp_path}/x.csv", roots=None, labelled=False)
    assert [(entry.path, entry.label) for entry in source.entries()] == [("a.png", ""), ("b.png", "")]
    with pytest.raises(InvalidDataset, match="must begin with the line 'path,label'"):
        open_source(f"csv:{tmp_path}/x.csv", roots=None).entries()


def test_images_without_labels_are_not_compared(tmp_path: Path) -> None:
    """The same images are refused where something is compared, with what to do."""
    dataset, unread = scan(folder(tmp_path, "b.png", "a.png"))
    assert (dataset.classes, len(dataset.items), unread) == ((), 2, [])
    assert Dataset.from_json(dataset.to_json()) == dataset
    with pytest.raises(InvalidDataset, match="have no labels, so nothing can be compared"):
        check_classes(dataset.items, 2)


def test_an_upload_has_labels_for_all_or_for_none() -> None:
    """A label that was forgotten is not taken for a class of its own."""

    def made(*labels: str) -> Dataset:
        draft = Draft()
        draft.begin("pets")
        draft.add(Item(f"{number}.png", label, "", "0" * 64) for number, label in enumerate(labels))
        return draft.finish(stop=threading.Event())

    assert made("", "").classes == ()
    with pytest.raises(InvalidInput, match="Some images have a label and some have none"):
        made("cat", "")
