"""Fixtures of the end-to-end tests."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.e2e.installation import IMAGES_A_CLASS, Installation, write_photo

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    """An empty store; whatever still runs on it at the end is a failure of the test, and is ended."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OFFSHELF_")}
    return Installation(
        tmp_path,
        environment
        | {
            "OFFSHELF_STORE": str(tmp_path / "store"),
            # Neither the web nor the user's own cache decides what a test finds.
            "OFFSHELF_FETCH": "never",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "PYTHONWARNINGS": "default",
        },
    )


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """A dataset of three classes."""
    folder = tmp_path / "photos"
    for kind, label in enumerate(("brick", "sky", "grass")):
        for number in range(IMAGES_A_CLASS):
            write_photo(folder / label / f"{number:03d}.png", kind, number)
    return folder
