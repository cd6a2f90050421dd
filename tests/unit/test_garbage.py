from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offshelf import datasets, features, scores
from offshelf.errors import InvalidInput, OffshelfError, StoreUnavailable
from offshelf.extraction.spec import fingerprint as spec_fingerprint
from offshelf.services.orchestrator.holdings.deletion import delete_dataset
from offshelf.services.orchestrator.holdings.garbage import collect_garbage
from offshelf.services.orchestrator.holdings.references import Removal, read_references
from offshelf.services.orchestrator.runs import runlog
from offshelf.store import keys
from offshelf.store.objects import ObjectInfo
from tests.unit.own_networks import put_network
from tests.unit.workshop import DAY, AgedStore, Workshop, content, dataset_of, fingerprint, image, load

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from offshelf.datasets import Dataset

PETS = dataset_of("pets", range(8))
BIRDS = dataset_of("birds", range(4, 12))
LOST = dataset_of("lost", range(20, 26))
"""Has no manifest and no run any more."""
RUNS = {"PETS": PETS, "BIRDS": BIRDS}
UNKNOWN = "0" * 64
KEPT_FOR_EVER = (keys.RUNS, keys.HISTORY, keys.EPOCHS, keys.AUDIT, keys.DATASETS, keys.FORMAT)


@pytest.fixture(scope="module")
def made() -> dict[str, bytes]:
    """A store with two finished runs and one of everything that nobody needs."""
    store = AgedStore()
    workshop = Workshop(store)
    for run_id, dataset in RUNS.items():
        workshop.upload(dataset)
        workshop.run(run_id, dataset)
    needed = dict(store.objects)
    workshop.run("LOST", LOST)
    store.put(keys.image(image(99)), content(99))
    workshop.extract(PETS, "haralick", units=1)
    table = workshop.extract(PETS, "hsv444")
    assert table is not None
    workshop.score(PETS, table, folds=1)
    for key in list(store.objects):
        if key.startswith((keys.dataset(LOST.digest).removesuffix(".json"), keys.RUNS + "LOST", keys.HISTORY + "LOST")):
            store.delete(key)
    [model] = [each.digest for each in read_references(store).models.values() if each.dataset == LOST.digest]
    store.delete(keys.model_card(model))
    store.put(keys.network(UNKNOWN, 1, "network.bin"), b"of an extractor that is gone")
    store.put(keys.network(fingerprint("googlenet"), 1, "network.bin"), b"of one that is here")
    store.put(keys.FORMAT, b'{"store_version":1}')
    store.put(f"{keys.AUDIT}2026-01-02/1.jsonl", b"{}")
    store.put("notes/README.txt", b"somebody else's")
    assert needed.items() <= store.objects.items()
    return store.objects


@pytest.fixture
def store(made: dict[str, bytes]) -> AgedStore:
    """A store of one's own with all that, eight days old."""
    store = AgedStore(made)
    store.age(8)
    return store


def collect(store: AgedStore, *, days: int = 0, in_use: frozenset[str] = frozenset()) -> Removal:
    """Collect garbage, after having asked what would go."""
    before = dict(store.objects)
    promised = collect_garbage(store, days=days, dry_run=True, in_use=in_use)
    assert store.objects == before
    removal = collect_garbage(store, days=days, dry_run=False, in_use=in_use)
    assert removal == promised
    return removal


def test_what_nobody_needs_goes(store: AgedStore, made: dict[str, bytes]) -> None:
    """What no dataset, run or model leads to is removed, and counted, kind by kind."""
    removal = collect(store)
    gone = made.keys() - store.objects.keys()
    assert removal.bytes == sum(len(made[key]) for key in gone)
    found = read_references(AgedStore({key: made[key] for key in gone}))
    assert replace(removal, bytes=0) == Removal(
        images=1,
        segments=len(found.segments()),
        tables=2,
        scores=2,
        reports=1,
        others=1 + 1 + 1 + 1,  # a comparison, half a model, a fold without the others, a network
    )
    assert keys.image(image(99)) in gone
    assert keys.network(UNKNOWN, 1, "network.bin") in gone
    assert not [key for key in gone if key.startswith(KEPT_FOR_EVER)]


