from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

import offshelf.datasets
from offshelf.datasets import (
    Dataset,
    Entry,
    ImageUnread,
    Item,
    check_classes,
    display_name,
    open_source,
    read_dataset,
    source_uri,
    write_dataset,
)
from offshelf.errors import DataLoss, InvalidDataset, InvalidInput, NotFound, PermissionDenied
from offshelf.store import keys
from tests.unit.fakes import MemoryStore

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.datasets import ImageSource

DIGEST = "ab" * 32


def make(root: Path, *names: str) -> Path:
    """Make files that hold their own names."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def opened(path: Path) -> ImageSource:
    """Open a dataset as a user does."""
    return open_source(source_uri(str(path)), roots=None)


def refusal(path: Path) -> str:
    """Give the one line in which a dataset is refused."""
    with pytest.raises(InvalidDataset) as caught:
        opened(path).entries()
    assert "\n" not in caught.value.message
    return caught.value.message


def entries(**counts: int) -> list[Entry]:
    """Make that many entries of each class."""
    return [Entry(f"{label}/{n}.png", label, "", 0) for label, count in counts.items() for n in range(count)]


def item(path: str, label: str = "cats", group: str = "") -> Item:
    """Make an item."""
    return Item(path, label, group, DIGEST)


def test_folder_lists_images_of_each_class(tmp_path: Path) -> None:
    """Images below class folders are found at any depth, in any spelling of their suffix, sorted by path."""
    make(tmp_path, "dogs/2.JPG", "dogs/old/deep/1.Tiff", "cats/ü 1.png", "cats/3.webp")
    source = opened(tmp_path)
    assert [(entry.path, entry.label) for entry in source.entries()] == [
        ("cats/3.webp", "cats"),
        ("cats/ü 1.png", "cats"),
        ("dogs/2.JPG", "dogs"),
        ("dogs/old/deep/1.Tiff", "dogs"),
    ]
    assert source.entries()[0].size == len(b"cats/3.webp")
    assert source.read("cats/ü 1.png") == "cats/ü 1.png".encode()
    assert source.ignored == 0


def test_other_files_are_passed_over_and_counted(tmp_path: Path) -> None:
    """What is no image in a class folder does not get in the way, and the user can see how much there is."""
    make(tmp_path, "cats/1.png", "dogs/1.png", "readme.txt", "stray.png", ".hidden/1.png")
    make(tmp_path, "cats/Thumbs.db", "cats/.DS_Store", "cats/._1.png", "dogs/notes.txt", "dogs/jpg")
    source = opened(tmp_path)
    assert [entry.path for entry in source.entries()] == ["cats/1.png", "dogs/1.png"]
    assert source.ignored == 5  # hidden files are nobody's images and do not count


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    """A path that does not exist is named."""
    with pytest.raises(InvalidDataset, match="nowhere"):
        source_uri(str(tmp_path / "nowhere"))
    with pytest.raises(InvalidDataset, match="does not exist"):
        open_source(f"folder:{tmp_path}/nowhere", roots=None).entries()


def test_empty_folder_is_refused(tmp_path: Path) -> None:
    """An empty folder is refused with what is expected."""
    message = refusal(tmp_path)
    assert "is empty" in message
    assert "cats/1.jpg" in message


def test_folder_without_class_folders_is_refused(tmp_path: Path) -> None:
    """A folder of loose images is refused with what is expected."""
    assert "one sub-folder a class" in refusal(make(tmp_path, "1.png", "2.png"))


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    """Class folders without any image are refused, and so is a single one among others, by its name."""
    assert "no images" in refusal(make(tmp_path, "cats/1.txt", "dogs/1.doc"))
    assert "'dogs'" in refusal(make(tmp_path, "cats/1.png"))


def test_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A link to a file elsewhere is refused by name, when listing and when reading."""
    make(tmp_path, "data/cats/1.png", "data/dogs/1.png", "secret.png")
    link = tmp_path / "data/cats/link.png"
    link.symlink_to(tmp_path / "secret.png")
    assert "cats/link.png" in refusal(tmp_path / "data")
    with pytest.raises(InvalidDataset, match="leads out"):
        open_source(f"folder:{tmp_path}/data", roots=None).read("cats/link.png")


