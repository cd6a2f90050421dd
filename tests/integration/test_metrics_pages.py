"""The pages that Prometheus reads, after real work, and the table of metrics in docs/architecture.md."""

from __future__ import annotations

import asyncio
import re
import urllib.request
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

from offshelf import Client, certificates
from offshelf.rpc.auth import read_token
from offshelf.rpc.channel import open_channel
from offshelf.v1 import predictor_pb2
from offshelf.v1.predictor_pb2_grpc import PredictorServiceStub
from tests.e2e.installation import write_photo
from tests.integration.datasets_server import TOKEN
from tests.integration.whole_services import EXTRACTOR, orchestrator_of_machine, predictor
from tests.unit.compositions import ROOT

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.v1.predictor_pb2_grpc import PredictorServiceAsyncStub

IMAGES, FOLDS = 12, 2
BROKEN = b"no picture"
FIXED = {"outcome", "reason", "state", "what"}
"""Labels of which the table names all values."""


@dataclass(frozen=True)
class Row:
    """What the table says of a metric."""

    kind: str
    labels: tuple[str, ...]
    values: frozenset[str]


def table() -> dict[str, Row]:
    """Our own metrics, as docs/architecture.md lists them."""
    text = (ROOT / "docs/architecture.md").read_text()
    rows = re.findall(r"^\| `(offshelf_\w+)` \| (\w+)(?:; ([^|]*))? \|([^|]*)\|", text, re.MULTILINE)
    word = re.compile(r"`(\w+)`")
    return {
        name: Row(kind, tuple(word.findall(labels)), frozenset(word.findall(said))) for name, kind, labels, said in rows
    }


class Page:
    """Our own metrics of one service, as Prometheus reads them; each sample has its labels in the table's order."""

    def __init__(self, text: str, rows: dict[str, Row]) -> None:
        self.kinds: dict[str, str] = {}
        self.values: defaultdict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            # Beside each metric the library shows when it began.
            if not family.name.startswith("offshelf_") or family.name.endswith("_created"):
                continue
            name = f"{family.name}_total" if family.type == "counter" else family.name
            self.kinds[name] = family.type
            for sample in family.samples:
                labels = {label: value for label, value in sample.labels.items() if label != "le"}
                assert labels.keys() == set(rows[name].labels), name
                assert {labels[label] for label in FIXED & labels.keys()} <= rows[name].values, name
                if not sample.name.endswith("_bucket"):
                    self.values[sample.name][tuple(labels[label] for label in rows[name].labels)] = sample.value


async def read(address: str) -> Page:
    """Read a page over HTTP."""
    answer = await asyncio.to_thread(lambda: urllib.request.urlopen(f"http://{address}/metrics").read())
    return Page(answer.decode(), table())


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of pictures, and a file that is none."""
    for number in range(IMAGES):
        kind = number % 2
        write_photo(tmp_path / "photos" / ("brick", "sky")[kind] / f"{number}.png", kind, number)
    (tmp_path / "photos" / "sky" / "broken.png").write_bytes(BROKEN)
    return tmp_path / "photos"


def run_twice(address: str, token: str, photos: Path) -> str:
    """Have a run done, and the same once more; gives its model."""
    with Client(address, token) as client:
        first, _ = (client.run(photos, extractors=EXTRACTOR, classifiers="LR", folds=FOLDS).watch() for _ in range(2))
        return first.best.digest


@pytest.mark.timeout(120)
async def test_prometheus_reads_what_was_done(tmp_path: Path, photos: Path) -> None:
    """Two services show the metrics of the table and no others, with what two equal runs and predictions count."""
    async with orchestrator_of_machine(tmp_path) as server:
        token = read_token(tmp_path / "store" / ".embedded" / "token")
        model = await asyncio.to_thread(run_twice, server.address, token, photos)
        runs = await read(server.metrics)
    certs = tmp_path / "certs"
    certificates.issue(certs)
    async with (
        predictor(tmp_path, tls=certs / "predictor") as server,
        open_channel(server.address, token=TOKEN, ca=certs / "predictor" / "ca.crt") as channel,
    ):
        images = [*((photos / "brick" / f"{number}.png").read_bytes() for number in (0, 2)), BROKEN]
        stub: PredictorServiceAsyncStub = PredictorServiceStub(channel)
        for _ in range(2):
            await stub.Predict(predictor_pb2.PredictRequest(model=model, images=images), timeout=60)
        predictions = await read(server.metrics)

    assert runs.kinds | predictions.kinds == {name: row.kind for name, row in table().items()}

    extractor, figures = f"extractor-{EXTRACTOR}", runs.values
    assert figures["offshelf_images_total"] == {
        (EXTRACTOR, "extracted"): IMAGES,
        (EXTRACTOR, "quarantined"): 1,
        (EXTRACTOR, "reused"): IMAGES + 1,
        (EXTRACTOR, "unread"): 0,
    }
    assert figures["offshelf_cache_total"] == {
        (what, outcome): count
        for what, count in (("features", IMAGES + 1), ("scores", FOLDS), ("model", 1))
        for outcome in ("hit", "miss")
    }
    assert figures["offshelf_runs_ended_total"] == {("succeeded",): 2}
    units = figures["offshelf_units_total"]
    assert {outcome for _, outcome in units} == {"done"}
    assert units["trainer", "done"] == FOLDS + 1
    assert units[extractor, "done"] >= 1
    assert units["stats", "done"] >= 1
    assert figures["offshelf_unit_seconds_count"] == {(role,): count for (role, _), count in units.items()}
    assert min(figures["offshelf_unit_seconds_sum"].values()) > 0
    # The trainer is kept for the next run, the extractor's memory is not.
    assert figures["offshelf_replicas_ready"]["trainer",] == 1
    assert figures["offshelf_units_waiting"] == {(role,): 0 for role in (extractor, "trainer", "stats")}
    assert figures["offshelf_rpc_requests_total"]["/offshelf.v1.OrchestratorService/CreateRun", "OK"] == 2
    assert figures["offshelf_rpc_seconds_count"]["/offshelf.v1.OrchestratorService/CreateRun",] == 2

    figures = predictions.values
    assert figures["offshelf_predictions_total"] == {("classified",): 4, ("refused",): 2}
    assert figures["offshelf_model_load_seconds_count"] == {("model",): 1, ("extractor",): 1}
    assert figures["offshelf_rpc_requests_total"]["/offshelf.v1.PredictorService/Predict", "OK"] == 2
    assert figures["offshelf_certificate_expiry_timestamp_seconds"][()] > 1_700_000_000
