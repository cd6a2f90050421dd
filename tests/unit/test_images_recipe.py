"""What the images are made from, as far as that can be held without building one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from containers.recipes import BASE, IMAGES, SERVING_IMAGES, TEST_IMAGES, Recipe
from containers.shrink import UNUSED, shrink

ROOT = Path(__file__).parents[2]
REQUIREMENTS = ROOT / "requirements" / "images"
CONTAINERFILE = ROOT / "containers" / "Containerfile"
PACKAGES = Path(sysconfig.get_path("purelib"))
SERVICES = sorted(path.parent.name for path in (ROOT / "services").glob("*/__main__.py"))
PINNED = re.compile(
    r"^(?P<requirement>[A-Za-z0-9][^\\\n]*?) \\\n(?P<hashes>(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+)",
    re.MULTILINE,
)
IMPORT = re.compile(r"^\s*(?:from|import) (?!offshelf|__future__)([a-zA-Z_][\w.]*)", re.MULTILINE)

IMPORT_WITHOUT = """
import importlib, sys
from pathlib import Path
packages, names = Path(sys.argv[1]), sys.argv[2].split()
sys.path.insert(0, sys.argv[3])
from containers.shrink import UNUSED
gone = {path for pattern in UNUSED for path in packages.glob(pattern)}

class Shrunk:
    def find_spec(self, name, path=None, target=None):
        for folder in path or [packages]:
            module = Path(folder) / name.rpartition(".")[2]
            if any(place in gone for place in (module, *module.parents)):
                raise ModuleNotFoundError(f"{name} is removed from the images")
        return None

sys.meta_path.insert(0, Shrunk())
for name in names:
    importlib.import_module(name)
"""


def pins(path: Path) -> dict[str, frozenset[str]]:
    """Each statement of a requirements file, without its marker, and its hashes."""
    found: dict[str, frozenset[str]] = {}
    for match in PINNED.finditer(path.read_text()):
        requirement = Requirement(match["requirement"])
        statement = f"{canonicalize_name(requirement.name)}{requirement.specifier}"
        found[statement] = frozenset(re.findall(r"sha256:[0-9a-f]+", match["hashes"]))
    return found


def names(path: Path) -> set[str]:
    """Names of the distributions in a requirements file."""
    return {statement.partition("==")[0] for statement in pins(path)}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    """The table `project` of pyproject.toml."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


def wanted(project: dict[str, Any], extra: str) -> set[str]:
    """Names of what the package and one extra ask for directly, through other extras too."""
    found: set[str] = set()
    for text in [*project["dependencies"], *project["optional-dependencies"].get(extra, [])]:
        requirement = Requirement(text)
        if requirement.name == "offshelf":
            found |= set().union(*(wanted(project, inner) for inner in requirement.extras))
        else:
            found.add(canonicalize_name(requirement.name))
    return found


@pytest.mark.parametrize("path", sorted(REQUIREMENTS.glob("*.txt")), ids=lambda path: path.stem)
def test_images_hold_what_the_lock_says(path: Path) -> None:
    """What runs in a cluster is bit for bit what was tested here."""
    # The one with TensorFlow has the other's versions of all that both have (test_distribution.py).
    locked = pins(ROOT / "requirements" / ("tfserving.txt" if path.stem.endswith("-tfserving") else "lock.txt"))
    text = path.read_text()
    statements = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert statements
    assert len(statements) == len(PINNED.findall(text)), "a requirement has no hash"
    for statement, hashes in pins(path).items():
        assert locked.get(statement) == hashes, f"{path.name} has {statement} and the lock has not: run make lock"


@pytest.mark.parametrize(
    "path",
    [
        *sorted(REQUIREMENTS.glob("*.txt")),
        *sorted((ROOT / "containers").glob("*")),
        ROOT / "tests/cluster/s3.Containerfile",
    ],
    ids=lambda path: path.name,
)
def test_recipe_names_no_place(path: Path) -> None:
    """Images can be built with whatever package index the reader has; the recipe knows none."""
    if path.is_dir():
        pytest.skip("no file")
    for trace in ("://", "--index-url", "--extra-index", "--find-links", "--trusted-host"):
        assert trace not in path.read_text()


def test_every_service_has_an_image(project: dict[str, Any]) -> None:
    """Whatever can be started as a service can be deployed; the SDK comes besides."""
    assert set(IMAGES) == {*SERVICES, "sdk"}
    assert set(SERVICES) <= set(project["optional-dependencies"])


@pytest.mark.parametrize("name", [*SERVICES, "sdk"])
def test_image_has_all_that_its_service_asks_for(name: str, project: dict[str, Any]) -> None:
    """A dependency that was added to an extra is in the image too, or this says which is not."""
    held = set().union(*(names(REQUIREMENTS / f"{part}.txt") for part in IMAGES[name].requirements if part != "build"))
    assert wanted(project, name) <= held, "run make lock"


@pytest.mark.parametrize("name", SERVICES)
def test_shared_layer_holds_nothing_that_a_service_lacks(name: str) -> None:
    """The layer that all services share is a part of what each needs, with the same versions."""
    assert pins(REQUIREMENTS / "service.txt").items() <= pins(REQUIREMENTS / f"{name}.txt").items()


@pytest.mark.parametrize("name", SERVING_IMAGES)
def test_images_that_ask_a_server_are_otherwise_the_same(name: str, project: dict[str, Any]) -> None:
    """A service that can ask a TensorFlow Serving is the service that cannot, with that protocol besides."""
    service = name.removesuffix("-tfserving")
    assert pins(REQUIREMENTS / f"{service}.txt").items() <= pins(REQUIREMENTS / f"{name}.txt").items()
    assert wanted(project, "tfserving") - names(REQUIREMENTS / f"{name}.txt") == set()
    assert not names(REQUIREMENTS / f"{service}.txt") & {"tensorflow", "tensorflow-serving-api"}
    assert service in IMAGES


