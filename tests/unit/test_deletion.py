from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from offshelf import datasets, features, scores
from offshelf.datasets import Dataset, Item
from offshelf.errors import Conflict, DataLoss, NotFound, StoreUnavailable
from offshelf.images import ImageStatus
from offshelf.services.orchestrator.holdings.deletion import delete_dataset
from offshelf.services.orchestrator.holdings.references import Removal, read_references
from offshelf.services.orchestrator.runs.segment_shelf import SegmentShelf
from offshelf.store import keys
from tests.unit.workshop import (
    DIMENSION,
    MAX_PIXELS,
    UNREADABLE,
    AgedStore,
    Workshop,
    content,
    dataset_of,
    everything_said,
    fingerprint,
    image,
    load,
    vector,
)

if TYPE_CHECKING:
    from offshelf.features import Features

OURS = dataset_of("ours", range(12))
"""Goes, in most tests."""
THEIRS = dataset_of("theirs", range(6, 18))
"""Stays; made after ours, so that it shares segments with it."""
ONLY_OURS, SHARED, ONLY_THEIRS = range(6), range(6, 12), range(12, 18)
EXTRACTORS = ("hog", "lab888")


@dataclass(frozen=True)
class Stored:
    """A store in which both datasets were run."""

    objects: dict[str, bytes]
    their_artifacts: dict[str, str]
    their_features: dict[str, Features]


@pytest.fixture(scope="module")
def made() -> Stored:
    """Run both datasets once for all tests."""
    store = AgedStore()
    workshop = Workshop(store)
    workshop.upload(OURS)
    workshop.upload(THEIRS)
    workshop.run("OURS", OURS)
    artifacts = workshop.run("THEIRS", THEIRS)
    workshop.export(OURS, *EXTRACTORS)
    artifacts["features.parquet"] = workshop.export(THEIRS, *EXTRACTORS)
    return Stored(store.objects, artifacts, {name: load(store, THEIRS, name) for name in EXTRACTORS})


@pytest.fixture
def store(made: Stored) -> AgedStore:
    """A store of one's own with both datasets."""
    return AgedStore(made.objects)


def delete(store: AgedStore, dataset: Dataset = OURS, in_use: frozenset[str] = frozenset()) -> Removal:
    """Delete a dataset, after having asked what would go."""
    promised = delete_dataset(store, dataset.digest, dry_run=True, in_use=in_use)
    removal = delete_dataset(store, dataset.digest, dry_run=False, in_use=in_use)
    assert removal == promised
    return removal


def ours(store: AgedStore, kind: str) -> list[str]:
    """Digests of the artefacts of one kind that were made of the dataset."""
    artefacts = dict(read_references(store).artefacts())[kind]  # type: ignore[index]
    return [each.digest for each in artefacts.values() if each.dataset == OURS.digest]


def check_theirs(store: AgedStore, made: Stored) -> None:
    """Check that everything of the other dataset works as before."""
    for name in EXTRACTORS:
        found, before = load(store, THEIRS, name), made.their_features[name]
        assert found.X.tobytes() == before.X.tobytes()
        assert (found.items, found.skipped) == (before.items, before.skipped)
    assert {key: store.objects[key] for key in made.their_artifacts.values()} == {
        key: made.objects[key] for key in made.their_artifacts.values()
    }
    for number in [*SHARED, *ONLY_THEIRS]:
        assert store.objects[keys.image(image(number))] == content(number)
    assert datasets.read_dataset(store, THEIRS.digest) == THEIRS
    assert datasets.read_card(store, THEIRS.digest).digest == THEIRS.digest
    for artefact in read_references(store).scores.values():
        if artefact.dataset == THEIRS.digest:
            assert scores.read_manifest_if_complete(store, artefact.digest)


def check_nothing_of_ours(store: AgedStore) -> None:
    """Check that no object knows anything of the images that only the deleted dataset had, run history apart."""
    secrets = [image(number).encode() for number in ONLY_OURS] + [bytes.fromhex(image(number)) for number in ONLY_OURS]
    secrets += [item.path.encode() for item in OURS.items]
    secrets += [content(number) + b"\0" for number in ONLY_OURS]
    secrets += [vector(number, name).tobytes() for number in ONLY_OURS for name in EXTRACTORS]
    history = (keys.run_events("OURS"), keys.run_spec("OURS"), keys.run_ending("OURS", 1), keys.run_opening("OURS", 1))
    for key, data in store.objects.items():
        if not key.startswith(history):
            said = everything_said(data) + b"\0"
            assert not [secret for secret in secrets if secret in said], key
            assert OURS.digest.encode() not in said, key


