"""The configuration of a service: one frozen object, read from the environment when the process starts.

Each field is the environment variable `OFFSHELF_` followed by its name in capitals. An empty variable counts as unset.
"""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

from offshelf.errors import InvalidInput
from offshelf.served_models import parse_served_models

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from offshelf.served_models import ServedModel

T = TypeVar("T")

_BUCKET: Final = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^\s/?#]+)*")

EMBEDDED_LIVES: Final = ("attached", "up")
"""Values of `Settings.embedded`, besides none."""

PREFIX: Final = "OFFSHELF_"
"""What all our environment variables begin with."""

LOG_LEVELS: Final = ("debug", "info", "warning", "error")
"""Values of `Settings.log_level`."""

FLEETS: Final = ("processes", "kubernetes")
"""Values of `Settings.fleet`."""

FETCH_POLICIES: Final = ("auto", "never")
"""Values of `Settings.fetch`."""


def default_store(environ: Mapping[str, str] | None = None) -> str:
    """Where results are kept unless said otherwise: OFFSHELF_STORE, or `offshelf` in the user's data directory."""
    environ = os.environ if environ is None else environ
    if store := environ.get(f"{PREFIX}STORE"):
        return store
    data_home = environ.get("XDG_DATA_HOME", "")
    # The XDG specification says that a relative path is to be ignored.
    base = Path(data_home) if data_home.startswith("/") else Path.home() / ".local" / "share"
    return str(base / "offshelf")


def available_cores(cgroup_root: Path = Path("/sys/fs/cgroup"), membership: Path = Path("/proc/self/cgroup")) -> int:
    """Count the cores this process may use: its CPU affinity, or less if its cgroup (version 2) has a limit.

    A limit of one and a half cores counts as one: more threads than that would only be throttled.
    """
    # macOS has no affinity.
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits = [limit for group in _own_cgroups(cgroup_root, membership) if (limit := _cpu_limit(group)) is not None]
    return max(1, math.floor(min([float(allowed), *limits])))


def _own_cgroups(root: Path, membership: Path) -> list[Path]:
    """List the folder of this process's cgroup and of those around it; each may have a limit."""
    try:
        lines = membership.read_text().splitlines()
    except OSError:
        return []
    own = next((line.removeprefix("0::").lstrip("/") for line in lines if line.startswith("0::")), None)
    if own is None or ".." in Path(own).parts:
        return [root]
    group = root / own
    return [group, *(parent for parent in group.parents if parent.is_relative_to(root))]


def _cpu_limit(group: Path) -> float | None:
    try:
        quota, period = (group / "cpu.max").read_text().split()
        return None if quota == "max" else int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):
        return None


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What a service process needs to know."""

    store: str = ""
    """Where results are kept: a folder, or "s3://BUCKET/PREFIX?endpoint=URL". Empty: `default_store()`."""

    host: str = "127.0.0.1"
    """Address that all three ports listen on."""

    port: int = 0
    """Port of the service itself; 0 takes a free one."""

    health_port: int = 0
    """Port of the health service for probes (plaintext); 0 takes a free one."""

    metrics_port: int = 0
    """Port of the Prometheus metrics (HTTP, path /metrics); 0 takes a free one."""

    token_file: Path | None = None
    """File that holds the token which every call must bring; readable by its owner alone. A server needs one."""

    data_roots: tuple[Path, ...] | None = None
    """Folders that datasets may lie in, separated as in PATH. Unset: any path this process can read."""

    weights: str = ""
    """Where pretrained weights are: a folder, "s3://bucket/prefix", or "https://host/prefix" of a mirror that is asked
    for what a run needs. Empty: the user's cache (`offshelf.extraction.weights.folder.cache_folder`)."""

    fetch: str = "auto"
    """Whether weights that are missing are downloaded from their authors ("auto") or not ("never")."""

    fetch_hosts: tuple[str, ...] = ()
    """Hosts that files may be downloaded from, separated by white space: the only ones for networks that users name by
    an address, and for registered weights, such as a mirror's redirects, besides those of their authors."""

    cores: int = field(default_factory=available_cores)
    """Cores to use. Unset: those that the CPU affinity and the cgroup of the process allow."""

    log_level: str = "info"
    """Least level that is logged: "debug", "info", "warning" or "error"."""

    drain_seconds: float = 10.0
    """How long calls in progress may go on after the process was asked to stop, in seconds."""

    parent_pipe: bool = False
    """Whether the end of standard input means that the parent is gone, and the process should stop."""

    max_image_pixels: int = 100_000_000
    """Images with more pixels are not decoded."""

    decode_seconds: float = 30.0
    """How long decoding one image may take, in seconds."""

    unit_seconds: float = 15.0
    """How much work the planner puts into one unit, in seconds."""

    extractor: str = ""
    """Name of the extractor that an extractor replica serves; "custom" for all that have no replicas of their own."""

    remote_engines: tuple[ServedModel, ...] = ()
    """Extractors whose networks run on a TensorFlow Serving: EXTRACTOR=HOST:PORT, or EXTRACTOR=HOST:PORT/MODEL/VERSION,
    separated by white space. The same for all services of an installation."""

    engine_ca: Path | None = None
    """File of PEM certificates to trust of remote engines, instead of the system's."""

    engine_plaintext: bool = False
    """Whether remote engines beyond this machine are spoken to without TLS, since something else (a mesh) encrypts."""

    engine_seconds: float = 10.0
    """How long a remote engine may take for one image, in seconds."""

    embedded: str = ""
    """Life of the orchestrator of one machine: "attached" ends with its last client, "up" when told. Else empty."""

    tls: Path | None = None
    """Folder with tls.crt, tls.key and ca.crt (PEM) of this service. A server that others can reach needs one."""

    plaintext: bool = False
    """Whether servers and channels beyond this machine may do without TLS, since something else (a mesh) encrypts."""

    users: Path | None = None
    """File with the users of a server and the digests of their tokens, as `offshelf tokens` writes it."""

    settle_seconds: float = 0.5
    """How long a draining server still takes calls, until others have noticed that it is not ready, in seconds."""

    fleet: str = "processes"
    """What replicas of services are: "processes" of this machine, or Deployments of "kubernetes"."""

    namespace: str = ""
    """Kubernetes namespace of the installation. Empty: the one of this process's service account."""

    pod: str = ""
    """Name of the pod that this process runs in."""

    max_replicas: int = 8
    """Most replicas of one extractor, and of the trainer, that are started in a cluster."""

    idle_seconds: float = 300.0
    """How long replicas in a cluster outlive the work they were started for, in seconds."""

    predictor_address: str = ""
    """HOST:PORT at which clients reach the predictor of a cluster."""

    data_buckets: tuple[str, ...] = ()
    """Buckets, as s3://BUCKET or s3://BUCKET/PREFIX and separated by white space, that datasets may be read from."""

    quota_images: int = 0
    """Most images that one user may have in the store; 0 for any number."""

    quota_bytes: int = 0
    """Most bytes of images that one user may have in the store; 0 for any number."""

    quota_runs: int = 0
    """Most runs of one user that are going on at a time; 0 for any number."""

    def __post_init__(self) -> None:
        if not self.store:
            object.__setattr__(self, "store", default_store())

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Settings:
        """Read the settings from environment variables; other OFFSHELF_ variables are ignored.

        Raises
        ------
        InvalidInput
            A variable has a value that cannot be used; the message names it and says what is expected.
        """
        values: dict[str, object] = {"store": default_store(environ)}
        for name, read in _READERS.items():
            variable = f"{PREFIX}{name.upper()}"
            if text := environ.get(variable, ""):
                try:
                    values[name] = read(text)
                except ValueError as error:
                    raise InvalidInput(f"{variable}={text!r} cannot be used: expected {error}.") from None
        return cls(**values)  # type: ignore[arg-type]  # each value was made by its field's own reader


