"""The orchestrator of a cluster as it takes office."""

from __future__ import annotations

import tempfile
from typing import TYPE_CHECKING

import pytest

from offshelf.errors import Unavailable
from offshelf.services.orchestrator.fleet.kubernetes_api import KubernetesApi
from offshelf.services.orchestrator.tenure.cluster import ClusterTenure
from offshelf.settings import Settings
from tests.unit.fake_cluster import NAMESPACE, FakeCluster, pod, ready

if TYPE_CHECKING:
    from pathlib import Path


class Cluster(FakeCluster):
    """One that can be connected to."""

    namespace = NAMESPACE

    async def close(self) -> None:
        """Nothing to close."""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Those of a pod with a temporary directory of its own."""
    cluster = Cluster()
    cluster.put(ready(pod("orchestrator")))
    monkeypatch.setattr(KubernetesApi, "connect", lambda _namespace: cluster)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return Settings(store="s3://shelf", fleet="kubernetes", pod="orchestrator-1", plaintext=True)


async def test_what_a_killed_container_left_is_gone_when_the_next_one_starts(
    tmp_path: Path, settings: Settings
) -> None:
    """The disk of a pod does not fill up with files of runs that no process makes any more."""
    for _ in range(2):
        tenure = await ClusterTenure.begin(settings)
        scratch = tenure.scratch
        await tenure.end()
        assert scratch is not None
        assert scratch.parent == tmp_path
        assert list(scratch.iterdir()) == []
        (scratch / "features-1").mkdir()
        (scratch / "features-1" / "features.parquet").write_bytes(b"half a file")


async def test_a_pod_that_cannot_write_temporary_files_says_so(tmp_path: Path, settings: Settings) -> None:
    """Nor is a folder taken to which somebody else has put a link."""
    (tmp_path / "offshelf-scratch").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="cannot write temporary files"):
        await ClusterTenure.begin(settings)
