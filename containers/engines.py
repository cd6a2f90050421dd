"""The tools that build images, spoken to by their command lines: docker, podman, buildah."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, Protocol

from containers.archives import merge

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

INPUTS_LABEL: Final = "dev.offshelf.inputs"


class EngineError(Exception):
    """A tool did not do what it was asked; the message is one line for the user."""


@dataclass(frozen=True, slots=True)
class Image:
    """What an engine knows about an image."""

    id: str
    inputs: str
    """Digest of what it was made from: the label that our builds set."""
    layers: Mapping[str, int]
    """Uncompressed bytes of each layer by its digest; 0 where the engine does not say."""
    size: int = 0
    """Uncompressed bytes of all layers, where the engine says no more."""

    def bytes_over(self, base: Image) -> int:
        """Bytes of what it adds to a base."""
        if not self.size:
            return sum(size for digest, size in self.layers.items() if digest not in base.layers)
        # What was made from scratch adds all that it has.
        return self.size - (base.size if set(base.layers) <= set(self.layers) else 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """One image to be built."""

    name: str
    """Full name with its tag."""
    containerfile: str
    arguments: Mapping[str, str]
    secrets: Mapping[str, str]
    """Files by the names that the Containerfile mounts them under."""
    flags: Sequence[str] = ()
    """Further arguments for the tool, as the user gave them."""


class Run(Protocol):
    """Runs a command and returns what it prints."""

    def __call__(self, command: Sequence[str], *, show: bool = False) -> str:
        """Run it; with `show` its output is for the user.

        Raises
        ------
        EngineError
            If it fails.
        """
        ...


Stream = Callable[[Sequence[str]], AbstractContextManager[IO[bytes]]]
"""Runs a command whose output is read as a stream."""


def run(command: Sequence[str], *, show: bool = False) -> str:
    """Run a command for real."""
    done = subprocess.run(
        command,
        env=os.environ | {"DOCKER_BUILDKIT": "1", "BUILDX_NO_DEFAULT_ATTESTATIONS": "1"},
        stdout=None if show else subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr or "").strip().splitlines()
        raise EngineError(f"{' '.join(command[:3])} failed" + (f": {said[-1]}" if said else f" ({done.returncode})"))
    return done.stdout or ""


@contextmanager
def read_output(command: Sequence[str]) -> Iterator[IO[bytes]]:
    """Run a command whose output is read as a stream, and see that it ended well."""
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None  # noqa: S101 - it was asked for
        yield process.stdout
        while process.stdout.read(1 << 20):
            pass
    if process.returncode:
        raise EngineError(f"{' '.join(command[:4])} failed ({process.returncode})")


def _build_arguments(build: Build) -> list[str]:
    arguments = ["--file", build.containerfile, "--tag", build.name]
    for name, value in build.arguments.items():
        arguments += ["--build-arg", f"{name}={value}"]
    for name, source in build.secrets.items():
        arguments += ["--secret", f"id={name},src={source}"]
    return [*arguments, *build.flags]


class Engine:
    """docker and podman, whose command lines agree on all that we need."""

    answer: tuple[str, ...] = ("info",)
    """Succeeds where the tool can be used, which needs more than its being installed."""

    def __init__(self, name: str, call: Run = run) -> None:
        self.name = name
        self._run = call

    def answers(self) -> bool:
        """Tell whether it can be used."""
        try:
            self._run([self.name, *self.answer])
        except (EngineError, OSError):
            return False
        return True

    def build(self, build: Build) -> None:
        """Build an image from the current folder."""
        self._run([self.name, "build", *_build_arguments(build), "."], show=True)

    def pull(self, name: str) -> None:
        """Get an image from its registry."""
        self._run([self.name, "pull", name])

    def inspect(self, name: str) -> Image | None:
        """Look an image up; None if it is not here."""
        try:
            (found,) = json.loads(self._run([self.name, "image", "inspect", name]))
        except EngineError:
            return None
        layers = dict.fromkeys(found["RootFS"]["Layers"], 0)
        return Image(found["Id"], _label(found["Config"]), layers, found["Size"])

    def save(self, names: Sequence[str], target: Path) -> None:
        """Write images into one archive, as `docker load` and container runtimes read it."""
        several = ["--multi-image-archive"] if self.name == "podman" else []
        self._run([self.name, "save", *several, "--output", str(target), *names])


class Buildah(Engine):
    """buildah, which has neither a daemon nor a way to save several images."""

    answer = ("images", "--quiet")

    def __init__(self, call: Run = run, stream: Stream = read_output) -> None:
        super().__init__("buildah", call)
        self._stream = stream

    def build(self, build: Build) -> None:
        """Build an image from the current folder."""
        arguments = _build_arguments(build)
        # Inside another container nothing may be isolated further; a chroot is enough for installing packages.
        if "BUILDAH_ISOLATION" not in os.environ and not self._isolates(build.arguments["BASE"]):
            arguments += ["--isolation", "chroot", "--network", "host"]
        self._run([self.name, "bud", "--layers", *arguments, "."], show=True)

    def inspect(self, name: str) -> Image | None:
        """Look an image up; None if it is not here."""
        try:
            found = json.loads(self._run([self.name, "inspect", "--type", "image", name]))
        except EngineError:
            return None
        layers = json.loads(found["Manifest"])["layers"]
        # A base that was pulled lists its compressed layers; what we measure is what was built on it here.
        names = found["OCIv1"]["rootfs"]["diff_ids"]
        sizes = {digest: layer["size"] for digest, layer in zip(names, layers, strict=True)}
        return Image(found["FromImageID"], _label(found["OCIv1"]["config"]), sizes)

    def save(self, names: Sequence[str], target: Path) -> None:
        """Write images into one archive, each layer once."""
        push = (self.name, "push", "--quiet")
        try:
            merge((self._stream([*push, name, f"docker-archive:/dev/stdout:{name}"]) for name in names), target)
        except (tarfile.TarError, ValueError) as error:
            raise EngineError(f"{' '.join(push)} did not write its whole archive: {error}") from error

    def _isolates(self, base: str) -> bool:
        container = self._run([self.name, "from", base]).strip()
        try:
            self._run([self.name, "run", container, "true"])
        except EngineError:
            return False
        finally:
            self._run([self.name, "rm", container])
        return True


def find_engine(wanted: str = "") -> Engine:
    """Return the first engine that answers, or the wanted one.

    Raises
    ------
    EngineError
        If none does.
    """
    engines: tuple[Engine, ...] = (Engine("docker"), Engine("podman"), Buildah())
    for engine in engines:
        if wanted in ("", engine.name) and shutil.which(engine.name) and engine.answers():
            return engine
    names = wanted or "docker, podman or buildah"
    raise EngineError(f"{names}: not installed, or its daemon does not answer. Building images needs one of them.")


def _label(config: dict[str, Any]) -> str:
    return str((config.get("Labels") or {}).get(INPUTS_LABEL, ""))