def test_link_to_a_neighbour_with_the_same_beginning_is_refused(tmp_path: Path) -> None:
    """The folder data-private is not taken for a part of the folder data."""
    make(tmp_path, "data/cats/1.png", "data/dogs/1.png", "data-private/1.png")
    (tmp_path / "data/cats/link.png").symlink_to("../../data-private/1.png")
    assert "leads out" in refusal(tmp_path / "data")


def test_linked_folders_are_refused(tmp_path: Path) -> None:
    """A link to a folder, out of the dataset or back into it, is refused and never followed round in a circle."""
    make(tmp_path, "data/cats/1.png", "data/dogs/1.png", "other/1.png")
    (tmp_path / "data/cats/loop").symlink_to("..")
    assert "link to a folder" in refusal(make(tmp_path, "data/cats/1.png") / "data")
    (tmp_path / "data/cats/loop").unlink()
    (tmp_path / "data/birds").symlink_to(tmp_path / "other")
    assert "leads out" in refusal(tmp_path / "data")


def test_link_inside_the_folder_is_followed(tmp_path: Path) -> None:
    """A link from one image to another of the same dataset is an image."""
    make(tmp_path, "cats/1.png", "dogs/1.png")
    (tmp_path / "cats/2.png").symlink_to("1.png")
    source = opened(tmp_path)
    assert [entry.path for entry in source.entries()] == ["cats/1.png", "cats/2.png", "dogs/1.png"]
    assert source.read("cats/2.png") == b"cats/1.png"


def test_link_to_itself_is_reported_as_an_image_that_cannot_be_read(tmp_path: Path) -> None:
    """Links in a circle cost their own image, not the whole dataset."""
    make(tmp_path, "cats/1.png")
    (tmp_path / "cats/2.png").symlink_to("2.png")
    source = open_source(f"folder:{tmp_path}", roots=None)
    assert [entry.path for entry in source.entries()] == ["cats/1.png", "cats/2.png"]
    with pytest.raises(ImageUnread, match="leads nowhere"):
        source.read("cats/2.png")


def test_path_that_leaves_the_folder_is_not_read(tmp_path: Path) -> None:
    """Nobody reads another file by a path with dots, or by an absolute one."""
    make(tmp_path, "data/cats/1.png", "secret.png")
    source = open_source(f"folder:{tmp_path}/data", roots=None)
    for path in ("../secret.png", "cats/../../secret.png", str(tmp_path / "secret.png"), "", "cats/\0"):
        with pytest.raises(InvalidDataset):
            source.read(path)


def test_folder_exchanged_for_a_link_is_not_followed(tmp_path: Path) -> None:
    """A class folder that becomes a link between listing and reading leads nowhere."""
    make(tmp_path, "data/cats/1.png", "data/dogs/1.png", "elsewhere/1.png")
    source = opened(tmp_path / "data")
    source.entries()
    (tmp_path / "data/cats").rename(tmp_path / "gone")
    (tmp_path / "data/cats").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InvalidDataset, match="leads out"):
        source.read("cats/1.png")


def test_image_over_the_limit_is_not_read(tmp_path: Path) -> None:
    """A file longer than the limit is not held in memory."""
    source = opened(make(tmp_path, "cats/1.png", "dogs/1.png"))
    assert source.read("cats/1.png", 10) == b"cats/1.png"
    with pytest.raises(NotFound, match="limit of 9 bytes"):
        source.read("cats/1.png", 9)


def test_pipe_named_like_an_image_blocks_nobody(tmp_path: Path) -> None:
    """A named pipe is no image, and reading one does not wait for ever."""
    make(tmp_path, "cats/1.png", "dogs/1.png")
    os.mkfifo(tmp_path / "cats/2.png")
    source = opened(tmp_path)
    assert len(source.entries()) == 2
    with pytest.raises(NotFound, match="regular file"):
        source.read("cats/2.png")