def test_old_requests_go(store: AgedStore) -> None:
    """What was kept for clients that repeat a request goes after a week, and the runs that they made stay."""
    collect(store)
    log = Workshop(store).log
    log.remember_request("a" * 64, "PETS")
    store.put(f"{keys.REQUESTS}README", b"somebody else's")
    store.age(8)
    log.remember_request("b" * 64, "BIRDS")
    before = set(store.objects)
    assert collect(store).others == 1
    assert before - store.objects.keys() == {keys.request("a" * 64)}
    assert log.requested("b" * 64) == "BIRDS"


def test_files_of_features_go_though_their_dataset_stays(store: AgedStore) -> None:
    """What users asked for in a file is a copy, which does not fill the store for ever; one in use stays."""
    collect(store)
    workshop = Workshop(store, epoch=2)
    pets, birds = (workshop.export(dataset, "hog", "lab888") for dataset in RUNS.values())
    assert collect(store).others == 0
    store.age(8)
    assert collect(store, in_use=frozenset({RUNS["PETS"].digest})).others == 1
    assert pets in store.objects
    assert birds not in store.objects
    content = store.objects[pets]
    assert collect(store).others == 1
    assert workshop.export(RUNS["PETS"], "hog", "lab888") == pets
    assert store.objects[pets] == content


def test_what_is_needed_stays(store: AgedStore) -> None:
    """Afterwards every dataset, run and model works as before, and so does what is not ours."""
    artifacts = {run_id: artifacts_of(store, run_id) for run_id in RUNS}
    loaded = {(name, run_id): load(store, RUNS[run_id], name) for name in ("hog", "lab888") for run_id in RUNS}
    collect(store)
    for run_id, dataset in RUNS.items():
        assert artifacts[run_id] == artifacts_of(store, run_id)
        assert all(keys.image(item.digest) in store.objects for item in dataset.items)
        for name in ("hog", "lab888"):
            assert load(store, dataset, name).X.tobytes() == loaded[name, run_id].X.tobytes()
    assert keys.network(fingerprint("googlenet"), 1, "network.bin") in store.objects
    assert "notes/README.txt" in store.objects


def artifacts_of(store: AgedStore, run_id: str) -> dict[str, bytes]:
    """What a user can still read of a finished run."""
    [ending] = [event for event in Workshop(store).log.replay(run_id).events if event.kind == runlog.SUCCEEDED]
    return {key: store.objects[key] for key in ending.data["result"]["artifacts"].values() if key in store.objects}


def test_nothing_is_left_for_the_next_time(store: AgedStore) -> None:
    """What has been collected once has been collected."""
    collect(store)
    assert collect(store) == Removal()


@pytest.mark.parametrize("days", [1, 6, -1])
def test_nothing_younger_than_a_week_can_be_asked_for(store: AgedStore, days: int) -> None:
    """Fewer than seven days are refused, since an upload or a run may still need it."""
    with pytest.raises(InvalidInput, match="7 days"):
        collect_garbage(store, days=days, dry_run=True, in_use=frozenset())


def test_age_counts(made: dict[str, bytes]) -> None:
    """Nothing younger than asked for goes, and what is made of several objects is as young as the youngest."""
    store = AgedStore(made)
    for age, days in ((6.9, 0), (9.0, 10)):
        store.age(age)
        assert collect(store, days=days) == Removal()
    store.age(11)
    fold = next(key for key in made if key.startswith(keys.SCORES) and leads_nowhere(store, key))
    store.modified[fold] = time.time() - 2 * DAY
    collect(store, days=10)
    together = {key for key in made if key.startswith(fold.rpartition("/")[0])}
    assert together <= store.objects.keys()


def leads_nowhere(store: AgedStore, key: str) -> bool:
    """Tell whether a scores' object is of the dataset that nobody knows any more."""
    return read_references(store).scores[key.split("/")[1]].dataset == LOST.digest


