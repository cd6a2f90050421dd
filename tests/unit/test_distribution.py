"""What people install, and what it is installed from."""

from __future__ import annotations

import importlib.metadata
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000
PINNED = re.compile(
    r"^(?P<requirement>[A-Za-z0-9][^\\\n]*?) \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+",
    re.MULTILINE,
)


@pytest.fixture(scope="module")
def lock() -> str:
    """Text of the lock."""
    return (ROOT / "requirements" / "lock.txt").read_text()


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """Everything in pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def pins(lock: str) -> dict[str, list[Requirement]]:
    """The pins of the lock by name; a name has several if they depend on the version of Python."""
    return pins_of(lock)


@pytest.fixture(scope="module")
def serving_lock() -> str:
    """Text of the lock of the extra tfserving, which has TensorFlow."""
    return (ROOT / "requirements" / "tfserving.txt").read_text()


def pins_of(lock: str) -> dict[str, list[Requirement]]:
    """Read the pins of a lock."""
    found: dict[str, list[Requirement]] = {}
    for match in PINNED.finditer(lock):
        requirement = Requirement(match["requirement"])
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def closure(name: str) -> set[str]:
    """All distributions that installing `name` without extras brings here, itself left out."""
    seen: set[str] = set()
    waiting = [canonicalize_name(name)]
    while waiting:
        current = waiting.pop()
        for text in importlib.metadata.requires(current) or []:
            requirement = Requirement(text)
            needed = canonicalize_name(requirement.name)
            if needed not in seen and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
                seen.add(needed)
                waiting.append(needed)
    return seen


@pytest.mark.parametrize("name", ["lock", "serving_lock"])
def test_every_pin_has_hashes(name: str, request: pytest.FixtureRequest) -> None:
    """What is installed is bit for bit what was tested, or the installation stops."""
    lock = request.getfixturevalue(name)
    pins = pins_of(lock)
    statements = [line for line in lock.splitlines() if line and not line.startswith((" ", "#"))]
    assert statements
    assert len(statements) == sum(len(found) for found in pins.values())
    assert all(re.match(r"==[^*]+$", str(pin.specifier)) for found in pins.values() for pin in found)


@pytest.mark.parametrize("name", ["lock", "serving_lock"])
def test_lock_names_no_place(name: str, request: pytest.FixtureRequest) -> None:
    """The lock works with whatever package index the reader has, and says nothing about the writer's machine."""
    lock = request.getfixturevalue(name)
    for trace in ("://", "--index", "--extra-index", "--find-links", "--trusted-host", " @ "):
        assert trace not in lock
    assert re.search(r"(^|[\s'\"=])/", lock) is None


def test_lock_covers_the_project(
    project: dict[str, Any], pins: dict[str, list[Requirement]], serving_lock: str
) -> None:
    """A dependency that was added or bounded in pyproject.toml is in the lock too, or this says which is not."""
    extras = {**project["project"]["optional-dependencies"]}
    serving = extras.pop("tfserving")
    wanted = [*project["project"]["dependencies"], *(text for extra in extras.values() for text in extra)]
    check_pinned([*wanted, *project["dependency-groups"]["dev"]], pins)
    check_pinned([*serving, *project["dependency-groups"]["serving"]], pins_of(serving_lock))


def check_pinned(wanted: list[str], pins: dict[str, list[Requirement]]) -> None:
    """Fail for what is wanted and not pinned, or pinned in a version that is not wanted."""
    for text in wanted:
        requirement = Requirement(text)
        if requirement.name == "offshelf":
            continue
        found = pins.get(canonicalize_name(requirement.name), [])
        versions = [spec.version for pin in found for spec in pin.specifier]
        assert versions, f"{text} is not in the lock: run make lock"
        for version in versions:
            agrees = requirement.specifier.contains(version, prereleases=True)
            assert agrees, f"the lock has {version} and the project wants {text}: run make lock"


def test_no_deep_learning_framework(pins: dict[str, list[Requirement]]) -> None:
    """The set-up stays small: no TensorFlow, PyTorch or JAX comes along with anything."""
    assert not {"torch", "tensorflow", "tensorflow-cpu", "jax", "jaxlib", "onnxruntime"} & set(pins)


def test_the_extra_with_tensorflow_is_otherwise_the_same(pins: dict[str, list[Requirement]], serving_lock: str) -> None:
    """What is tested beside TensorFlow are the versions that are tested without it."""
    serving = pins_of(serving_lock)
    assert {"tensorflow", "tensorflow-serving-api", "keras", "openvino", "grpcio"} <= set(serving)
    shared = set(serving) & set(pins)
    assert {name: set(map(str, serving[name])) for name in shared} == {
        name: set(map(str, pins[name])) for name in shared
    }


def test_embedded_is_everything(project: dict[str, Any]) -> None:
    """`offshelf[embedded]` brings all services, so that no run on one machine lacks a part, and nothing more."""
    extras = project["project"]["optional-dependencies"]
    (everything,) = (Requirement(text) for text in extras["embedded"])
    assert everything.extras == set(extras) - {"embedded", "service", "certs", "kubernetes", "tfserving"}


def test_sdk_alone_is_small() -> None:
    """`pip install offshelf` takes less than 80 MB with all it depends on, and none of it is scientific."""
    needed = closure("offshelf")
    scientific = {
        "numpy",
        "pyarrow",
        "scikit-learn",
        "openvino",
        "keras",
        "pillow",
        "cykooz-resizer",
        "scipy",
        "pandas",
    }
    assert not needed & {*scientific, "minio", "pycurl"}
    size = 0
    for name in {*needed, "offshelf"} - {"colorama"}:  # colorama is for Windows alone
        for file in importlib.metadata.files(name) or []:
            path = Path(str(file.locate()))
            size += path.stat().st_size if path.is_file() else 0
    assert size < 80 * MEGABYTE
