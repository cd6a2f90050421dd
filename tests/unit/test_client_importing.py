from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from offshelf import Conflict, DataLoss
from offshelf.client.importing import import_model
from offshelf.digests import digest_of_bytes
from offshelf.store import keys, open_store

if TYPE_CHECKING:
    from pathlib import Path

DIGEST = "d" * 64


def write_model(folder: Path, estimator: bytes = b"estimator", digest: str = DIGEST) -> Path:
    """Write a model folder."""
    folder.mkdir()
    (folder / "model.skops").write_bytes(estimator)
    card = {"digest": digest, "estimator_sha256": digest_of_bytes(estimator)}
    (folder / "model.json").write_text(json.dumps(card))
    return folder


def test_a_model_from_elsewhere_gets_into_the_store(tmp_path: Path) -> None:
    """A folder from another machine is put into the local store as it is, and once is enough."""
    folder = write_model(tmp_path / "model")
    for _ in range(2):
        assert import_model(folder, tmp_path / "store") == DIGEST
    store = open_store(str(tmp_path / "store"))
    assert store.get(keys.model(DIGEST)) == b"estimator"
    assert store.get(keys.model_card(DIGEST)) == (folder / "model.json").read_bytes()


def test_an_altered_model_is_refused(tmp_path: Path) -> None:
    """A model file that its card does not describe is not used, with or without a store to put it into."""
    folder = write_model(tmp_path / "model")
    (folder / "model.skops").write_bytes(b"another")
    for root in (tmp_path / "store", None):
        with pytest.raises(DataLoss, match="copy the folder anew"):
            import_model(folder, root)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("digest", ["../../evil", "", "D" * 64])
def test_a_card_cannot_choose_where_it_is_written(tmp_path: Path, digest: str) -> None:
    """A card whose digest is none is refused, so that it never becomes part of a path."""
    with pytest.raises(DataLoss, match="damaged"):
        import_model(write_model(tmp_path / "model", digest=digest), tmp_path / "store")


def test_an_altered_card_does_not_speak_for_ours(tmp_path: Path) -> None:
    """A card that turns the classes round is not taken for the one in the store; versions may differ."""
    ours, theirs = write_model(tmp_path / "ours"), write_model(tmp_path / "theirs")
    card = json.loads((ours / "model.json").read_text())
    (ours / "model.json").write_text(json.dumps({**card, "classes": ["cat", "dog"], "versions": {"numpy": "1"}}))
    (theirs / "model.json").write_text(json.dumps({**card, "classes": ["dog", "cat"], "versions": {"numpy": "1"}}))
    import_model(ours, tmp_path / "store")
    with pytest.raises(Conflict, match="altered"):
        import_model(theirs, tmp_path / "store")
    (theirs / "model.json").write_text(json.dumps({**card, "classes": ["cat", "dog"], "versions": {"numpy": "2"}}))
    assert import_model(theirs, tmp_path / "store") == DIGEST


def test_a_model_of_another_machine_does_not_replace_ours(tmp_path: Path) -> None:
    """If two machines fitted the same model with other last bits, neither is silently used for the other."""
    import_model(write_model(tmp_path / "ours"), tmp_path / "store")
    with pytest.raises(Conflict, match="--store"):
        import_model(write_model(tmp_path / "theirs", b"other bits"), tmp_path / "store")
