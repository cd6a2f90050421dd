from __future__ import annotations

import os
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from offshelf.errors import InvalidInput
from offshelf.served_models import ServedModel
from offshelf.settings import Settings, available_cores, default_store


def test_without_any_variable_the_settings_are_usable() -> None:
    """A user who sets nothing gets a service on loopback with a store in the home folder and all its cores."""
    settings = Settings.from_environment({})
    assert settings.host == "127.0.0.1"
    assert (settings.port, settings.health_port, settings.metrics_port) == (0, 0, 0)
    assert settings.store == str(Path.home() / ".local/share/offshelf")
    assert settings.cores >= 1
    assert settings.token_file is None
    assert settings.data_roots is None
    assert settings.parent_pipe is False


def test_every_field_is_read_from_its_variable() -> None:
    """Each setting can be given by the variable that is named like it."""
    environ = {
        "OFFSHELF_STORE": "s3://bucket/prefix?endpoint=http://127.0.0.1:9000",
        "OFFSHELF_HOST": "::1",
        "OFFSHELF_PORT": "8080",
        "OFFSHELF_HEALTH_PORT": "8081",
        "OFFSHELF_METRICS_PORT": "8082",
        "OFFSHELF_TOKEN_FILE": "/run/token",
        "OFFSHELF_DATA_ROOTS": os.pathsep.join(["/data", "/more data"]),
        "OFFSHELF_WEIGHTS": "https://example.org/weights",
        "OFFSHELF_FETCH": "never",
        "OFFSHELF_FETCH_HOSTS": "files.example.org  Mirror.example.org",
        "OFFSHELF_CORES": "3",
        "OFFSHELF_LOG_LEVEL": "DEBUG",
        "OFFSHELF_DRAIN_SECONDS": "2.5",
        "OFFSHELF_PARENT_PIPE": "1",
        "OFFSHELF_MAX_IMAGE_PIXELS": "1000",
        "OFFSHELF_DECODE_SECONDS": "7",
        "OFFSHELF_UNIT_SECONDS": "20",
        "OFFSHELF_EXTRACTOR": "hog",
        "OFFSHELF_REMOTE_ENGINES": "vgg16=gpu:8500/vgg/3",
        "OFFSHELF_ENGINE_CA": "/etc/offshelf/engine.crt",
        "OFFSHELF_ENGINE_PLAINTEXT": "1",
        "OFFSHELF_ENGINE_SECONDS": "3",
        "OFFSHELF_EMBEDDED": "up",
        "OFFSHELF_TLS": "/etc/offshelf/tls",
        "OFFSHELF_PLAINTEXT": "1",
        "OFFSHELF_USERS": "/etc/offshelf/users.json",
        "OFFSHELF_SETTLE_SECONDS": "4",
        "OFFSHELF_FLEET": "kubernetes",
        "OFFSHELF_NAMESPACE": "images",
        "OFFSHELF_POD": "orchestrator-0",
        "OFFSHELF_MAX_REPLICAS": "5",
        "OFFSHELF_IDLE_SECONDS": "60",
        "OFFSHELF_PREDICTOR_ADDRESS": "predictor.example.org:443",
        "OFFSHELF_DATA_BUCKETS": "s3://photos s3://archive/2024/",
        "OFFSHELF_QUOTA_IMAGES": "1000",
        "OFFSHELF_QUOTA_BYTES": "5000",
        "OFFSHELF_QUOTA_RUNS": "2",
    }
    expected = Settings(
        store="s3://bucket/prefix?endpoint=http://127.0.0.1:9000",
        host="::1",
        port=8080,
        health_port=8081,
        metrics_port=8082,
        token_file=Path("/run/token"),
        data_roots=(Path("/data"), Path("/more data")),
        weights="https://example.org/weights",
        fetch="never",
        fetch_hosts=("files.example.org", "mirror.example.org"),
        cores=3,
        log_level="debug",
        drain_seconds=2.5,
        parent_pipe=True,
        max_image_pixels=1000,
        decode_seconds=7.0,
        unit_seconds=20.0,
        extractor="hog",
        remote_engines=(ServedModel("vgg16", "gpu:8500", "vgg", 3),),
        engine_ca=Path("/etc/offshelf/engine.crt"),
        engine_plaintext=True,
        engine_seconds=3.0,
        embedded="up",
        tls=Path("/etc/offshelf/tls"),
        plaintext=True,
        users=Path("/etc/offshelf/users.json"),
        settle_seconds=4.0,
        fleet="kubernetes",
        namespace="images",
        pod="orchestrator-0",
        max_replicas=5,
        idle_seconds=60.0,
        predictor_address="predictor.example.org:443",
        data_buckets=("s3://photos", "s3://archive/2024"),
        quota_images=1000,
        quota_bytes=5000,
        quota_runs=2,
    )
    assert Settings.from_environment(environ) == expected
    assert {f"OFFSHELF_{field.name.upper()}" for field in fields(Settings)} == set(environ)


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("OFFSHELF_PORT", "http", "a whole number from 0 to 65535"),
        ("OFFSHELF_PORT", "65536", "a whole number from 0 to 65535"),
        ("OFFSHELF_HOST", "localhost/", "a host name or an IP address"),
        ("OFFSHELF_CORES", "0", "a whole number from 1 on"),
        ("OFFSHELF_CORES", "1.5", "a whole number from 1 on"),
        ("OFFSHELF_DRAIN_SECONDS", "nan", "a number of seconds greater than 0"),
        ("OFFSHELF_DECODE_SECONDS", "-1", "a number of seconds greater than 0"),
        ("OFFSHELF_FETCH", "sometimes", "one of auto, never"),
        ("OFFSHELF_LOG_LEVEL", "loud", "one of debug, info, warning, error"),
        ("OFFSHELF_PARENT_PIPE", "perhaps", "1 or 0"),
        ("OFFSHELF_DATA_ROOTS", "relative/folder", "absolute paths of folders"),
    ],
)
def test_a_bad_value_names_the_variable_and_what_is_expected(variable: str, value: str, expected: str) -> None:
    """A mistyped variable is an error of one line with its name, its value and what would do."""
    with pytest.raises(InvalidInput) as refused:
        Settings.from_environment({variable: value})
    assert refused.value.message.startswith(f"{variable}={value!r} cannot be used: expected {expected}")
    assert "\n" not in refused.value.message


