"""The command line against a pretended server."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from offshelf.cli import main
from offshelf.v1 import orchestrator_pb2 as pb
from tests.integration.fake_orchestrator import MODEL, TOKEN, FakeOrchestrator, FakePredictor, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def orchestrator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeOrchestrator]:
    """A pretended server that the environment names, and an empty working directory."""
    fake = FakeOrchestrator()
    with serving(fake, FakePredictor()) as address:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("OFFSHELF_SERVER", address)
        monkeypatch.setenv("OFFSHELF_TOKEN", TOKEN)
        yield fake


@pytest.mark.usefixtures("orchestrator")
def test_run_shows_the_table_and_writes_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The result goes to standard output, the progress and what was left out to standard error."""
    assert main(["run", "server:/data/pets"]) == 0
    shown = capsys.readouterr()
    lines = shown.out.splitlines()
    assert lines[0] == "accuracy in %, mean (standard deviation) over 10 folds"
    assert lines[2].split() == ["googlenet", "96.0", "(1.2)~", "97.0", "(1.2)*"]
    assert "googlenet + SVM is the best." in lines
    assert "2 images cannot be used: skipped.csv says which and why." in lines
    assert "Nothing to compute: all 1800 feature vectors and all 180 fold scores were found." in lines
    assert shown.err.count("Left out: googlenet: no weights.") == 1
    assert (tmp_path / "offshelf-out" / "model" / "model.skops").exists()
    assert TOKEN not in shown.out + shown.err


