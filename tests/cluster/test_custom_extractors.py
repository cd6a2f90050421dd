"""Extractors with parameters and networks of users' own on a cluster: one Deployment serves them all."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

import pytest

from tests.cluster import photos
from tests.cluster.installation import figures_of, pods_of, run_offshelf

if TYPE_CHECKING:
    from pathlib import Path

    from tests.cluster.installation import Deployed

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900)]

NETWORK = "mobilenet_v1_embedding_uint8.tflite"
DESCRIPTION = {"size": 224, "colour": "RGB", "mean": 0, "scale": 1, "licence": "Apache-2.0"}
CUSTOM = "extractor-custom"


@pytest.fixture(scope="module")
def network(material: Path | None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized network with its description beside it, as a user has it."""
    if material is None:
        pytest.skip("OFFSHELF_TEST_MATERIAL names no folder with photographs and weights")
    file = tmp_path_factory.mktemp("network") / NETWORK
    shutil.copy(material / "weights" / NETWORK, file)
    file.with_name(f"{NETWORK}.json").write_text(json.dumps(DESCRIPTION))
    return file


def test_a_cluster_serves_what_nobody_has_deployed(deployed: Deployed, network: Path, tmp_path: Path) -> None:
    """Bins of one's own and a network of one's own give the same table as on one machine, by the same replicas."""
    few = photos.generate(tmp_path / "few", 60, first=200_000)
    what = ("-e", f"lab:8,4,4,tflite:{network}", "-c", "LR,KNN", "--folds", "3")
    deployed.offshelf("run", few, *what, "-o", tmp_path / "cluster")

    environment = {
        **{name: value for name, value in deployed.client_environment.items() if not name.startswith("OFFSHELF_")},
        "OFFSHELF_STORE": str(tmp_path / "store"),
    }
    alone = run_offshelf(("run", few, *what, "-o", tmp_path / "alone"), environment)
    assert alone.returncode == 0, alone.stderr
    tables = [(tmp_path / where / "table.csv").read_bytes() for where in ("cluster", "alone")]
    assert tables[0] == tables[1]
    assert tables[0].count(b"\n") >= 5

    pods = pods_of(CUSTOM)
    assert pods
    call = 'offshelf_rpc_requests_total{code="OK",method="/offshelf.v1.ExtractorService/ExtractSegment"}'
    assert sum(figures_of(pod).get(call, 0) for pod in pods) >= 2


def test_a_network_that_cannot_be_read_leaves_the_others_alone(deployed: Deployed, tmp_path: Path) -> None:
    """What is wrong with it is said under its name, and what shares its replicas is compared."""
    few = photos.generate(tmp_path / "few", 60, first=300_000)
    (tmp_path / "bad.onnx").write_bytes(b"no network")
    (tmp_path / "bad.onnx.json").write_text(json.dumps(DESCRIPTION))
    what = ("-e", f"hsv:6,3,3,onnx:{tmp_path / 'bad.onnx'}", "-c", "LR", "--folds", "3")
    done = deployed.offshelf("run", few, *what, "-o", tmp_path / "out")
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Left out: onnx:bad@")]
    assert "bad.onnx cannot be read" in line
    scores = json.loads((tmp_path / "out" / "run.json").read_bytes())["scores"]
    assert [score["extractor"] for score in scores] == ["hsv:6,3,3"]
