"""Which images there are, what each is made from, and how large it may be."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

BASE: Final = "python:3.11-slim-bookworm"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How one image is made."""

    name: str
    """What IMAGE is in the Containerfile; the image is called offshelf-NAME."""
    limit: int
    """Most that its layers may take over the base's, uncompressed, in MB (10^6 bytes)."""
    common: str = "service"
    """Requirements of the layer that it shares with other images."""
    containerfile: str = "containers/Containerfile"
    sources: tuple[str, ...] = (
        *("containers/Containerfile", "containers/install.sh", "containers/runtime.sh", "containers/shrink.py"),
        *("pyproject.toml", "README.md", "LICENSE", "src", "services"),
    )
    """Files and folders that it is made from, besides its requirements."""

    @property
    def image(self) -> str:
        """Name of the image, without registry and tag."""
        return f"offshelf-{self.name}"

    @property
    def requirements(self) -> tuple[str, ...]:
        """Names of the files in requirements/images that it is made from."""
        return tuple(dict.fromkeys((self.common, self.name, "build")))

    def inputs(self, root: Path = ROOT) -> tuple[str, ...]:
        """All files that it is made from, as sorted paths below `root`."""
        places = [*self.sources, *(f"requirements/images/{name}.txt" for name in self.requirements)]
        return tuple(sorted(file for place in places for file in _files(root, place)))

    def digest(self, *more: str, root: Path = ROOT) -> str:
        """SHA-256 of all that the image is made from: its inputs, and what else decides it."""
        state = hashlib.sha256("\0".join((self.name, *more)).encode())
        for path in self.inputs(root):
            content = (root / path).read_bytes()
            state.update(f"\0{path}\0{len(content)}\0".encode())
            state.update(content)
        return state.hexdigest()


IMAGES: Final = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="sdk", limit=80, common="sdk"),
        Recipe(name="orchestrator", limit=500),
        Recipe(name="trainer", limit=550),
        Recipe(name="stats", limit=550),
        Recipe(name="extractor", limit=780),
        Recipe(name="predictor", limit=850),
    )
}
"""What users get."""

SERVING_IMAGES: Final = {
    recipe.name: recipe
    for recipe in (
        Recipe(name="extractor-tfserving", limit=790),
        Recipe(name="predictor-tfserving", limit=860),
    )
}
"""The same services where networks run on a TensorFlow Serving; built when asked for by name."""

TEST_IMAGES: Final = {
    "test-s3": Recipe(
        name="test-s3",
        limit=100,
        common="test-s3",
        containerfile="tests/cluster/s3.Containerfile",
        sources=("tests/cluster/s3.Containerfile",),
    )
}
"""What only the end-to-end tests need; built when asked for by name."""


def _files(root: Path, place: str) -> list[str]:
    path = root / place
    if not path.is_dir():
        return [place]
    found: list[str] = []
    # Links are not followed: src/offshelf/services leads to services, which is on the list itself.
    for folder, folders, names in os.walk(path):
        folders[:] = [name for name in folders if name != "__pycache__"]
        found += [str((Path(folder) / name).relative_to(root)) for name in names if not name.endswith(".pyc")]
    return found
