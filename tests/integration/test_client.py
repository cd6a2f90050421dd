"""The SDK against a pretended server, over real channels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from offshelf import (
    Cancelled,
    Client,
    Combination,
    Conflict,
    DataLoss,
    InvalidInput,
    NotFound,
    Run,
    RunFailed,
    RunState,
    Unauthenticated,
    Unavailable,
    UnknownName,
)
from offshelf.client.gateway import Gateway
from offshelf.client.patience import Pauses
from offshelf.v1 import orchestrator_pb2 as pb
from tests.integration.fake_orchestrator import ARTIFACTS, MODEL, TOKEN, FakeOrchestrator, FakePredictor, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from offshelf import RunStatus


@pytest.fixture
def orchestrator() -> FakeOrchestrator:
    """The pretended orchestrator."""
    return FakeOrchestrator()


@pytest.fixture
def predictor() -> FakePredictor:
    """The pretended predictor."""
    return FakePredictor()


@pytest.fixture
def address(orchestrator: FakeOrchestrator, predictor: FakePredictor) -> Iterator[str]:
    """Where both are served."""
    with serving(orchestrator, predictor) as address:
        yield address


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    """A client of that server."""
    with Client(address, TOKEN) as client:
        yield client


def impatient(client: Client, run: Run) -> Run:
    """Watch a run without pauses between the attempts."""
    return Run(client._gateway, run.status, pauses=Pauses(attempts=3, first=0.0, longest=0.0))


def test_the_main_job_takes_five_lines(client: Client, tmp_path: Path) -> None:
    """A run is started, watched, shown, and its best model predicts."""
    seen: list[RunStatus] = []
    run = client.run("server:/data/pets", extractors=["googlenet", "hog"], classifiers=["SVM", "KNN"])
    assert run.watch(seen.append) is run
    assert [status.state for status in seen] == [RunState.RUNNING, RunState.SUCCEEDED]
    assert seen[0].progress.seconds_left is None
    assert run.table().classifiers == ("SVM", "KNN")
    assert "97.0 (1.2)*" in str(run.table())
    assert run.verdict == "googlenet + SVM is the best."
    assert (run.best.digest, run.best.extractor, run.best.classes) == (MODEL, "googlenet", ("cat", "dog"))
    (tmp_path / "x.jpg").write_bytes(b"jpeg")
    prediction = run.best.predict(tmp_path / "x.jpg")
    assert (prediction.label, prediction.probabilities["dog"], prediction.error) == ("dog", 0.75, "")
    assert prediction.path == str(tmp_path / "x.jpg")


def test_what_is_asked_for_reaches_the_server(client: Client, orchestrator: FakeOrchestrator) -> None:
    """Every option is sent as given; one name may be given without a list."""
    choice = Combination("hog", "SVM")
    client.run("server:/data/pets", extractors="hog", classifiers=["SVM"], measure="f1", folds=5, seed=7, choice=choice)
    spec = orchestrator.requests[0].spec
    assert (list(spec.extractors), list(spec.classifiers), spec.measure) == (["hog"], ["SVM"], "f1")
    assert (spec.dataset, spec.folds, spec.seed, spec.choice.extractor) == ("/data/pets", 5, 7, "hog")
    assert orchestrator.requests[0].request_id


def test_a_run_may_be_told_to_download_nothing(client: Client, orchestrator: FakeOrchestrator) -> None:
    """fetch="never" reaches the server, stays with a run and what is fitted after it; a slip of the pen is told."""
    client.run("server:/data/pets", extractors="hog")
    client.extract("server:/data/pets", "hog", fetch="never")
    run = client.run("server:/data/pets", extractors="hog", fetch="never").watch()
    run.choose("hog", "SVM")
    client.get(run.id).choose("hog", "SVM")
    sent = [request.spec.fetch for request in orchestrator.requests]
    assert sent == [pb.RUN_FETCH_AUTO, *[pb.RUN_FETCH_NEVER] * 4]
    assert client.get(run.id).status.spec.fetch == "never"
    with pytest.raises(InvalidInput, match='fetch is "auto" or "never", not \'nevr\''):
        client.run("server:/data/pets", fetch="nevr")


@pytest.mark.parametrize("wrong", [{"folds": -1}, {"seed": 2**40}])
def test_impossible_numbers_are_told_apart(client: Client, wrong: dict[str, int]) -> None:
    """A number that no server could take is an InvalidInput that names it."""
    with pytest.raises(InvalidInput, match=next(iter(wrong))):
        client.run("server:/data/pets", folds=wrong.get("folds", 5), seed=wrong.get("seed", 0))


def test_a_path_that_is_no_text_is_told(client: Client) -> None:
    """A dataset whose name is not UTF-8 is an InvalidInput, not a defect."""
    with pytest.raises(InvalidInput, match="UTF-8"):
        client.run("server:/data/pets\udcff")


def test_errors_of_the_server_keep_their_class(client: Client, address: str) -> None:
    """An unknown name arrives as UnknownName with the nearest match; a wrong token as Unauthenticated."""
    with pytest.raises(UnknownName, match="googlenet"):
        client.run("server:/data/pets", extractors=["googelnet"])
    with pytest.raises(NotFound, match="01NONE"):
        client.get("01NONE")
    with Client(address, "wrong") as stranger, pytest.raises(Unauthenticated):
        stranger.catalog()


def test_a_server_that_is_not_there_is_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The address from the environment is used, and named when nothing answers."""
    monkeypatch.setenv("OFFSHELF_SERVER", "127.0.0.1:9")
    monkeypatch.setenv("OFFSHELF_TOKEN", TOKEN)
    with Client() as client, pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        client.catalog()
    with Client(address) as client:  # what is given wins over the environment
        assert client.catalog().measures[0].name == "accuracy"


