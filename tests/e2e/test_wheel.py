"""What `pip install offshelf` gives, away from the checkout."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import sysconfig
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MEGABYTE = 1_000_000
RUN = ("-e", "hsv444,haralick", "-c", "KNN,LR", "--folds", "3")


@dataclass(frozen=True)
class Environment:
    """A virtual environment that is not the one of the checkout."""

    folder: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.folder / "bin" / "python"

    @property
    def packages(self) -> Path:
        """Where its distributions lie."""
        (found,) = self.folder.glob("lib/python3*/site-packages")
        return found

    def size(self) -> int:
        """Bytes of all that is installed in it."""
        return sum(path.lstat().st_size for path in self.packages.rglob("*") if path.is_file())

    def call(self, *command: object, exit_code: int = 0) -> subprocess.CompletedProcess[str]:
        """Run one of its commands in a folder that has nothing to do with the checkout."""
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("OFFSHELF_", "PYTHON"))}
        program, *arguments = map(str, command)
        done = subprocess.run(
            [self.folder / "bin" / program, *arguments],
            cwd=self.folder.parent,
            env=keep | {"OFFSHELF_STORE": str(self.folder.parent / "store")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == exit_code, f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def runs_the_main_job(self, photos: Path) -> None:
        """Hold that a run ends with a report and a model that classifies an image."""
        out = self.folder.parent / "out"
        self.call("offshelf", "run", photos, *RUN, "-o", out)
        assert (out / "report.html").is_file()
        (image, *_) = sorted((photos / "sky").iterdir())
        (line,) = self.call("offshelf", "predict", out / "model", image, "--json").stdout.splitlines()
        assert json.loads(line)["label"] == "sky"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution as an index would have it."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "build", "--quiet", "--offline", "--no-build-isolation"),
            *("--python", sys.executable, "--out-dir", folder, ROOT),
        ],
        check=True,
    )
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def empty(tmp_path: Path) -> Environment:
    """An environment with pip alone."""
    venv.create(tmp_path / "empty", with_pip=True)
    return Environment(tmp_path / "empty")


@pytest.fixture
def pins(tmp_path: Path) -> Path:
    """The versions of the lock, as constraints."""
    lock = (ROOT / "requirements" / "lock.txt").read_text()
    path = tmp_path / "pins.txt"
    path.write_text("\n".join(re.findall(r"^([A-Za-z0-9].*?) \\$", lock, re.MULTILINE)))
    return path


def test_wheel_holds_all_of_the_package_and_nothing_else(wheel: Path) -> None:
    """Every module, template and type stub is installed, all below `offshelf`, with the licence."""
    names = set(zipfile.ZipFile(wheel).namelist())
    information = {name for name in names if re.match(r"offshelf-[^/]+\.dist-info/", name)}
    assert {name.split("/")[0] for name in names - information} == {"offshelf"}
    assert any(name.endswith("licenses/LICENSE") for name in information)

    sources = {f"offshelf/{path.relative_to(ROOT / 'src' / 'offshelf')}" for path in (ROOT / "src/offshelf").rglob("*")}
    sources |= {f"offshelf/services/{path.relative_to(ROOT / 'services')}" for path in (ROOT / "services").rglob("*")}
    wanted = {
        name for name in sources if name.endswith((".py", ".pyi", ".j2", "py.typed")) and "__pycache__" not in name
    }
    assert "offshelf/services/extractor/__main__.py" in wanted
    assert wanted == {name for name in names - information if not name.endswith("/")}


def test_wheel_does_the_main_job_outside_the_checkout(wheel: Path, tmp_path: Path, photos: Path) -> None:
    """The installed package needs no file that only a checkout has."""
    environment = Environment(tmp_path / "installed")
    venv.create(environment.folder, with_pip=False)
    subprocess.run(
        [
            *(sys.executable, "-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps"),
            *("--python", environment.python, wheel),
        ],
        check=True,
    )
    # What it depends on is borrowed from the environment of the checkout, without its link to the sources.
    (environment.packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    where = environment.call("python", "-c", "import offshelf.services; print(*offshelf.services.__path__)").stdout
    assert Path(where.strip()).is_relative_to(environment.folder)
    environment.runs_the_main_job(photos)


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_sdk_alone_is_small_and_says_what_it_lacks(wheel: Path, empty: Environment, pins: Path, photos: Path) -> None:
    """`pip install offshelf` brings less than 80 MB, and a run that needs the services says how to get them."""
    before = empty.size()
    empty.call("python", "-m", "pip", "install", "--quiet", "--constraint", pins, wheel)
    assert empty.size() - before < 80 * MEGABYTE
    empty.call("offshelf", "--help")
    empty.call("python", "-c", "import offshelf; offshelf.Client")
    assert "offshelf[embedded]" in empty.call("offshelf", "run", photos, *RUN, "-o", "out", exit_code=2).stderr


@pytest.mark.nightly
@pytest.mark.timeout(1800)
def test_embedded_in_an_empty_environment(wheel: Path, empty: Environment, pins: Path, photos: Path) -> None:
    """`pip install offshelf[embedded]` is all that the main job needs."""
    empty.call("python", "-m", "pip", "install", "--quiet", "--constraint", pins, f"{wheel}[embedded]")
    empty.runs_the_main_job(photos)
