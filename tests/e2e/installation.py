"""The product as its users run it: the `offshelf` command in a process of its own, over a store of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import psutil
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

EXTRACTORS = "hsv444,haralick"
CLASSIFIERS = "LR,KNN"
FOLDS = 3
IMAGES_A_CLASS = 12


@dataclass(frozen=True)
class Installation:
    """A store and the command line over it."""

    folder: Path
    environment: Mapping[str, str]

    @property
    def store(self) -> Path:
        """The store's directory."""
        return self.folder / "store"

    def start(self, *arguments: object, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `offshelf ARGUMENTS` in the installation's folder."""
        return subprocess.Popen(
            [sys.executable, "-m", "offshelf.cli", *map(str, arguments)],
            cwd=self.folder,
            env={**self.environment, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def offshelf(
        self, *arguments: object, exit_code: int = 0, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `offshelf ARGUMENTS` to its end."""
        process = self.start(*arguments, environment=environment)
        output, errors = process.communicate(timeout=240)
        assert process.returncode == exit_code, f"exit code {process.returncode}\n{output}\n{errors}\n{self.logs()}"
        return subprocess.CompletedProcess(process.args, process.returncode, output, errors)

    @contextmanager
    def up(self) -> Iterator[str]:
        """Keep `offshelf up` running and yield its address; it must end by itself when told to."""
        process = self.start("up")
        assert process.stdout is not None
        try:
            process.stdout.readline()
            yield json.loads((self.store / ".embedded" / "server.json").read_text())["address"]
        finally:
            process.terminate()
            output, errors = process.communicate(timeout=30)
        assert process.returncode == 0, output + errors

    def run(
        self, dataset: Path, out: str = "out", *more: object, environment: Mapping[str, str] | None = None
    ) -> dict[str, Any]:
        """Run the main job quickly and return what run.json says."""
        self.offshelf(
            *("run", dataset, "-e", EXTRACTORS, "-c", CLASSIFIERS, "--folds", FOLDS, "-o", out, *more),
            environment=environment,
        )
        return self.summary(out)

    def summary(self, out: str = "out") -> dict[str, Any]:
        """Read a run.json."""
        found: dict[str, Any] = json.loads((self.folder / out / "run.json").read_text())
        return found

    def processes(self) -> list[psutil.Process]:
        """Every process that works on this store, told by its environment."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get("OFFSHELF_STORE") == str(
                    self.store
                ):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def logs(self) -> str:
        """The last lines of every service's log, for the message of a failed test."""
        logs = sorted((self.store / ".embedded" / "logs").glob("*.log"))
        return "\n".join(f"--- {log.name}\n{log.read_text()[-3000:]}" for log in logs)


def write_photo(path: Path, kind: int, seed: int) -> None:
    """Write a small generated picture; kinds differ in colour and texture, seeds in everything else."""
    rng = np.random.default_rng((kind, seed))
    base = np.array([(200, 60, 50), (60, 70, 190), (70, 180, 80)][kind % 3], dtype=float)
    noise = rng.normal(0, 30 + 25 * kind, (48, 64, 3))
    wave = 30 * np.sin(np.arange(64) / (2 + kind + rng.random()))[None, :, None]
    pixels = np.clip(base + noise + wave + rng.normal(0, 25, 3), 0, 255)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