def test_a_server_and_a_store_contradict_each_other(address: str, tmp_path: Path) -> None:
    """Naming both is an error rather than a guess."""
    with pytest.raises(InvalidInput, match="not both"):
        Client(address, TOKEN, store=tmp_path)


def test_the_catalogue_says_why_something_is_missing(client: Client) -> None:
    """Extractors that cannot be used are listed with the reason."""
    googlenet, hog = client.catalog().extractors
    assert (googlenet.available, hog.available, hog.dimension) == (False, True, 13)
    assert "OFFSHELF_WEIGHTS" in googlenet.reason


def test_a_watch_survives_lost_connections(client: Client, orchestrator: FakeOrchestrator) -> None:
    """A server that goes away for a moment does not end the watch."""
    orchestrator.lost_watches = 3
    assert impatient(client, client.run("server:/data/pets")).watch().state is RunState.SUCCEEDED


def test_a_watch_does_not_go_on_for_ever(client: Client) -> None:
    """If the server stays away, the error says how to go on."""
    run = client.run("server:/data/pets")
    with Client("127.0.0.1:9", TOKEN) as nowhere, pytest.raises(Unavailable, match="ask for the same run again"):
        impatient(nowhere, run).watch()


@pytest.mark.parametrize(
    ("end", "error", "said"),
    [
        (pb.RUN_STATE_FAILED, RunFailed, "The store is full"),
        (pb.RUN_STATE_CANCELLED, Cancelled, "stopped"),
        (pb.RUN_STATE_INTERRUPTED, RunFailed, "ask for the same run again"),
    ],
)
def test_a_run_that_ends_badly_raises(
    client: Client, orchestrator: FakeOrchestrator, end: pb.RunState.ValueType, error: type[Exception], said: str
) -> None:
    """Watching raises what became of the run, with the reason; there is no table then."""
    orchestrator.end = end
    run = impatient(client, client.run("server:/data/pets"))
    with pytest.raises(error, match=said):
        run.watch()
    with pytest.raises(Conflict, match="no result"):
        run.table()


def test_a_run_can_be_stopped_while_it_is_watched(client: Client, orchestrator: FakeOrchestrator) -> None:
    """Cancelling ends the updates with the state cancelled."""
    orchestrator.until_cancelled = True
    run = client.run("server:/data/pets")
    states = []
    for status in run.updates():
        states.append(status.state)
        run.cancel()
    assert states == [RunState.RUNNING, RunState.CANCELLED]