def test_variables_of_others_are_left_alone() -> None:
    """A variable that belongs to another part of Offshelf, or an empty one, changes nothing."""
    environ = {"OFFSHELF_TOKEN": "x", "OFFSHELF_PORT": "", "OFFSHELF_NEWER": "1", "PORT": "no"}
    assert Settings.from_environment(environ) == Settings.from_environment({})


def test_settings_cannot_be_changed() -> None:
    """Settings are what they were when the process started."""
    with pytest.raises(FrozenInstanceError):
        Settings().port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"OFFSHELF_STORE": "/results"}, "/results"),
        ({"XDG_DATA_HOME": "/xdg"}, "/xdg/offshelf"),
        ({"XDG_DATA_HOME": "relative"}, str(Path.home() / ".local/share/offshelf")),
    ],
)
def test_results_are_kept_where_the_user_keeps_data(environ: dict[str, str], expected: str) -> None:
    """The store lies where the user said, or else where the system keeps a user's data."""
    assert default_store(environ) == expected


def cgroup(root: Path, own: str, limits: dict[str, str]) -> int:
    """Make a cgroup tree in which this process is in `own`, and count its cores."""
    membership = root / "membership"
    membership.write_text(f"0::{own}\n")
    for group, limit in limits.items():
        (root / group).mkdir(parents=True, exist_ok=True)
        (root / group / "cpu.max").write_text(f"{limit}\n")
    return available_cores(root, membership)


def test_a_container_limit_bounds_the_cores(tmp_path: Path) -> None:
    """A pod that may use one and a half cores works with one, on however large a machine."""
    assert cgroup(tmp_path, "/", {".": "150000 100000"}) == 1


def test_a_limit_of_less_than_one_core_is_one_core(tmp_path: Path) -> None:
    """A pod with a quarter of a core still works."""
    assert cgroup(tmp_path, "/a/b", {"a": "25000 100000", "a/b": "max 100000"}) == 1


@pytest.mark.parametrize("limit", ["max 100000", "nonsense", "100000 0"])
def test_no_limit_means_all_cores_the_process_may_use(tmp_path: Path, limit: str) -> None:
    """Without a limit, or with one that cannot be read, the cores the system grants are used."""
    unlimited = available_cores(tmp_path, tmp_path / "no such file")
    assert unlimited >= 1
    assert cgroup(tmp_path, "/", {".": limit}) == unlimited
