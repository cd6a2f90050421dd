"""A network whose weights are elsewhere, from the command to the report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration import weights_server as web
from tests.integration.weights_server import WeightsServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.installation import Installation

FILE = "squeezenet_v1.1_notop.h5"


@pytest.fixture
def mirror() -> Iterator[WeightsServer]:
    """A mirror on the web, with the real weights of SqueezeNet."""
    folder = os.environ.get("OFFSHELF_TEST_MATERIAL")
    if not folder:
        pytest.skip("needs the weights of the test material: OFFSHELF_TEST_MATERIAL is not set")
    with WeightsServer({f"/w/{FILE}": Path(folder, "weights", FILE).read_bytes()}) as server:
        yield server


def extractors(installation: Installation) -> set[str]:
    """Those that were compared in the last run."""
    return {score["extractor"] for score in installation.summary()["scores"]}


def test_weights_are_downloaded_for_who_names_their_network(
    installation: Installation, photos: Path, mirror: WeightsServer
) -> None:
    """A run of everything waits for no download; one that names a network has it, over a line that is cut."""
    environment = {"OFFSHELF_WEIGHTS": mirror.url("/w")}
    options = ("-c", "KNN", "--folds", "3", "-o", "out", "--overwrite")
    shown = installation.offshelf("catalog", environment=environment)
    _, _, downloadable = shown.stdout.partition("whose weights are downloaded for a run that names them")
    assert "  squeezenet " in downloadable.partition("Extractors that cannot be used here")[0]
    assert "LICENCE: OverFeat's weights may be used for your own research" in " ".join(shown.stdout.split())
    shown = installation.offshelf("run", photos, *options, environment=environment)
    assert "squeezenet" not in extractors(installation)
    assert any("`offshelf weights pull squeezenet`" in reason for reason in installation.summary()["left_out"])
    assert mirror.requests == []

    mirror.script += [web.cut(1_000_000), web.status(503)]
    shown = installation.offshelf("run", photos, "-e", "squeezenet,hsv444", *options, environment=environment)
    assert "Waiting: the weights of squeezenet are being downloaded: " in shown.stderr
    assert extractors(installation) == {"squeezenet", "hsv444"}
    assert installation.summary()["left_out"] == []
    assert [headers.get("range") for _, headers in mirror.requests] == [None, "bytes=1000000-", "bytes=1000000-"]
    assert [path.name for path in installation.folder.glob("cache/offshelf/weights/*.h5*")] == [FILE]


def test_weights_that_turn_out_wrong_leave_nothing(
    installation: Installation, photos: Path, mirror: WeightsServer
) -> None:
    """What comes with another digest is not used, not converted and not kept; the rest of the run goes on."""
    mirror.otherwise = web.corrupt
    installation.offshelf(
        *("run", photos, "-e", "squeezenet,hsv444", "-c", "KNN", "--folds", "3", "-o", "out"),
        environment={"OFFSHELF_WEIGHTS": mirror.url("/w")},
    )
    assert extractors(installation) == {"hsv444"}
    (reason,) = installation.summary()["left_out"]
    assert reason.startswith(f"squeezenet needs its weights. {FILE} is not the file it should be (SHA-256")
    assert reason in (installation.folder / "out" / "report.html").read_text()
    assert list(installation.folder.glob("cache/offshelf/weights/*.h5*")) == []
    assert not (installation.folder / "store" / "ir").exists()
