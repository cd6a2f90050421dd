from __future__ import annotations

import codecs
from typing import TYPE_CHECKING

import pytest

from offshelf.datasets import open_source, source_uri
from offshelf.errors import InvalidDataset

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.datasets import ImageSource


def table(folder: Path, text: str | bytes, *names: str) -> ImageSource:
    """Write a CSV, and images beside it that hold their own names."""
    for name in names or ("a/1.png", "a/2.png", "b.png"):
        path = folder / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    path = folder / "data/x.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return open_source(source_uri(str(path)), roots=None)


def refusal(folder: Path, text: str | bytes) -> str:
    """Give the one line in which a CSV is refused."""
    with pytest.raises(InvalidDataset) as caught:
        table(folder, text).entries()
    message = caught.value.message
    assert "\n" not in message
    assert "x.csv" in message
    return message


def test_table_names_images(tmp_path: Path) -> None:
    """A CSV gives each image its label, with paths relative to the CSV, in order of the paths."""
    source = table(tmp_path, 'path,label\nb.png,"cat, grey"\n\na/1.png, Hündin \n')
    assert [(entry.path, entry.label, entry.group, entry.size) for entry in source.entries()] == [
        ("a/1.png", "Hündin", "", 7),
        ("b.png", "cat, grey", "", 5),
    ]
    assert source.read("a/1.png") == b"a/1.png"


def test_table_gives_groups(tmp_path: Path) -> None:
    """A third column says which images belong together; columns may stand in any order."""
    source = table(tmp_path, "Label,GROUP,Path\ncat,p1,a/1.png\ndog,p2,./b.png\n")
    assert [(entry.path, entry.group) for entry in source.entries()] == [("a/1.png", "p1"), ("b.png", "p2")]


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_table_of_a_spreadsheet_is_read(tmp_path: Path, line_end: str) -> None:
    """What Excel writes, a byte order mark and other line ends, is read."""
    text = line_end.join(["path,label", "a/1.png,cät", ""])
    assert [entry.label for entry in table(tmp_path, codecs.BOM_UTF8 + text.encode()).entries()] == ["cät"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "path,label"),
        ("file,class\na/1.png,cat\n", "path,label"),
        ("path;label\na/1.png;cat\n", "commas"),
        ("path,label,patient\na/1.png,cat,7\n", "'patient'"),
        ("path,label,label\na/1.png,cat,cat\n", "twice"),
        ("path,label\n", "no images"),
        ("path,label\na/1.png\n", "Line 2"),
        ("path,label\na/1.png,cat,grey\n", "double quotes"),
        ("path,label\na/1.png,\n", "the label"),
        ("path,label,group\na/1.png,cat,p1\nb.png,cat,\n", "Line 3 of x.csv: the group"),
        ("path,label\n,cat\n", "Line 2"),
        ("path,label\na/1.png,cat\na/1.png,dog\n", "Line 3 of x.csv: 'a/1.png' is there twice"),
        ("path,label\na/1.png,cat\n./a//1.png,dog\n", "twice"),
        ("path,label\nmissing.png,cat\n", "Line 2 of x.csv: there is no file 'missing.png'"),
        ("path,label\na\\1.png,cat\n", "write /"),
        ("path,label\na/1.png,c\ta\n", "control characters"),
        ('path,label\na/1.png,"open\n', "not valid CSV"),
        ("path,label\n../secret.png,cat\n", "Line 2 of x.csv: The path '../secret.png' leaves"),
        ("path,label\na/../../secret.png,cat\n", "leaves"),
        ("path,label\n/etc/passwd,cat\n", "leaves"),
        ("path,label\nC:/pets/1.png,cat\n", "leaves"),
        ("path,label\na/1.png,c\xe4t\n".encode("latin-1"), "UTF-8"),
        ("path,label\na/1.png,cat\n".encode("utf-16"), "UTF-8"),
    ],
)
def test_bad_table_is_refused(tmp_path: Path, text: str | bytes, expected: str) -> None:
    """A CSV that cannot be used is refused with the line and what is wrong with it."""
    (tmp_path / "secret.png").write_bytes(b"secret")
    assert expected in refusal(tmp_path, text)


def test_link_out_of_the_tables_folder_is_refused(tmp_path: Path) -> None:
    """A CSV cannot name a file elsewhere through a link beside it."""
    source = table(tmp_path, "path,label\nlink.png,cat\n")
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "data/link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InvalidDataset, match=r"Line 2 of x.csv: .*leads out"):
        source.entries()
    with pytest.raises(InvalidDataset, match="leads out"):
        source.read("link.png")