def test_what_is_written_anew_meanwhile_stays(made: dict[str, bytes]) -> None:
    """An object that somebody writes again while garbage is being collected is theirs."""

    class Busy(AgedStore):
        def list(self, prefix: str) -> Iterator[ObjectInfo]:
            for info in super().list(prefix):
                yield ObjectInfo(info.key, info.size, 0.0)

    store = Busy(made)
    assert collect_garbage(store, days=7, dry_run=False, in_use=frozenset()) == Removal()
    assert store.objects == made


def begin_again(store: AgedStore, dataset: Dataset) -> None:
    """Begin a run three weeks ago that has not ended."""
    Workshop(store).begin("NEW", dataset, extractors=("hog", "haralick", "hsv444"))
    store.age(21)


def test_unfinished_run_keeps_what_it_has_done(store: AgedStore) -> None:
    """A run that is taken up after weeks finds the units and folds that it had finished."""
    begin_again(store, PETS)
    before = dict(store.objects)
    collect(store)
    gone = before.keys() - store.objects.keys()
    assert not [key for key in gone if fingerprint("haralick") in key or fingerprint("hsv444") in key]
    incomplete = [each for each in read_references(store).scores.values() if not each.has_manifest]
    assert [each.dataset for each in incomplete] == [PETS.digest]
    history = Workshop(store).log.replay("NEW")
    Workshop(store).log.append(history, runlog.CANCELLED)
    store.age(8)
    assert collect(store).others == 1


def test_dataset_in_use_keeps_what_was_done(store: AgedStore) -> None:
    """Whoever knows of a run that the store does not tell of keeps its work in the same way."""
    before = dict(store.objects)
    collect(store, in_use=frozenset({PETS.digest}))
    assert not [key for key in before.keys() - store.objects.keys() if "/segments/" in key]
    assert any(not each.has_manifest for each in read_references(store).scores.values())


def test_run_of_which_nothing_is_known_keeps_everything_it_may_need(store: AgedStore) -> None:
    """While the history of a run cannot be read, what it may lead to stays."""
    last = max(key for key in store.objects if key.startswith(keys.run_events("PETS")))
    store.objects[last] = b"{"
    before = dict(store.objects)
    removal = collect(store)
    assert (removal.segments, removal.scores, removal.reports) == (0, 0, 0)
    assert not [key for key in before.keys() - store.objects.keys() if key.startswith(keys.COMPARISONS)]


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        (lambda key: key == keys.dataset(PETS.digest), keys.IMAGES),
        (lambda key: "/tables/" in key and fingerprint("hog") in key, keys.segments(fingerprint("hog"))),
        (lambda key: key.endswith("model.json"), keys.NETWORKS),
        (lambda key: key.startswith(keys.COMPARISONS), keys.COMPARISONS),
        (lambda key: key.startswith(keys.SCORES), keys.SCORES),
    ],
)
def test_damage_keeps_what_it_may_need(store: AgedStore, damage: Callable[[str], bool], kept: str) -> None:
    """What cannot be read and might need something keeps all of it."""
    for key in filter(damage, store.objects):
        store.objects[key] = b"\xff"
    before = {key for key in store.objects if key.startswith(kept)}
    if kept == keys.SCORES:  # whose these are is known by the comparison that names them
        before = {key for key in before if not leads_nowhere(store, key)}
    collect(store)
    assert before <= store.objects.keys()


def test_models_keep_what_they_were_made_of(store: AgedStore) -> None:
    """A model whose dataset nobody has any more keeps its table, its features and its network."""
    workshop = Workshop(store)
    table = workshop.extract(dataset_of("imported", range(30, 36)), "hog")
    assert table is not None
    imported = dataset_of("imported", range(30, 36))
    workshop.fit(imported, "hog", table)
    store.age(30)
    collect(store)
    assert features.load_features(store, features.read_table(store, table.fingerprint, table.digest), imported).items