# Readers raise ValueError with what they expect.


def _number(kind: Callable[[str], T], low: float, high: float, expected: str) -> Callable[[str], T]:
    def read(text: str) -> T:
        try:
            value = kind(text)
        except ValueError:
            raise ValueError(expected) from None
        # Written so that NaN is refused too.
        if not low <= value <= high:  # type: ignore[operator]  # int or float
            raise ValueError(expected)
        return value

    return read


def _one_of(*choices: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text.lower() not in choices:
            raise ValueError(f"one of {', '.join(choices)}")
        return text.lower()

    return read


def _yes_or_no(text: str) -> bool:
    known = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
    if text.lower() not in known:
        raise ValueError("1 or 0")
    return known[text.lower()]


def _folders(text: str) -> tuple[Path, ...]:
    paths = tuple(Path(part) for part in text.split(os.pathsep) if part)
    if not paths or not all(path.is_absolute() for path in paths):
        raise ValueError(f"absolute paths of folders, separated by {os.pathsep!r}")
    return paths


def _buckets(text: str) -> tuple[str, ...]:
    buckets = tuple(bucket.rstrip("/") for bucket in text.split())
    if not all(_BUCKET.fullmatch(bucket) for bucket in buckets):
        raise ValueError("s3://BUCKET or s3://BUCKET/PREFIX, separated by spaces")
    return buckets


def _host(text: str) -> str:
    if not text.strip() or any(character.isspace() or character in "/[]" for character in text):
        raise ValueError("a host name or an IP address, without a port or brackets")
    return text


def _hosts(text: str) -> tuple[str, ...]:
    return tuple(_host(host).lower() for host in text.split())


_PORT: Final = _number(int, 0, 65535, "a whole number from 0 to 65535 (0 takes a free port)")
_QUOTA: Final = _number(int, 0, 10**18, "a whole number from 0 on (0 for no limit)")
_COUNT: Final = _number(int, 1, 10**15, "a whole number from 1 on")
_SECONDS: Final = _number(float, 0.001, 10**6, "a number of seconds greater than 0")

_READERS: Final[Mapping[str, Callable[[str], object]]] = {
    "store": str,
    "host": _host,
    "port": _PORT,
    "health_port": _PORT,
    "metrics_port": _PORT,
    "token_file": Path,
    "data_roots": _folders,
    "weights": str,
    "fetch": _one_of(*FETCH_POLICIES),
    "fetch_hosts": _hosts,
    "cores": _COUNT,
    "log_level": _one_of(*LOG_LEVELS),
    "drain_seconds": _SECONDS,
    "parent_pipe": _yes_or_no,
    "max_image_pixels": _COUNT,
    "decode_seconds": _SECONDS,
    "unit_seconds": _SECONDS,
    "extractor": str,
    "remote_engines": parse_served_models,
    "engine_ca": Path,
    "engine_plaintext": _yes_or_no,
    "engine_seconds": _SECONDS,
    "embedded": _one_of(*EMBEDDED_LIVES),
    "tls": Path,
    "plaintext": _yes_or_no,
    "users": Path,
    "settle_seconds": _SECONDS,
    "fleet": _one_of(*FLEETS),
    "namespace": str,
    "pod": str,
    "max_replicas": _COUNT,
    "idle_seconds": _SECONDS,
    "predictor_address": str,
    "data_buckets": _buckets,
    "quota_images": _QUOTA,
    "quota_bytes": _QUOTA,
    "quota_runs": _QUOTA,
}
