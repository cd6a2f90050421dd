from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zipfile
from typing import TYPE_CHECKING

import pytest

from offshelf.datasets import MAX_IMAGE_BYTES, ImageUnread, archive, open_source, scan, source_uri
from offshelf.errors import InvalidDataset

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.datasets import ImageSource

PAIR = {"cats/1.png": b"one", "dogs/1.png": b"two"}


def packed(files: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Make a zip; a name that ends in a slash is a folder."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as made:
        for name, data in files.items():
            made.writestr(name, data)
    return buffer.getvalue()


def opened(folder: Path, data: bytes) -> ImageSource:
    """Write a zip and open it as a user does."""
    path = folder / "pets.zip"
    path.write_bytes(data)
    return open_source(source_uri(str(path)), roots=None)


def opened_source(folder: Path, files: dict[str, bytes]) -> contextlib.closing[ImageSource]:
    """Open a zip for the length of a block."""
    return contextlib.closing(opened(folder, packed(files)))


def refusal(folder: Path, data: bytes) -> str:
    """Give the one line in which a zip is refused."""
    with pytest.raises(InvalidDataset) as caught:
        opened(folder, data).entries()
    message = caught.value.message
    assert "\n" not in message
    return message


def declare(data: bytes, name: str, size: int) -> bytes:
    """Let a zip's list of contents, and the entry's own header, declare another unpacked size."""
    changed = bytearray(data)
    entry = data.index(b"PK\1\2", data.index(name.encode(), data.index(b"PK\1\2")) - 46)
    (offset,) = struct.unpack_from("<I", data, entry + 42)
    struct.pack_into("<I", changed, entry + 24, size)
    struct.pack_into("<I", changed, offset + 22, size)
    return bytes(changed)


def test_archive_lists_images_of_each_class(tmp_path: Path) -> None:
    """A zip of class folders is a dataset like the folder it was made of."""
    with opened_source(tmp_path, PAIR | {"cats/ü/2.JPG": b"three"}) as source:
        assert [(entry.path, entry.label, entry.size) for entry in source.entries()] == [
            ("cats/1.png", "cats", 3),
            ("cats/ü/2.JPG", "cats", 5),
            ("dogs/1.png", "dogs", 3),
        ]
        assert source.read("cats/ü/2.JPG") == b"three"


def test_single_top_folder_is_looked_through(tmp_path: Path) -> None:
    """A zip of the folder itself is the same dataset as a zip of what is in it, and as the folder."""
    inside = {"pets/": b"", "pets/cats/": b"", **{f"pets/{name}": data for name, data in PAIR.items()}}
    with opened_source(tmp_path, inside | {"__MACOSX/pets/cats/._1.png": b"x", "pets/readme.txt": b"x"}) as source:
        assert [entry.path for entry in source.entries()] == ["cats/1.png", "dogs/1.png"]
        assert source.ignored == 1
        looked_through, _ = scan(source)
    with opened_source(tmp_path, PAIR) as source:
        assert scan(source)[0].digest == looked_through.digest
    for name, data in PAIR.items():
        (tmp_path / "pets" / name).parent.mkdir(parents=True)
        (tmp_path / "pets" / name).write_bytes(data)
    assert scan(open_source(f"folder:{tmp_path}/pets", roots=None))[0].digest == looked_through.digest


def test_one_class_is_not_looked_through(tmp_path: Path) -> None:
    """A zip with the folder of one class stays a dataset of one class."""
    with opened_source(tmp_path, {"cats/1.png": b"1", "cats/old/2.png": b"2"}) as source:
        assert {entry.label for entry in source.entries()} == {"cats"}


def test_names_as_written_on_windows_are_read(tmp_path: Path) -> None:
    """A zip whose names have backslashes gives the same paths."""
    with opened_source(tmp_path, {"cats\\1.png": b"one", "dogs\\1.png": b"two"}) as source:
        assert source.entries()[0].path == "cats/1.png"
        assert source.read("cats/1.png") == b"one"


@pytest.mark.parametrize(
    "name", ["../x.png", "cats/../../x.png", "/etc/x.png", "..\\x.png", "C:\\x.png", "cats/../x.txt", "\\\\host\\x.png"]
)
def test_entry_that_leaves_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    """A zip with a path out of it is refused, and the path is named."""
    assert "leaves the dataset" in refusal(tmp_path, packed(PAIR | {name: b"x"}))


def test_link_in_an_archive_is_refused(tmp_path: Path) -> None:
    """A zip with a link in it is refused by name."""
    buffer = io.BytesIO(packed(PAIR))
    link = zipfile.ZipInfo("cats/link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(buffer, "a") as made:
        made.writestr(link, "/etc/passwd")
    assert "'cats/link.png' in pets.zip is a link" in refusal(tmp_path, buffer.getvalue())


def test_entry_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """A zip with two files of one name is refused: which of them was labelled?"""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        buffer = io.BytesIO(packed(PAIR))
        with zipfile.ZipFile(buffer, "a") as made:
            made.writestr("cats/1.png", b"other")
    assert "twice" in refusal(tmp_path, buffer.getvalue())
    assert "twice" in refusal(tmp_path, packed(PAIR | {"./cats//1.png": b"other"}))


def test_encrypted_archive_is_refused(tmp_path: Path) -> None:
    """A zip with a password is refused with what to do."""
    data = bytearray(packed(PAIR))
    data[data.index(b"PK\1\2") + 8] |= 1
    assert "password" in refusal(tmp_path, bytes(data))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unbounded_compression_is_refused(tmp_path: Path, method: int) -> None:
    """A zip compressed in a way that cannot be unpacked piece by piece is refused."""
    assert "deflate" in refusal(tmp_path, packed(PAIR, method))


@pytest.mark.parametrize("data", [b"", b"no zip at all", packed(PAIR)[:-30], packed(PAIR)[:60]])
def test_broken_archive_is_refused(tmp_path: Path, data: bytes) -> None:
    """A file that is no zip, or half of one, is refused."""
    assert "not a zip file, or is damaged" in refusal(tmp_path, data)


def test_archive_without_classes_is_refused(tmp_path: Path) -> None:
    """A zip that is empty, has loose images or empty class folders is refused with what is expected."""
    assert "is empty" in refusal(tmp_path, packed({}))
    assert "one folder a class" in refusal(tmp_path, packed({"1.png": b"1"}))
    assert "no images" in refusal(tmp_path, packed({"cats/1.txt": b"1", "dogs/": b""}))
    assert "'birds'" in refusal(tmp_path, packed(PAIR | {"birds/": b""}))


def test_image_that_declares_too_much_is_refused(tmp_path: Path) -> None:
    """A bomb that declares its size is refused before a byte of it is unpacked."""
    bomb = declare(packed(PAIR), "cats/1.png", MAX_IMAGE_BYTES + 1)
    assert "'cats/1.png' in pets.zip declares" in refusal(tmp_path, bomb)


def test_archive_that_declares_too_much_is_refused(tmp_path: Path) -> None:
    """Many files that together unpack to far more than the zip weighs are refused."""
    data = packed({f"{label}/{n}.png": b"x" for label in ("cats", "dogs") for n in range(3)})
    for label in ("cats", "dogs"):
        for n in range(3):
            data = declare(data, f"{label}/{n}.png", MAX_IMAGE_BYTES)
    assert "to 1" in refusal(tmp_path, data)


def test_total_size_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip of more images than we can read in reasonable time is refused."""
    monkeypatch.setattr(archive, "MAX_TOTAL_BYTES", 5)
    assert "more than the 5 allowed" in refusal(tmp_path, packed(PAIR))


def test_number_of_entries_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip with too many entries is refused."""
    monkeypatch.setattr(archive, "MAX_ENTRIES", 1)
    assert "2 entries" in refusal(tmp_path, packed(PAIR))


def test_list_of_contents_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A zip whose list of contents alone would fill the memory is refused before it is read."""
    monkeypatch.setattr(archive, "MAX_DIRECTORY_BYTES", 50)
    assert "list of contents" in refusal(tmp_path, packed(PAIR))


def test_lying_size_is_found_while_reading(tmp_path: Path) -> None:
    """A bomb that declares ten bytes is stopped at the eleventh, and the archive is refused."""
    bomb = declare(packed(PAIR | {"dogs/2.png": b"\0" * 50_000_000}), "dogs/2.png", 10)
    source = opened(tmp_path, bomb)
    assert len(source.entries()) == 3
    with pytest.raises(InvalidDataset, match="holds more than it declares: make the archive again"):
        source.read("dogs/2.png")
    with pytest.raises(InvalidDataset, match="holds more than it declares: make the archive again"):
        scan(source)
    source.close()


def test_reading_stops_at_the_limit(tmp_path: Path) -> None:
    """No more than the limit of one image is ever unpacked."""
    with opened_source(tmp_path, PAIR | {"dogs/2.png": b"\0" * 5_000_000}) as source:
        with pytest.raises(ImageUnread, match="limit of 1000 bytes"):
            source.read("dogs/2.png", 1000)
        assert len(source.read("dogs/2.png", 5_000_000)) == 5_000_000


def test_damaged_image_is_reported_and_the_rest_read(tmp_path: Path) -> None:
    """One damaged entry is an image that cannot be read; the others are."""
    data = packed(PAIR, zipfile.ZIP_STORED).replace(b"one", b"0ne", 1)
    source = opened(tmp_path, data)
    dataset, unread = scan(source)
    assert [item.path for item in dataset.items] == ["dogs/1.png"]
    assert [(image.path, image.reason) for image in unread] == [("cats/1.png", "is damaged in the archive")]
    with pytest.raises(ImageUnread):
        source.read("cats/none.png")
    source.close()


def test_archive_without_its_beginning_loses_one_image(tmp_path: Path) -> None:
    """Of a zip whose first bytes are lost, the images behind them are still read."""
    with contextlib.closing(opened(tmp_path, packed(PAIR)[4:])) as source:
        assert [image.path for image in scan(source)[1]] == ["cats/1.png"]


def test_shorter_image_than_declared_is_damaged(tmp_path: Path) -> None:
    """An image that ends before its declared size is not taken for whole."""
    source = opened(tmp_path, declare(packed(PAIR), "cats/1.png", 100))
    with pytest.raises(ImageUnread, match="damaged"):
        source.read("cats/1.png")
    source.close()
