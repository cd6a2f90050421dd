from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from offshelf import Conflict
from offshelf.sample import CLASSES, write_sample

if TYPE_CHECKING:
    from pathlib import Path


def test_the_sample_is_500_digits_in_ten_folders(tmp_path: Path) -> None:
    """`make run` gets 50 images of 64 x 64 pixels a class without a download; writing it again changes nothing."""
    from PIL import Image

    folder = write_sample(tmp_path / "below" / "digits")
    assert sorted(path.name for path in folder.iterdir()) == sorted(CLASSES)
    assert {len(list(path.iterdir())) for path in folder.iterdir()} == {50}
    with Image.open(folder / "zero" / "00.png") as image:
        assert (image.size, image.mode) == ((64, 64), "L")
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/*")}
    write_sample(folder)
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*")} == before
    assert [path.name for path in folder.parent.iterdir()] == ["digits"]


def test_the_sample_does_not_mix_with_other_files(tmp_path: Path) -> None:
    """A folder that holds something else is refused and left alone."""
    (tmp_path / "mine").touch()
    with pytest.raises(Conflict, match="not the sample"):
        write_sample(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