def test_leaving_a_watch_leaves_the_run(client: Client) -> None:
    """Breaking out of the updates neither hangs nor hinders the next watch."""
    run = client.run("server:/data/pets")
    for _ in run.updates():
        break
    assert run.watch().state is RunState.SUCCEEDED


def test_runs_are_listed_over_all_pages(client: Client) -> None:
    """All runs come, newest first, and each can be used as if it had just been started."""
    for _ in range(5):
        client.run("server:/data/pets").watch()
    found = list(client.runs())
    assert [run.id for run in found] == [f"01RUN{number}" for number in (4, 3, 2, 1, 0)]
    assert found[0].status.spec.dataset == "server:/data/pets"
    assert client.get("01RUN2").best.digest == MODEL


def test_runs_that_are_missing_are_said(client: Client, orchestrator: FakeOrchestrator) -> None:
    """Whoever reads all runs, or only the first, hears that some are missing and why."""
    for _ in range(2):
        client.run("server:/data/pets").watch()
    orchestrator.trouble = "The store is away."
    told: list[str] = []
    first = next(client.runs(on_trouble=told.append))
    assert (first.id, told) == ("01RUN1", ["Runs that have ended cannot be listed. The store is away."])
    runs = client.runs()
    assert [next(runs).id, next(runs).id] == ["01RUN1", "01RUN0"]
    with pytest.raises(Unavailable, match=r"cannot be listed\. The store is away"):
        next(runs)


def test_an_output_holds_all_artefacts_and_how_to_go_on(client: Client, address: str, tmp_path: Path) -> None:
    """The download has every file byte for byte, and run.json says in addition where it came from."""
    run = client.run("server:/data/pets", extractors=["hog"]).watch()
    out = run.download(tmp_path / "out")
    for name, data in ARTIFACTS.items():
        if name != "run.json":
            assert (out / name).read_bytes() == data
    summary = json.loads((out / "run.json").read_text())
    assert summary["images_extracted"] == 0
    assert summary["client"]["server"] == address
    assert summary["client"]["spec"]["dataset"] == "server:/data/pets"
    assert TOKEN not in (out / "run.json").read_text()
    with pytest.raises(Conflict):
        run.download(out)
    run.download(out, overwrite=True)


@pytest.mark.parametrize("is_old", [False, True])
def test_a_download_that_is_cut_goes_on(
    client: Client, orchestrator: FakeOrchestrator, tmp_path: Path, *, is_old: bool
) -> None:
    """Gigabytes are read on from where they were cut, and a server that cannot do that gives the same bytes."""
    run = client.run("server:/pets").watch()
    large = bytes(range(256)) * (3 << 12) + b"end"
    orchestrator.artifacts = {**orchestrator.artifacts, "scores.parquet": large}
    orchestrator.cuts, orchestrator.is_old = 2, is_old
    run.download(tmp_path / "out")
    assert (tmp_path / "out" / "scores.parquet").read_bytes() == large
    assert orchestrator.cuts == 0
    assert [offset for offset in orchestrator.asked_from if offset] == ([1 << 20] * 2 if is_old else [1 << 20, 2 << 20])


def test_a_download_waits_for_a_busy_server(client: Client, orchestrator: FakeOrchestrator, tmp_path: Path) -> None:
    """A server that has too many downloads at the moment is asked again; the output is whole."""
    run = client.run("server:/data/pets").watch()
    orchestrator.busy = 2
    out = run.download(tmp_path / "out")
    assert (out / "report.html").read_bytes() == ARTIFACTS["report.html"]
    assert not orchestrator.busy


