from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from offshelf.extraction.registry import find
from offshelf.extraction.saved_model import write_saved_model
from offshelf.extraction.spec import Network, served
from tests.golden.networks import weights_file, with_file
from tests.unit.worker_handlers import ENVIRONMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

NETWORKS = ("squeezenet", "mobilenetv2")
ROOT = Path(__file__).parents[2]


@contextmanager
def model_server(folder: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve the models in a folder by TensorFlow, in a process of its own; gives it and its address."""
    environment = {**os.environ, **ENVIRONMENT, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
    with subprocess.Popen(
        [sys.executable, "-m", "tests.serving.model_server", str(folder), str(port)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            yield process, f"127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export networks with generated weights, as if those were the registered ones."""
    folder = tmp_path_factory.mktemp("models")
    for name in NETWORKS:
        spec = served(find(name))
        data = weights_file(name)
        _, file = with_file(spec, data)
        assert isinstance(spec.method, Network)
        write_saved_model(spec, folder / name / "1", file, data)
    return folder


@pytest.fixture(scope="session")
def address(models: Path) -> Iterator[str]:
    """Serve them for as long as the tests run."""
    with model_server(models) as (_, address):
        yield address