def test_deleted_is_deleted(store: AgedStore, made: Stored) -> None:
    """Nothing of the images that only this dataset had is left: no name, no path, no vector, no prediction."""
    with pytest.raises(AssertionError):
        check_nothing_of_ours(store)
    delete(store)
    check_nothing_of_ours(store)
    check_theirs(store, made)


def test_counts_say_what_went(store: AgedStore, made: Stored) -> None:
    """What is told before and after is what went, kind by kind, and the bytes that are free now."""
    held = [info.key for info in read_references(store).segments()]
    removal = delete(store)
    assert replace(removal, bytes=0, segments=0, segments_rewritten=0) == Removal(
        images=len(ONLY_OURS), tables=2, scores=2, models=1, reports=1, datasets=1, others=4
    )
    gone = [key for key in held if key not in store.objects]
    assert removal.segments_rewritten > 0
    assert removal.segments + removal.segments_rewritten == len(gone)
    sizes = [sum(map(len, objects.values())) for objects in (made.objects, store.objects)]
    moved = sum(len(table.to_json()) for table in read_references(store).tables.values())
    moved -= sum(len(made.objects[key]) for key in read_references(store).tables)
    assert removal.bytes == sizes[0] - sizes[1] + moved


def test_dry_run_changes_nothing(store: AgedStore, made: Stored) -> None:
    """Asking what would go leaves every byte as it is."""
    delete_dataset(store, OURS.digest, dry_run=True, in_use=frozenset())
    assert store.objects == made.objects


def test_history_of_runs_stays(store: AgedStore, made: Stored) -> None:
    """One can still see that the run took place, when, and with what it was asked to do."""
    delete(store)
    history = [key for key in made.objects if key.startswith(keys.RUNS) and "/artifacts/" not in key]
    assert history
    assert all(store.objects[key] == made.objects[key] for key in history)


def test_names_of_the_others_work_stay(store: AgedStore) -> None:
    """The other dataset's next run finds its table, its scores and its model by the names they had."""
    table = {name: Workshop(store).extract(THEIRS, name) for name in EXTRACTORS}
    delete(store)
    written = len(store.objects)
    for name in EXTRACTORS:
        again = Workshop(store).extract(THEIRS, name)
        assert again is not None
        assert again == table[name]
        assert again.moved
        assert features.read_table(store, again.fingerprint, again.digest).moved == again.moved
    assert len(store.objects) == written


def test_segments_move_on(store: AgedStore, made: Stored) -> None:
    """Deleting one dataset after the other moves what is left each time."""
    third = dataset_of("third", range(9, 15))
    Workshop(store).run("THIRD", third)
    before = {name: load(store, third, name) for name in EXTRACTORS}
    delete(store)
    check_theirs(store, made)
    delete(store, THEIRS)
    for name in EXTRACTORS:
        assert load(store, third, name).X.tobytes() == before[name].X.tobytes()
    delete(store, third)
    left = [key for key in store.objects if not key.startswith((keys.RUNS, keys.HISTORY, keys.EPOCHS))]
    assert left == []


def test_folder_datasets_go_too(made: Stored) -> None:
    """A dataset that was read from a folder, whose images were never stored, is deleted in the same way."""
    store = AgedStore({key: data for key, data in made.objects.items() if not key.startswith(keys.IMAGES)})
    assert delete(store).images == 0
    check_nothing_of_ours(store)


def test_another_label_costs_no_vector(store: AgedStore, made: Stored) -> None:
    """Deleting a dataset with a wrong label leaves the corrected one, with the same images, all of its features."""
    corrected = Dataset.of(Item(f"theirs-{item.path}", "cat", "", item.digest) for item in THEIRS.items)
    Workshop(store).upload(corrected)
    for name in EXTRACTORS:
        Workshop(store).extract(corrected, name)
    removal = delete(store, corrected)
    assert replace(removal, bytes=0) == Removal(tables=2, datasets=1)
    check_theirs(store, made)