def test_file_name_that_is_not_text_is_refused(tmp_path: Path) -> None:
    """A file name in bytes that are not UTF-8, or with a line break, is refused in one readable line."""
    make(tmp_path, "cats/1.png", "dogs/1.png")
    for name in (b"\xff.png", b"two\nlines.png"):
        path = os.path.join(os.fsencode(tmp_path), b"cats", name)  # noqa: PTH118 - bytes
        with open(path, "wb"):  # noqa: PTH123 - bytes
            pass
        assert "rename" in refusal(tmp_path)
        os.unlink(path)  # noqa: PTH108 - bytes
    os.mkdir(os.path.join(os.fsencode(tmp_path), b"\xfe"))  # noqa: PTH102, PTH118 - bytes
    assert "rename" in refusal(tmp_path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folder_without_permission_is_refused(tmp_path: Path) -> None:
    """A class folder that may not be listed is named."""
    make(tmp_path, "cats/1.png", "dogs/1.png")
    (tmp_path / "cats").chmod(0)
    try:
        assert "permission" in refusal(tmp_path)
    finally:
        (tmp_path / "cats").chmod(stat.S_IRWXU)


def test_kind_of_a_dataset_is_found(tmp_path: Path) -> None:
    """A folder, a zip and a CSV are told apart; anything else is refused."""
    make(tmp_path, "pets/cats/1.png", "a.ZIP", "b.csv", "c.tar")
    assert source_uri(str(tmp_path / "pets")) == f"folder:{tmp_path}/pets"
    assert source_uri(f"{tmp_path}/x/../a.ZIP") == f"zip:{tmp_path}/a.ZIP"
    assert source_uri(str(tmp_path / "b.csv")) == f"csv:{tmp_path}/b.csv"
    assert source_uri(f"dataset:{'ab' * 32}", roots=()) == f"store:{'ab' * 32}"
    for path in (str(tmp_path / "c.tar"), "", "a\0b", "a\nb", "\udcff", "dataset:", "dataset:pets"):
        with pytest.raises(InvalidDataset):
            source_uri(path)


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("folder:/data/my.pets/", "my.pets"),
        ("zip:/data/pets.zip", "pets"),
        ("csv:/pets.csv", "pets"),
        (f"store:{'ab' * 32}", "images"),
        ("s3://photos/my.pets", "my.pets"),
        ("s3://photos", "photos"),
    ],
)
def test_dataset_has_a_name_for_titles(uri: str, name: str) -> None:
    """A report's title names the dataset as its user would."""
    assert display_name(uri) == name


def test_only_data_roots_are_read(tmp_path: Path) -> None:
    """A server reads nothing outside its data folders, also through a link, and does not say what exists there."""
    make(tmp_path, "allowed/pets/cats/1.png", "allowed/pets/dogs/1.png", "allowed-not/cats/1.png", "secret/cats/1.png")
    (tmp_path / "allowed/link").symlink_to(tmp_path / "secret")
    (tmp_path / "alias").symlink_to(tmp_path / "allowed")
    roots = (tmp_path / "alias", tmp_path / "none")
    assert len(open_source(source_uri(f"{tmp_path}/allowed/pets", roots=roots), roots=roots).entries()) == 2
    for path in ("secret", "nothing", "allowed/link", "allowed/../secret", "allowed-not", "."):
        with pytest.raises(PermissionDenied, match="OFFSHELF_DATA_ROOTS"):
            source_uri(f"{tmp_path}/{path}", roots=roots)
        with pytest.raises(PermissionDenied):
            open_source(f"folder:{tmp_path}/{path}", roots=roots)
    with pytest.raises(PermissionDenied):
        open_source(f"folder:{tmp_path}/allowed/pets", roots=())


@pytest.mark.parametrize(
    "uri", ["", "folder", "folder:", "folder:relative", "http://x/y", "s3:/x", "csv:/a\nb", "store:x", "store:"]
)
def test_other_uris_are_refused(uri: str) -> None:
    """A source in a form that is not known is refused with the forms that are."""
    with pytest.raises(InvalidInput):
        open_source(uri, roots=None)


def test_enough_images_pass() -> None:
    """A dataset with as many images of each class as folds is accepted."""
    check_classes(entries(cats=5, dogs=7), 5)


