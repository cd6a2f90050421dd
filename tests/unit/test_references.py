from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from offshelf.services.orchestrator.holdings.references import Removal, read_references
from offshelf.services.orchestrator.runs import runlog
from offshelf.store import keys
from tests.unit.workshop import AgedStore, Workshop, dataset_of, fingerprint

if TYPE_CHECKING:
    from offshelf.datasets import Dataset

PETS = dataset_of("pets", range(12))


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    """What a finished run leaves in a store."""
    workshop = Workshop(AgedStore())
    workshop.upload(PETS)
    workshop.run("R1", PETS)
    assert isinstance(workshop.store, AgedStore)
    return workshop.store.objects


def digest_in(objects: dict[str, bytes], prefix: str) -> str:
    """Digest of the first artefact below a prefix."""
    return next(key for key in sorted(objects) if key.startswith(prefix)).split("/")[1].removesuffix(".json")


def test_every_artefact_leads_to_its_dataset(made: dict[str, bytes]) -> None:
    """Whoever looks at a table, scores, a model, a comparison or a report can tell whose images it was made of."""
    found = read_references(AgedStore(made))
    assert found.datasets == {PETS.digest}
    assert {table.dataset for table in found.tables.values()} == {PETS.digest}
    assert len(found.tables) == len(found.scores) == 2
    for _, artefacts in found.artefacts():
        assert artefacts
        assert {artefact.dataset for artefact in artefacts.values()} == {PETS.digest}
    [comparison] = found.comparisons.values()
    assert comparison.origin.made_from == found.scores.keys()
    [report] = found.reports.values()
    assert report.origin.made_from == {comparison.digest}
    [model] = found.models.values()
    assert model.origin.made_from < {table.digest for table in found.tables.values()}
    assert model.origin.fingerprint in {fingerprint("hog"), fingerprint("lab888")}
    [run] = found.runs.values()
    assert (run.ended, run.dataset, run.comparison) == (True, PETS.digest, comparison.digest)
    assert (run.model, run.reports) == (model.digest, frozenset({report.digest}))


def test_halves_say_whose_they_are(made: dict[str, bytes]) -> None:
    """Folds without a manifest, an estimator without a card and a report without its pages are not anonymous."""
    store = AgedStore(made)
    for key in list(store.objects):
        if key.endswith(("scores.json", "model.json", "report.html")) or key.startswith(keys.RUNS):
            store.delete(key)
    found = read_references(store)
    for _, artefacts in found.artefacts():
        assert {artefact.dataset for artefact in artefacts.values()} == {PETS.digest}
    assert not any(model.has_manifest for model in found.models.values())
    assert not any(scores.has_manifest for scores in found.scores.values())


def test_damage_is_named_in_the_log_and_costs_nothing_else(
    made: dict[str, bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """One damaged manifest keeps nobody from seeing the rest, and the log says which it is."""
    store = AgedStore(made)
    table = next(key for key in made if "/tables/" in key)
    damaged = [table, keys.comparison(digest_in(made, keys.COMPARISONS)), keys.scores(digest_in(made, keys.SCORES))]
    for key in damaged:
        store.objects[key] = b"\xff rubbish"
    with caplog.at_level(logging.WARNING):
        found = read_references(store)
    assert {vars(record)["key"] for record in caplog.records} == set(damaged)
    assert found.damaged_tables == {table}
    assert len(found.tables) == 1
    # The damaged ones are known by what leads to them or by what is left of them.
    assert {each.dataset for each in found.comparisons.values()} == {PETS.digest}
    assert {each.dataset for each in found.scores.values()} == {PETS.digest}


def test_report_without_origin_is_known_by_its_run(made: dict[str, bytes]) -> None:
    """A report whose origin was lost still belongs to the dataset of the run that shows it."""
    store = AgedStore(made)
    store.delete(keys.report(digest_in(made, keys.REPORTS), "report.json"))
    [report] = read_references(store).reports.values()
    assert report.dataset == PETS.digest


def unfinished(objects: dict[str, bytes], run_id: str = "R2", dataset: Dataset = PETS) -> AgedStore:
    """A store in which a run has begun."""
    store = AgedStore(objects)
    Workshop(store).begin(run_id, dataset)
    return store


def test_unfinished_run_is_seen(made: dict[str, bytes]) -> None:
    """A run that has not ended is known with its dataset and its extractors."""
    run = read_references(unfinished(made)).runs["R2"]
    assert (run.ended, run.readable, run.dataset, run.extractors) == (False, True, PETS.digest, ("hog", "lab888"))


def test_run_over_an_uploaded_dataset_uses_it_from_its_beginning(made: dict[str, bytes]) -> None:
    """A run that has not looked at its images yet, and begins with a dataset of the store, is known to use that."""
    store = AgedStore(made)
    spec = {"source": f"store:{PETS.digest}", "extractors": ["hog"]}
    Workshop(store).log.create("R2", spec)
    assert read_references(store).runs["R2"].dataset == PETS.digest


def test_damaged_history_counts_as_unfinished(made: dict[str, bytes]) -> None:
    """A run whose events cannot be read may be going on; its dataset is still known by what it left."""
    store = AgedStore(made)
    last = max(key for key in made if key.startswith(keys.run_events("R1")))
    store.objects[last] = b"{"
    run = read_references(store).runs["R1"]
    assert (run.ended, run.readable, run.dataset) == (False, False, PETS.digest)


def test_late_words_of_an_older_server_are_not_believed(made: dict[str, bytes]) -> None:
    """What a server wrote that had lost the store leads nowhere, as everywhere else."""
    store = unfinished(made)
    history = Workshop(store, epoch=2).log.replay("R2")
    Workshop(store, epoch=2).log.append(history, runlog.TAKEN_OVER)
    old = Workshop(store).log.replay("R2")
    old.events.pop()
    Workshop(store).log.append(old, runlog.CANCELLED)
    assert not read_references(store).runs["R2"].ended


def test_run_without_events_is_no_run(made: dict[str, bytes]) -> None:
    """A run whose creator died at once needs nothing."""
    store = AgedStore(made)
    store.put(keys.run_spec("R9"), b"{}")
    assert "R9" not in read_references(store).runs


def test_removals_add_up() -> None:
    """Two removals together are what both removed."""
    assert Removal(images=1, bytes=10) + Removal(images=2, models=1) == Removal(images=3, models=1, bytes=10)