def test_segments_that_no_table_names_lose_the_images_too(store: AgedStore, made: Stored) -> None:
    """What an interrupted run left of a dataset goes with it, and what it left of another stays."""
    workshop = Workshop(store)
    workshop.extract(OURS, "haralick", units=1)
    workshop.extract(dataset_of("mixed", range(4, 8)), "haralick", units=1)
    delete(store)
    check_nothing_of_ours(store)
    check_theirs(store, made)
    kept = [info for info in read_references(store).segments() if fingerprint("haralick") in info.key]
    assert frozenset.union(*(features.segment_images(store, info) for info in kept)) & {image(6), image(7)}


def test_incomplete_work_goes_too(store: AgedStore, made: Stored) -> None:
    """Folds without a manifest and an estimator without a card are as private as finished ones."""
    for key in [*map(keys.scores, ours(store, "scores")), *map(keys.model_card, ours(store, "models"))]:
        store.delete(key)
    for key in [*map(keys.comparison, ours(store, "others")), *(key for key in store.objects if "OURS" in key)]:
        store.delete(key)  # so that nothing but the halves themselves says whose they are
    removal = delete(store)
    assert (removal.scores, removal.models) == (0, 0)
    assert removal.others == 2 * 2 + 1 + 1  # halves, the rest of the report, the file of features
    check_nothing_of_ours(store)
    check_theirs(store, made)


def test_what_a_run_uses_is_not_deleted(store: AgedStore, made: Stored) -> None:
    """A dataset that a run works on, or whose features lie in one file with a running one's, waits for it."""
    for in_use in (OURS, THEIRS):
        for dry_run in (True, False):
            with pytest.raises(Conflict, match="wait until it has ended"):
                delete_dataset(store, OURS.digest, dry_run=dry_run, in_use=frozenset({in_use.digest}))
    assert store.objects == made.objects


def test_other_runs_are_in_nobodys_way(store: AgedStore) -> None:
    """A run on images of its own does not keep others from deleting theirs."""
    far = dataset_of("far", range(50, 60))
    Workshop(store).run("FAR", far)
    delete(store, in_use=frozenset({far.digest, image(99)}))
    check_nothing_of_ours(store)


def test_unknown_dataset(store: AgedStore) -> None:
    """A digest that is no dataset's, or no digest, is said to be none."""
    for digest in (image(0), "", "../runs"):
        with pytest.raises(NotFound, match="There is no dataset"):
            delete_dataset(store, digest, dry_run=False, in_use=frozenset())
    delete(store)
    with pytest.raises(NotFound):
        delete_dataset(store, OURS.digest, dry_run=True, in_use=frozenset())


def test_damaged_neighbour_stops_the_deletion(store: AgedStore, made: Stored) -> None:
    """While nobody can tell what another dataset needs nothing is deleted, and the error says what to do first."""
    store.objects[keys.dataset(THEIRS.digest)] = b"{}"
    before = dict(store.objects)
    with pytest.raises(DataLoss, match=f"datasets delete {THEIRS.digest}"):
        delete_dataset(store, OURS.digest, dry_run=False, in_use=frozenset())
    assert store.objects == before
    # That one can be deleted, by what its segments show of it.
    delete(store, THEIRS)
    assert keys.image(image(ONLY_THEIRS[0])) not in store.objects
    for name in EXTRACTORS:
        assert load(store, OURS, name).X.tobytes() == load(AgedStore(made.objects), OURS, name).X.tobytes()
    delete(store)
    check_nothing_of_ours(store)


def test_two_damaged_datasets_can_be_deleted(store: AgedStore) -> None:
    """Damage to two manifests locks nobody out: images stay until the second one goes."""
    for dataset in (OURS, THEIRS):
        store.objects[keys.dataset(dataset.digest)] = b"{}"
    assert delete(store).images == 0
    assert delete(store, THEIRS).images > 0
    assert not [key for key in store.objects if key.startswith((keys.FEATURES, keys.SCORES, keys.MODELS))]