def test_cut_off_deletion_is_finished(made: dict[str, bytes]) -> None:
    """A deletion that was cut off a week ago, and that nobody has repeated, ends as if it had not been."""
    whole = AgedStore(made)
    whole.age(8)
    delete_dataset(whole, PETS.digest, dry_run=False, in_use=frozenset())
    end = whole.calls
    whole.age(8)
    collect_garbage(whole, days=0, dry_run=False, in_use=frozenset())
    for calls in range(end - 40, end, 3):
        store = AgedStore(made, calls=calls)
        with pytest.raises(StoreUnavailable):
            delete_dataset(store, PETS.digest, dry_run=False, in_use=frozenset())
        store = AgedStore(store.objects)
        store.age(6)
        assert collect_garbage(store, days=7, dry_run=True, in_use=frozenset()) == Removal()
        store.age(8)
        removal = collect(store)
        assert keys.deletion(PETS.digest) not in store.objects
        assert removal != Removal()
        store.age(8)
        collect(store)
        assert store.objects == whole.objects


def test_deletion_of_what_is_there_again_is_not_finished(made: dict[str, bytes]) -> None:
    """A dataset that was uploaded again after its deletion was cut off stays."""
    store = AgedStore(made)
    store.put(keys.deletion(PETS.digest), b'{"dataset": "", "images": [], "version": 1}')
    store.age(30)
    collect(store)
    assert datasets.read_dataset(store, PETS.digest) == PETS
    assert load(store, PETS, "hog").items


def test_cut_off_collection_goes_on_the_next_time(made: dict[str, bytes]) -> None:
    """Wherever a collection stops, nothing that is needed has gone, and the next one gets the rest."""
    whole = AgedStore(made)
    whole.age(8)
    collect_garbage(whole, days=0, dry_run=False, in_use=frozenset())
    for calls in range(0, whole.calls, 5):
        store = AgedStore(made, calls=calls)
        store.age(8)
        with pytest.raises(StoreUnavailable):
            collect_garbage(store, days=0, dry_run=False, in_use=frozenset())
        assert whole.objects.items() <= store.objects.items()
        store = AgedStore(store.objects)
        store.age(8)
        collect_garbage(store, days=0, dry_run=False, in_use=frozenset())
        assert store.objects == whole.objects


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_nothing_reachable_is_ever_removed(made: dict[str, bytes], data: st.DataObject) -> None:
    """Whatever is missing, damaged or young: what a dataset, a run or a model leads to is there afterwards."""
    names = st.sampled_from(sorted(made))
    store = AgedStore(made)
    for key in data.draw(st.sets(names, max_size=6), "missing"):
        del store.objects[key]
    damage = data.draw(st.sampled_from([b"", b"{}", b"\xff", b"[1]", b"PK", b"PAR1"]), "damage")
    for key in data.draw(st.sets(names, max_size=4), "damaged") & store.objects.keys():
        store.objects[key] = damage
    store.age(8)
    young = data.draw(st.sets(names, max_size=6), "young") & store.objects.keys()
    store.modified.update(dict.fromkeys(young, time.time() - 6 * DAY))
    busy = data.draw(st.sampled_from([(), (PETS,), (BIRDS,), (PETS, BIRDS)]), "in use")
    before = AgedStore(store.objects)

    collect(store, in_use=frozenset(dataset.digest for dataset in busy))

    gone = before.objects.keys() - store.objects.keys()
    assert not gone & young
    assert not [key for key in gone if key.startswith(KEPT_FOR_EVER)]
    for key in gone:
        assert not any(reaches(before, dataset, key) for dataset in RUNS.values()), key
    for dataset in busy:
        for digest, artefact in read_references(before).scores.items():
            if artefact.dataset == dataset.digest:
                assert not gone & {info.key for info in artefact.objects}, digest
    for name in ("hog", "lab888") if busy else ():
        assert not [key for key in gone if key.startswith(keys.segments(fingerprint(name)))]
    for run_id in RUNS:
        assert not gone & set(shown_by(before, run_id))
    for key in gone:
        assert not (key.startswith(keys.MODELS) and keys.model_card(key.split("/")[1]) in before.objects)