def test_one_class_is_refused() -> None:
    """A dataset of one class is refused by its name; so is one without images, or one fold."""
    with pytest.raises(InvalidDataset, match="one class, 'cats'"):
        check_classes(entries(cats=20), 10)
    with pytest.raises(InvalidDataset, match="no images"):
        check_classes([], 10)
    with pytest.raises(InvalidInput, match="--folds 1"):
        check_classes(entries(cats=20, dogs=20), 1)


def test_class_smaller_than_the_folds_is_refused() -> None:
    """The smallest class is named with its number of images and the folds that would fit."""
    with pytest.raises(InvalidDataset) as caught:
        check_classes(entries(cats=20, dogs=4, birds=3), 10)
    assert caught.value.message == (
        "The class 'birds' has 3 images, fewer than the 10 folds (1 more class has too few): "
        "use --folds 3, or add images."
    )
    with pytest.raises(InvalidDataset, match=r"'dogs' has 1 image, .*add images \(2 at least\)"):
        check_classes(entries(cats=20, dogs=1), 10)


def test_class_with_fewer_groups_than_folds_is_refused() -> None:
    """Where images are grouped, each class needs as many groups as folds."""
    grouped = [Entry(f"{label}{n}", label, f"p{n % 4}", 0) for label in ("cats", "dogs") for n in range(20)]
    check_classes(grouped, 4)
    with pytest.raises(InvalidDataset, match=r"4 groups, fewer than the 5 folds.*--folds 4"):
        check_classes(grouped, 5)


def test_dataset_is_named_by_its_content() -> None:
    """Order does not matter to a dataset's digest; a label, a group, a path or an image does."""
    one = Dataset.of([item("a"), item("b", "dogs")])
    assert Dataset.of([item("b", "dogs"), item("a")]).digest == one.digest
    others = [
        [item("a"), item("b")],
        [item("a"), item("b", "dogs", "p1")],
        [item("a"), item("c", "dogs")],
        [item("a"), Item("b", "dogs", "", "cd" * 32)],
        [item("a")],
    ]
    assert len({Dataset.of(items).digest for items in others} | {one.digest}) == 6


def test_dataset_knows_classes_and_targets() -> None:
    """Classes are sorted, and each item has its label, its class' number and its group."""
    dataset = Dataset.of([item("a", "dogs", "p1"), item("b", "Äpfel", "p2"), item("c", "dogs", "p1")])
    assert dataset.classes == ("dogs", "Äpfel")
    assert dataset.labels == ("dogs", "Äpfel", "dogs")
    assert dataset.targets == (0, 1, 0)
    assert dataset.groups == ("p1", "p2", "p1")
    assert Dataset.of([item("a")]).groups == ()


def test_impossible_datasets_are_not_made() -> None:
    """A path that is there twice, or a digest that is none, is a defect."""
    for items in ([item("a"), item("a")], [Item("a", "b", "", "../x")]):
        with pytest.raises(ValueError, match=r".+"):
            Dataset.of(items)


def test_dataset_is_kept_in_the_store() -> None:
    """A dataset's manifest is read back by its digest."""
    store = MemoryStore()
    dataset = Dataset.of([item("b", "dogs"), item("ä/\\'\"")])
    assert read_dataset(store, write_dataset(store, dataset)) == dataset


def test_altered_manifest_is_refused() -> None:
    """A manifest that is missing, changed or no manifest is not used."""
    store = MemoryStore()
    for digest in (DIGEST, "../x"):
        with pytest.raises(NotFound):
            read_dataset(store, digest)
    store.put(keys.dataset(DIGEST), Dataset.of([item("a")]).to_json())
    with pytest.raises(DataLoss):
        read_dataset(store, DIGEST)
    rows = [b"{}", b"[]", b"\xff", b'{"version":2,"items":[]}', b'{"version":1,"items":[["a","b","",1]]}']
    for data in [*rows, b'{"version":1,"items":[["a"]]}', b'{"version":1,"items":[["a","b","","c"]]}']:
        with pytest.raises(DataLoss):
            Dataset.from_json(data)


def test_public_names_exist() -> None:
    """Every public name of the package can be imported."""
    assert all(hasattr(offshelf.datasets, name) for name in offshelf.datasets.__all__)