def test_a_server_cannot_write_elsewhere(client: Client, orchestrator: FakeOrchestrator, tmp_path: Path) -> None:
    """An artefact with a path that leads out is refused, and nothing of the output stays."""
    orchestrator.artifacts["../evil"] = b"x"
    run = client.run("server:/data/pets").watch()
    with pytest.raises(DataLoss, match="evil"):
        run.download(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_another_combination_can_be_fitted(client: Client, orchestrator: FakeOrchestrator) -> None:
    """`fit` asks for the same run with a choice, and gives the chosen model."""
    model = client.run("server:/data/pets", extractors=["googlenet"], folds=5).watch().fit("hog", "KNN")
    assert (model.extractor, model.classifier) == ("hog", "KNN")
    spec = orchestrator.requests[-1].spec
    assert (list(spec.extractors), spec.dataset, spec.folds) == (["googlenet", "hog"], "/data/pets", 5)


def test_predictions_keep_the_order_and_errors_stay_single(
    client: Client, predictor: FakePredictor, tmp_path: Path
) -> None:
    """Missing files, folders and broken images each get an error in their place; the rest is classified."""
    (tmp_path / "good.jpg").write_bytes(b"jpeg")
    (tmp_path / "bad.jpg").write_bytes(b"text")
    paths = [tmp_path / name for name in ("missing.jpg", "good.jpg", "bad.jpg", "")]
    model = client.run("server:/data/pets").watch().best
    missing, good, bad, folder = model.predict(paths)
    assert "No such file" in missing.error
    assert good.label == "dog"
    assert (bad.label, bad.error) == ("", "is no image")
    assert "directory" in folder.error
    assert predictor.chunks == [2]
    assert model.predict([]) == []
    assert model.predict(b"jpeg").path is None
    assert model.predict("no\0path").error


def test_many_and_large_images_are_sent_in_messages_that_fit(client: Client, predictor: FakePredictor) -> None:
    """Chunks end at 64 images or 24 MiB, and one image above that is an error of its own."""
    model = client.run("server:/data/pets").watch().best
    assert len(model.predict([b"jpeg"] * 150)) == 150
    assert predictor.chunks == [64, 64, 22]
    predictor.chunks.clear()
    answers = model.predict([bytes(10 << 20)] * 5 + [bytes(25 << 20)])
    assert predictor.chunks == [2, 2, 1]
    assert [bool(answer.error) for answer in answers] == [False] * 5 + [True]


def test_a_predictor_that_was_started_anew_is_found_again(client: Client, predictor: FakePredictor) -> None:
    """If the predictor moves, it is located once more and the images are sent again."""
    model = client.run("server:/data/pets").watch().best
    predictor.unavailable = 4  # all that the channel itself tries
    assert model.predict(b"jpeg").label == "dog"


def test_a_predictor_may_be_named(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """OFFSHELF_PREDICTOR is used instead of asking the server."""
    monkeypatch.setenv("OFFSHELF_PREDICTOR", "127.0.0.1:9")
    with Client(address, TOKEN) as client, pytest.raises(Unavailable, match=r"127\.0\.0\.1:9"):
        client.model(MODEL)


def test_a_model_is_used_by_its_digest_and_saved(client: Client, tmp_path: Path) -> None:
    """A digest is enough to predict and to get the model's files, if a run of the server made it."""
    model = client.model(MODEL)
    assert model.predict(b"jpeg").label == "dog"
    with pytest.raises(NotFound, match="No run"):
        model.save(tmp_path / "model")
    client.run("server:/data/pets").watch()
    saved = model.save(tmp_path / "model")
    assert (saved / "model.skops").read_bytes() == ARTIFACTS["model/model.skops"]


def test_a_model_folder_needs_a_server_that_has_the_model(client: Client, tmp_path: Path) -> None:
    """With a server, a folder only names the model; if the server does not have it, the error says what to do."""
    digest = "b" * 64
    empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    (tmp_path / "model.skops").touch()
    (tmp_path / "model.json").write_text(json.dumps({"digest": digest, "estimator_sha256": empty}))
    with pytest.raises(NotFound, match="without --server"):
        client.model(tmp_path)
    (tmp_path / "model.json").write_text(json.dumps({"digest": MODEL, "estimator_sha256": empty}))
    model = client.model(tmp_path)
    assert model.predict(b"jpeg").label == "dog"
    assert (model.save(tmp_path / "copy") / "model.skops").read_bytes() == b""


def test_the_token_is_not_shown(address: str) -> None:
    """Neither a client nor what it stands on shows the token when it is printed."""
    gateway = Gateway(address, token=TOKEN, ca=None)
    assert TOKEN not in repr(gateway)
    gateway.close()
