"""What the images for remote engines hold of TensorFlow."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from containers.shrink import UNUSED_OF_TENSORFLOW, shrink

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGES = Path(sysconfig.get_path("purelib"))
ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def packages() -> Iterator[Path]:
    """Link what an image gets besides the libraries of its service."""
    folder = PACKAGES.parent / f"shrunk-{os.getpid()}"  # beside: links do not lead to another file system
    folder.mkdir()
    try:
        for name in ("tensorflow", "tensorflow_serving", "tensorboard", "tensorboard_data_server", "clang"):
            shutil.copytree(PACKAGES / name, folder / name, copy_function=os.link)
        yield folder
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("pattern", UNUSED_OF_TENSORFLOW)
def test_what_is_removed_is_there(pattern: str) -> None:
    """The list of what is removed is no longer than it has to be."""
    assert any(PACKAGES.glob(pattern)), f"nothing installed is like {pattern}"


def test_messages_are_all_that_is_left_of_tensorflow(packages: Path) -> None:
    """An image that can ask a TensorFlow Serving is some megabytes larger than one that cannot, and works."""
    shrink(packages)
    size = sum(path.stat().st_size for path in packages.rglob("*") if path.is_file() and path.suffix != ".pyc")
    assert size < 20 * MEGABYTE
    code = "from offshelf.rpc.serving_api import load_serving_api; print(load_serving_api().tensor.__file__)"
    environment = {**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{ROOT / 'src'}"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert done.stdout.startswith(str(packages))