def test_a_refused_run_says_why_in_one_line(
    orchestrator: FakeOrchestrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A misspelt name costs one line with the nearest match and exit code 2, and leaves no output."""
    assert main(["run", "server:/data/pets", "-e", "hgo"]) == 2
    assert capsys.readouterr().err == "Error: There is no extractor 'hgo'. Did you mean 'hog'? Known: googlenet, hog.\n"
    assert list(tmp_path.iterdir()) == []
    assert not orchestrator.runs


def test_a_run_that_fails_says_why(
    orchestrator: FakeOrchestrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The reason is the last line, the exit code 1, and no output is left."""
    orchestrator.end = pb.RUN_STATE_FAILED
    assert main(["run", "server:/data/pets"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "Error: The run failed: The store is full."
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("orchestrator")
def test_an_output_inside_the_dataset_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An output that would become a class is refused; an empty name of a dataset is not taken for this folder."""
    (tmp_path / "pets").mkdir()
    assert main(["run", "pets", "-o", "pets/out"]) == 2
    assert "lies in the dataset" in capsys.readouterr().err
    main(["run", "", "-o", "out"])
    assert "lies in the dataset" not in capsys.readouterr().err


@pytest.mark.usefixtures("orchestrator")
def test_predict_prints_a_json_object_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Programs get one object for each image in order; one error makes the exit code 1."""
    (tmp_path / "a.jpg").write_bytes(b"jpeg")
    assert main(["predict", MODEL, "a.jpg", "--json"]) == 0
    capsys.readouterr()
    assert main(["predict", MODEL, "none.jpg", "a.jpg", "--json"]) == 1
    missing, found = map(json.loads, capsys.readouterr().out.splitlines())
    assert missing == {"path": "none.jpg", "error": "cannot be read: No such file or directory"}
    assert found == {"path": "a.jpg", "label": "dog", "probabilities": {"cat": 0.25, "dog": 0.75}}
    assert main(["predict", "nomodel", "a.jpg"]) == 2


def test_fit_tells_how_far_behind_the_choice_is(
    orchestrator: FakeOrchestrator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`fit` goes on from an output's own specification and puts the model beside the best one."""
    main(["run", "server:/data/pets", "-c", "SVM,KNN", "--folds", "5", "-o", "out", "--fetch", "never"])
    capsys.readouterr()
    assert main(["fit", "out", "-e", "hog", "-c", "SVM"]) == 0
    shown = capsys.readouterr().out
    assert "hog + SVM is 27.0 points behind the best, googlenet + SVM" in shown
    assert (tmp_path / "out" / "model-hog-SVM" / "model.skops").exists()
    assert orchestrator.requests[-1].spec.dataset == "/data/pets"
    assert orchestrator.requests[-1].spec.folds == 5
    assert [request.spec.fetch for request in orchestrator.requests] == [pb.RUN_FETCH_NEVER] * 2
    assert main(["fit", "out", "-e", "hog", "-c", "SVM"]) == 2
    assert main(["run", "server:/data/pets", "-o", "out", "--overwrite"]) == 0


@pytest.mark.parametrize("command", ["run", "extract"])
def test_a_command_may_be_told_to_download_nothing(orchestrator: FakeOrchestrator, command: str) -> None:
    """--fetch never reaches the server with a run that names extractors; without it, the server decides."""
    for arguments in ([], ["--fetch", "never"]):
        main([command, "server:/data/pets", "-e", "hog", "-o", "out", "--overwrite", *arguments])
    assert [request.spec.fetch for request in orchestrator.requests] == [pb.RUN_FETCH_AUTO, pb.RUN_FETCH_NEVER]


@pytest.mark.usefixtures("orchestrator")
def test_fit_never_sends_a_token_where_a_folder_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An output from a server is gone on with only when its user names the server."""
    main(["run", "server:/data/pets", "-o", "out"])
    monkeypatch.delenv("OFFSHELF_SERVER")
    capsys.readouterr()
    assert main(["fit", "out", "-e", "hog", "-c", "SVM"]) == 2
    assert "name it with --server" in capsys.readouterr().err


@pytest.mark.usefixtures("orchestrator")
def test_runs_can_be_listed_watched_and_cancelled(capsys: pytest.CaptureFixture[str]) -> None:
    """`runs` lists, `watch` shows the table of a run, `cancel` refuses one that has ended."""
    assert main(["runs"]) == 0
    assert "no runs yet" in capsys.readouterr().err
    main(["run", "server:/data/pets"])
    capsys.readouterr()
    assert main(["runs"]) == 0
    line = capsys.readouterr().out.splitlines()[1]
    assert line.startswith("01RUN0  succeeded")
    assert line.split()[4:6] == ["ada", "server:/data/pets"]
    assert line.endswith("  googlenet + SVM 97.0 % accuracy")
    assert main(["watch", "01RUN0"]) == 0
    assert "googlenet + SVM is the best." in capsys.readouterr().out
    assert main(["cancel", "01RUN0"]) == 2
    assert "succeeded already" in capsys.readouterr().err


@pytest.mark.usefixtures("orchestrator")
def test_the_catalogue_is_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    """Both forms say what is not available and why."""
    assert main(["catalog"]) == 0
    assert "NOT AVAILABLE: no weights: set" in " ".join(capsys.readouterr().out.split())
    assert main(["catalog", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["extractors"][0]["available"] is False


def start_run() -> subprocess.Popen[str]:
    """Start `offshelf run` in a process of its own and return when it watches its run."""
    process = subprocess.Popen(
        [sys.executable, "-m", "offshelf.cli", "run", "server:/data/pets"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert "has started" in process.stderr.readline()
    while "extracting" not in process.stderr.readline():
        pass
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_stops_the_run_and_says_how_to_go_on(
    orchestrator: FakeOrchestrator, tmp_path: Path, number: signal.Signals
) -> None:
    """Ctrl-C, and SIGTERM just so, asks the run to stop, waits until it has, and exits with 130."""
    orchestrator.until_cancelled = True
    process = start_run()
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert orchestrator.cancelled.is_set()
    assert errors.splitlines()[-1].endswith("the same command goes on from there.")
    assert "Traceback" not in errors
    assert list(tmp_path.iterdir()) == []


def test_a_second_ctrl_c_leaves_at_once(orchestrator: FakeOrchestrator) -> None:
    """If the run does not stop, Ctrl-C again leaves it alone."""
    orchestrator.until_cancelled = orchestrator.stubborn = True
    process = start_run()
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "leaves at once" not in process.stderr.readline():
        pass
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not orchestrator.cancelled.is_set()