def shown_by(store: AgedStore, run_id: str) -> list[str]:
    """Keys of what a run shows, if its history can be read."""
    try:
        ending = Workshop(store).log.replay(run_id).last
    except (OffshelfError, IndexError):
        return []
    return list(ending.data["result"]["artifacts"].values()) if ending.kind == runlog.SUCCEEDED else []


def reaches(store: AgedStore, dataset: Dataset, key: str) -> bool:
    """Tell, by the product's own ways of reading, whether a dataset that is there leads to an object."""
    if not {keys.dataset(dataset.digest), keys.dataset_card(dataset.digest)} & store.objects.keys():
        return False
    if key.startswith(keys.IMAGES):
        return key in {keys.image(item.digest) for item in dataset.items}
    if key.startswith(keys.FEATURES):
        for name in ("hog", "lab888", "hsv444"):
            for info in store.list(keys.tables(fingerprint(name))):
                try:
                    table = features.read_table(
                        store, fingerprint(name), info.key.rpartition("/")[2].removesuffix(".json")
                    )
                except OffshelfError:
                    continue
                if table.dataset == dataset.digest and key in {info.key, *table.segments}:
                    return True
    if key.startswith(keys.SCORES):
        digest = key.split("/")[1]
        try:
            return scores.read_manifest(store, digest).dataset == dataset.digest
        except OffshelfError:
            return False
    return False


def of_networks(store: AgedStore) -> set[str]:
    """List what the store has of networks that users brought."""
    return {key for key in store.objects if key.startswith(keys.OWN_NETWORKS)}


def test_a_network_that_nobody_used_goes(store: AgedStore) -> None:
    """A week after it was brought; so does a file whose upload did not come to its end."""
    own = put_network(store)
    store.put(keys.own_network_file(UNKNOWN, "onnx"), b"half a netw")
    assert (collect(store).others, len(of_networks(store))) == (4, 3)  # what the store holds besides
    store.age(8)
    assert collect(store).others == 3
    assert of_networks(store) == set()
    store.put(f"{keys.OWN_NETWORKS}README", b"somebody else's")
    store.put(f"{keys.OWN_NETWORKS}{own.digest}/notes", b"somebody else's")
    store.age(8)
    assert collect(store).others == 0


@pytest.mark.parametrize("precision", ["", ":bf16"])
def test_a_network_stays_while_features_or_a_model_need_it(store: AgedStore, precision: str) -> None:
    """With its converted form; and goes, a week later, with the last of what was made by it."""
    own = put_network(store)
    spec = own.named(f"{own.name}{precision}")
    table = features.FeatureTable(PETS.digest, spec_fingerprint(spec), 3, ())
    features.write_table(store, table)
    store.put(keys.network(table.fingerprint, 1, "network.bin"), b"converted")
    store.age(8)
    collect(store)
    assert len(of_networks(store)) == 2
    assert keys.network(table.fingerprint, 1, "network.bin") in store.objects
    store.delete(keys.table(table.fingerprint, table.digest))
    collect(store)
    assert of_networks(store) == set()
    assert keys.network(table.fingerprint, 1, "network.bin") not in store.objects


def test_a_network_of_an_unfinished_run_stays(store: AgedStore) -> None:
    """However long ago the run was begun; and it keeps no more than if its extractor were a registered one."""
    own, other = put_network(store), put_network(store, size=64)
    Workshop(store, epoch=2).begin("GOES-ON", PETS, extractors=(own.name,))
    store.age(30)
    collect(store)
    assert of_networks(store) == {
        keys.own_network_card(own.digest),
        keys.own_network_file(own.digest, "onnx"),
    }
    assert other.digest not in str(of_networks(store))


def test_a_network_whose_card_is_damaged_stays(store: AgedStore) -> None:
    """Nobody can tell what needs it."""
    own = put_network(store)
    store.put(keys.own_network_card(own.digest), b"{")
    store.age(8)
    collect(store)
    assert len(of_networks(store)) == 2