def test_limits_are_those_that_were_promised() -> None:
    """No image grows beyond what was promised for it without somebody deciding so."""
    assert {name: recipe.limit for name, recipe in IMAGES.items()} == {
        "sdk": 80,
        "orchestrator": 500,
        "trainer": 550,
        "stats": 550,
        "extractor": 780,
        "predictor": 850,
    }
    assert {name: recipe.limit for name, recipe in SERVING_IMAGES.items()} == {
        "extractor-tfserving": 790,
        "predictor-tfserving": 860,
    }


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    """A build reads the sources and nothing else that lies in the checkout: no store, no secrets, no history."""
    (nothing, *admitted) = [
        line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    ]
    assert nothing == "*"
    allowed = {line.removeprefix("!") for line in admitted if line.startswith("!")}
    copied: set[str] = set()
    for recipe in (*IMAGES.values(), *TEST_IMAGES.values()):
        for line in (ROOT / recipe.containerfile).read_text().splitlines():
            if line.startswith("COPY") and "--from" not in line:
                copied |= set(line.split()[1:-1])
    folders = {re.sub(r"/[^/]*\$\{.*", "", path) for path in copied}
    assert {re.sub(r"^requirements/images/.*", "requirements/images", path) for path in folders} == allowed
    for recipe in (*IMAGES.values(), *TEST_IMAGES.values()):
        assert all((ROOT / path).exists() for path in recipe.sources)


def test_images_do_not_run_as_root() -> None:
    """The image itself says that it needs no rights, so that no one has to remember to take them away."""
    for recipe in (*IMAGES.values(), *TEST_IMAGES.values()):
        users = re.findall(r"^USER (.*)$", (ROOT / recipe.containerfile).read_text(), re.MULTILINE)
        assert users == ["10001:10001"]


def test_base_is_fixed() -> None:
    """Building by hand gives the same base as `make images`."""
    for recipe in (*IMAGES.values(), *TEST_IMAGES.values()):
        assert f"\nARG BASE={BASE}\n" in (ROOT / recipe.containerfile).read_text()


def recipe_in(root: Path) -> Recipe:
    """Write the inputs of a small image."""
    for path in ("Containerfile", "src/module.py", "requirements/images/tiny.txt", "requirements/images/build.txt"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(path)
    return Recipe(name="tiny", limit=1, common="tiny", containerfile="Containerfile", sources=("Containerfile", "src"))


def test_what_changes_an_image_changes_its_digest(tmp_path: Path) -> None:
    """An image is built again when anything it is made from has changed."""
    recipe = recipe_in(tmp_path)
    digests = {recipe.digest("base", root=tmp_path)}
    digests.add(recipe.digest("another base", root=tmp_path))
    for path in recipe.inputs(tmp_path):
        (tmp_path / path).write_text("changed")
        digests.add(recipe.digest("base", root=tmp_path))
    (tmp_path / "src" / "another.py").write_text("")
    digests.add(recipe.digest("base", root=tmp_path))
    assert len(digests) == 2 + 4 + 1


def test_what_does_not_change_an_image_does_not_build_it(tmp_path: Path) -> None:
    """An image is not built again for files that are not in it: compiled modules, tests, other images' requirements."""
    recipe = recipe_in(tmp_path)
    before = recipe.digest("base", root=tmp_path)
    for path in ("src/__pycache__/module.pyc", "tests/test_it.py", "requirements/images/other.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("new")
    assert recipe.digest("base", root=tmp_path) == before


def test_readers_of_users_networks_stay() -> None:
    """What reads ONNX and TensorFlow Lite is loaded by OpenVINO itself, which no import shows."""
    gone = {path.name for pattern in UNUSED for path in PACKAGES.glob(pattern)}
    for reader in ("onnx", "tensorflow_lite"):
        (library,) = (PACKAGES / "openvino" / "libs").glob(f"libopenvino_{reader}_frontend*")
        assert library.name not in gone


@pytest.mark.parametrize("pattern", UNUSED)
def test_what_is_removed_is_there(pattern: str) -> None:
    """The list of what is removed is no longer than it has to be."""
    assert any(PACKAGES.glob(pattern)), f"nothing installed is like {pattern}"


def test_nothing_that_is_removed_is_imported() -> None:
    """No library that the services use wants something that the images do without."""
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "services").rglob("*.py")]
    modules = {module for path in sources for module in IMPORT.findall(path.read_text())}
    # TensorFlow is what `offshelf weights export` needs, which nobody does in a container.
    elsewhere = {*sys.stdlib_module_names, "tensorflow"}
    theirs = sorted(module for module in modules if module.partition(".")[0] not in elsewhere)
    assert {"mahotas.features", "openvino", "pyarrow.parquet"} <= set(theirs)
    subprocess.run(
        [sys.executable, "-c", IMPORT_WITHOUT, PACKAGES, " ".join(theirs), ROOT],
        env=os.environ | {"KERAS_BACKEND": "openvino"},
        check=True,
    )


def test_shrinking_removes_and_leaves(tmp_path: Path) -> None:
    """What is on the list goes, folders with all they hold; nothing else does."""
    for path in ("numpy/lib/tests/test_it.py", "numpy/lib/index.py", "tests/index.py", "scipy/_core.pyx"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"1234")
    assert shrink(tmp_path) == 8
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file())
    assert left == ["numpy/lib/index.py", "tests/index.py"]
