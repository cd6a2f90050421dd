"""Local datasets on a pretended server: the SDK and the command line."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from offshelf import Client, InvalidDataset, InvalidInput, NotFound
from offshelf.cli import main
from offshelf.v1 import orchestrator_pb2
from tests.integration.fake_datasets import FakeDatasets
from tests.integration.fake_orchestrator import TOKEN, FakeOrchestrator, FakePredictor, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf import UploadProgress


@pytest.fixture
def orchestrator() -> FakeOrchestrator:
    """The pretended orchestrator."""
    return FakeOrchestrator()


@pytest.fixture
def datasets() -> FakeDatasets:
    """The pretended service of datasets."""
    return FakeDatasets()


@pytest.fixture
def address(
    orchestrator: FakeOrchestrator, datasets: FakeDatasets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """Where all are served, which the environment names too; and a working directory with photos in it."""
    for number in range(20):
        path = tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"photo %d" % number)
    with serving(orchestrator, FakePredictor(), datasets) as address:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OFFSHELF_SERVER", address)
        monkeypatch.setenv("OFFSHELF_TOKEN", TOKEN)
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """A client of that server."""
    with Client(address, TOKEN) as client:
        yield client


def test_a_local_folder_is_uploaded_and_run(
    client: Client, orchestrator: FakeOrchestrator, datasets: FakeDatasets, tmp_path: Path
) -> None:
    """`run` of a folder sends its images, makes a dataset of them, and asks for a run of that."""
    seen: list[UploadProgress] = []
    run = client.run("pets", on_upload=seen.append)
    digest = next(iter(datasets.datasets))
    assert orchestrator.requests[0].spec.dataset == f"dataset:{digest}"
    assert sorted(datasets.images.values()) == sorted(b"photo %d" % number for number in range(20))
    assert (seen[-1].images_hashed, seen[-1].images_sent, seen[-1].seconds_left) == (20, 20, 0.0)
    assert run.skipped == ()
    out = run.watch().download(tmp_path / "out")
    assert json.loads((out / "run.json").read_text())["client"]["spec"]["dataset"] == f"dataset:{digest}"
    assert client.get(run.id).status.spec.dataset == f"dataset:{digest}"
    assert main(["fit", "out", "-e", "hog", "-c", "SVM", "--server", client.address]) == 0
    assert orchestrator.requests[-1].spec.dataset == f"dataset:{digest}"


def test_what_the_server_can_read_is_passed_on(client: Client, orchestrator: FakeOrchestrator) -> None:
    """Buckets, paths of the server and uploaded datasets are named to it, and nothing is sent."""
    made = client.upload("pets", name="my pets")
    for name in ("s3://bucket/pets", "server:/data/pets", f"dataset:{made.digest[:8]}", "dataset:my pets"):
        client.run(name)
    asked = [request.spec.dataset for request in orchestrator.requests]
    assert asked == ["s3://bucket/pets", "/data/pets", f"dataset:{made.digest}", f"dataset:{made.digest}"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nowhere", r"does not exist on this machine.*server:/path"),
        ("C:\\photos\\pets", r"does not exist on this machine"),
        ("~nobody-of-this-name/pets", r"does not exist on this machine"),
        ("server:pets", "server:/path"),
        ("pets/cat/0.jpg", "neither a folder nor"),
        ("", "cannot be the path"),
    ],
)
@pytest.mark.usefixtures("address")
def test_a_path_that_is_not_here_is_explained(client: Client, name: str, said: str) -> None:
    """Who names a path of the server as if it were here learns how to write it."""
    with pytest.raises(InvalidDataset, match=said):
        client.run(name)


def test_datasets_are_found_by_what_people_remember(client: Client, tmp_path: Path) -> None:
    """Name, digest and the beginning of a digest find a dataset; what could be two is not guessed."""
    first = client.upload("pets")
    (tmp_path / "pets" / "cat" / "new.jpg").write_bytes(b"new")
    second = client.upload("pets", name="more")
    assert [dataset.digest for dataset in client.datasets()] == [second.digest, first.digest]
    assert client.dataset("more").digest == second.digest
    assert client.dataset(first.digest[:8]).name == "pets"
    for wrong in ("cats", first.digest[:7], "f" * 64, "0" * 8):
        with pytest.raises(NotFound):
            client.dataset(wrong)
    (tmp_path / "pets" / "cat" / "newer.jpg").write_bytes(b"newer")
    client.upload("pets")
    with pytest.raises(InvalidInput, match=f"2 datasets are called 'pets'.*{first.digest[:12]}"):
        client.dataset("pets")


def test_a_busy_server_is_waited_for(client: Client, datasets: FakeDatasets) -> None:
    """An upload that is turned away says why it waits, and goes on by itself."""
    datasets.busy = 1000
    seen: list[UploadProgress] = []

    def note(progress: UploadProgress) -> None:
        seen.append(progress)
        if progress.waiting_for:
            datasets.busy = 0

    assert client.upload("pets", on_progress=note).images == 20
    assert "Too many uploads are going on: try again in a moment." in {progress.waiting_for for progress in seen}
    assert seen[-1].waiting_for == ""


def test_an_image_that_is_refused_twice_is_left_out(client: Client, datasets: FakeDatasets) -> None:
    """One that arrives damaged is sent again; one that always does is reported, and the rest goes on."""
    datasets.refuses = 1
    assert client.upload("pets").skipped == ()
    assert datasets.sent == 21
    datasets.images.clear()
    datasets.refuses = 21
    made = client.upload("pets")
    assert made.images == 19
    assert [image.reason for image in made.skipped] == ["arrived damaged"]


@pytest.mark.usefixtures("address")
def test_the_command_line_tells_of_an_upload(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`offshelf run FOLDER` says what is uploaded and what could not be, then shows the run as ever."""
    (tmp_path / "pets" / "cat" / "link.jpg").symlink_to("nowhere")
    assert main(["run", "pets"]) == 0
    errors = capsys.readouterr().err
    assert "uploading, 20/20 images, 150 B of 150 B" in errors
    assert "Skipped: cat/link.jpg does not exist" in errors
    assert errors.index("Skipped") < errors.index("has started")
    assert main(["run", "pets", "--overwrite"]) == 0
    assert "none of them to upload" in capsys.readouterr().err