def test_damaged_table_may_need_what_it_does_not_say(store: AgedStore) -> None:
    """With a table that cannot be read, vectors of other datasets' images are kept wherever they lie."""
    damaged = next(key for key, table in read_references(store).tables.items() if table.dataset == THEIRS.digest)
    store.objects[damaged] = b"rubbish"
    delete(store)
    check_nothing_of_ours(store)
    name = next(name for name in EXTRACTORS if fingerprint(name) in damaged)
    held = [info for info in read_references(store).segments() if fingerprint(name) in info.key]
    assert {item.digest for item in THEIRS.items} <= frozenset.union(
        *(features.segment_images(store, info) for info in held)
    )


@pytest.mark.parametrize("rubbish", [b"", b"PAR1 not really", "flipped"])
def test_damaged_segment_goes(store: AgedStore, rubbish: bytes | str) -> None:
    """A shared segment that nobody can read any more does not keep the vectors in it."""
    table = next(table for table in read_references(store).tables.values() if table.dataset == OURS.digest)
    for key in table.segments:
        data = store.objects[key]
        middle = len(data) - 20  # in the footer's length, or just before: the file is not what its name says
        flipped = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        store.objects[key] = rubbish if isinstance(rubbish, bytes) else flipped
    delete(store)
    assert not store.objects.keys() & set(table.segments)
    check_nothing_of_ours(store)


def test_table_that_needs_nothing_of_a_segment(store: AgedStore) -> None:
    """A table that names a segment of which no row is left goes on working without it."""
    fp = fingerprint("hog")
    row = features.SegmentRow(image(0), ImageStatus.OK, "", vector(0, "hog"))
    alone = features.write_segment(store, fp, [image(0)], [row], max_pixels=MAX_PIXELS, dimension=DIMENSION)
    named = [table for table in read_references(store).tables.values() if table.fingerprint == fp]
    segments = (alone, *(segment for table in named for segment in table.segments))
    wider = features.FeatureTable(THEIRS.digest, fp, DIMENSION, segments)
    features.write_table(store, wider)
    before = features.load_features(store, wider, THEIRS)
    delete(store)
    again = features.read_table(store, fp, wider.digest)
    assert again.moved[alone] == ""
    assert alone not in again.stored_segments
    assert features.load_features(store, again, THEIRS).X.tobytes() == before.X.tobytes()
    assert again in SegmentShelf(store, fp, MAX_PIXELS).tables()


def test_cut_off_anywhere_a_second_call_finishes(made: Stored) -> None:
    """Wherever a deletion stops, the other dataset works, this one is whole or gone, and the next call finishes it."""
    whole = AgedStore(made.objects)
    delete_dataset(whole, OURS.digest, dry_run=False, in_use=frozenset())
    check_nothing_of_ours(whole)
    for calls in range(whole.calls):
        cut_off = AgedStore(made.objects, calls=calls)
        with pytest.raises(StoreUnavailable):
            delete_dataset(cut_off, OURS.digest, dry_run=False, in_use=frozenset())
        store = AgedStore(cut_off.objects)
        if store.objects == made.objects:
            continue  # it had not begun yet
        check_theirs(store, made)
        if keys.dataset_card(OURS.digest) in store.objects:
            assert {key for key in made.objects if key not in store.objects} == set()
        delete(store)
        assert store.objects == whole.objects


def test_dataset_made_again_after_a_cut_is_another_matter(made: Stored) -> None:
    """A dataset that is uploaded again while its deletion is half done can be run, and deleted once more."""
    whole = AgedStore(made.objects)
    delete_dataset(whole, OURS.digest, dry_run=False, in_use=frozenset())
    cut_off = AgedStore(made.objects, calls=whole.calls - 20)
    with suppress(StoreUnavailable):
        delete_dataset(cut_off, OURS.digest, dry_run=False, in_use=frozenset())
    store = AgedStore(cut_off.objects)
    Workshop(store, epoch=2).upload(OURS)
    Workshop(store, epoch=2).run("AGAIN", OURS)
    for name in EXTRACTORS:
        assert load(store, OURS, name).X.tobytes() == load(AgedStore(made.objects), OURS, name).X.tobytes()
    check_theirs(store, made)
    assert UNREADABLE in SHARED
    delete(store)
    assert keys.deletion(OURS.digest) not in store.objects
