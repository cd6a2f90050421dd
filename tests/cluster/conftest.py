"""Fixtures of the tests on a cluster: one installation for all of them."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.cluster import installation

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.installation import Deployed


@pytest.fixture(scope="session")
def cluster() -> None:
    """A cluster that answers. Where there is none, the test is skipped; `make e2e` asks for one, and then it fails."""
    do_without = pytest.fail if os.environ.get("OFFSHELF_TEST_CLUSTER") == "required" else pytest.skip
    if not os.environ.get("KUBECONFIG") or shutil.which("kubectl") is None:
        do_without("no cluster: KUBECONFIG is not set, or kubectl is missing")
    if subprocess.run(["kubectl", "version"], capture_output=True, timeout=30, check=False).returncode:
        do_without("no cluster: the one of KUBECONFIG does not answer")


@pytest.fixture(scope="session")
def material() -> Path | None:
    """Photographs and weights that cannot be given away; None where they are not."""
    folder = os.environ.get("OFFSHELF_TEST_MATERIAL")
    return Path(folder) if folder else None


@pytest.fixture(scope="session")
def deployed(cluster: None, material: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    """Offshelf, deployed from the images in the node (`make e2e` puts them there), and removed at the end."""
    del cluster
    folder = tmp_path_factory.mktemp("installation")
    try:
        yield installation.deploy(folder, material / "weights" if material else None)
    finally:
        if not os.environ.get("KEEP"):
            installation.undeploy()