@pytest.mark.usefixtures("address")
def test_datasets_can_be_added_listed_and_deleted(
    datasets: FakeDatasets, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` lists for people and programs; `delete` says what goes, asks, and takes no for an answer."""
    assert main(["datasets", "list"]) == 0
    assert "no datasets yet" in capsys.readouterr().err
    assert main(["datasets", "add", "pets", "--name", "my pets"]) == 0
    digest = capsys.readouterr().out.strip().removeprefix("dataset:")
    assert main(["datasets", "list"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith(f"{digest[:12]}  my pets  20      150 B  ")
    assert line.endswith("  ada   cat, dog")
    assert main(["datasets", "list", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["digest"] == digest
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert main(["datasets", "delete", "my pets"]) == 130
    shown = capsys.readouterr()
    assert "1 dataset, 2 images, a part of 1 file of features (3.0 MiB)" in shown.out
    assert shown.err == "Error: nothing was deleted.\n"
    assert datasets.removals == [f"{digest}?"]
    assert main(["datasets", "delete", digest[:8], "--yes"]) == 0
    assert capsys.readouterr().out.startswith("Deleted: 1 dataset")
    assert datasets.removals == [f"{digest}?"] * 2 + [digest]
    assert main(["datasets", "delete", digest]) == 2


@pytest.mark.usefixtures("address")
def test_garbage_is_shown_before_it_is_deleted(datasets: FakeDatasets, capsys: pytest.CaptureFixture[str]) -> None:
    """`gc` alone deletes nothing; with --delete it does; less than a week is refused."""
    assert main(["gc"]) == 0
    assert capsys.readouterr().out == "Would be deleted: 1 file of features (1000 B). --delete does it.\n"
    assert main(["gc", "--days", "30", "--delete"]) == 0
    assert capsys.readouterr().out == "Deleted: 1 file of features (1000 B).\n"
    assert main(["gc", "--days", "3"]) == 2
    assert datasets.removals == ["7 days?", "30 days"]


@pytest.mark.usefixtures("address")
def test_what_is_in_the_way_of_a_run_is_shown(
    orchestrator: FakeOrchestrator, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run that waits says for what, once; `runs` shows the datasets' names, and why a run failed."""
    orchestrator.notices = ["no room in the cluster: add a node."]
    orchestrator.end = orchestrator_pb2.RUN_STATE_FAILED
    assert main(["run", "pets"]) == 1
    assert capsys.readouterr().err.count("Waiting: no room in the cluster: add a node.") == 1
    assert main(["runs"]) == 0
    header, line = capsys.readouterr().out.splitlines()
    assert header.split()[:5] == ["RUN", "STATE", "CREATED", "USER", "DATASET"]
    assert "  ada   pets (dataset:" in line
    assert line.endswith("  The store is full.")


@pytest.mark.usefixtures("address")
def test_ctrl_c_during_an_upload_says_how_to_go_on(datasets: FakeDatasets, tmp_path: Path) -> None:
    """Ctrl-C while images are sent leaves at once, with exit code 130 and without an output."""
    datasets.stuck = True
    process = subprocess.Popen([sys.executable, "-m", "offshelf.cli", "run", "pets"], stderr=subprocess.PIPE, text=True)
    assert datasets.uploading.wait(60)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines()[-1] == (
        "Error: stopped. What was uploaded is kept: the same command goes on from there."
    )
    assert "Traceback" not in errors
    assert not (tmp_path / "offshelf-out").exists()
