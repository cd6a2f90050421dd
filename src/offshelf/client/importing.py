"""A model folder from anywhere into the store of services on this machine.

Of a card, only the two digests are understood here; `offshelf.models`, which knows the rest, stands on libraries that
an SDK without services does not have.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from offshelf.client import outputs
from offshelf.digests import digest_of_bytes, is_digest
from offshelf.errors import Conflict, DataLoss
from offshelf.store import keys, open_store

if TYPE_CHECKING:
    from pathlib import Path

_WHERE_IT_WAS_FITTED: Final = frozenset({"made_by", "versions"})
"""What the cards of one model may differ in: two machines can come to the same bytes with other versions."""


def import_model(folder: Path, store_root: Path | None) -> str:
    """Check a model folder, put it into a store, and return the model's digest.

    Parameters
    ----------
    folder
        Holds ``model.skops`` and ``model.json``.
    store_root
        Directory of the store; None if the model is not to be put anywhere.

    Raises
    ------
    DataLoss
        If the folder's files do not belong together.
    Conflict
        If the store holds another model under the same digest: equal work on another kind of machine may give other
        last bits, and using one for the other would be a silent exchange. So would a card that says something else.
    """
    card = (folder / outputs.CARD_FILE).read_bytes()
    model, content, meaning = _read_card(card, folder)
    estimator = (folder / outputs.MODEL_FILE).read_bytes()
    if digest_of_bytes(estimator) != content:
        raise DataLoss(
            f"{folder / outputs.MODEL_FILE} is not what {outputs.CARD_FILE} describes: copy the folder anew."
        )
    if store_root is None:
        return model
    store = open_store(str(store_root))
    if store.stat(keys.model_card(model)) is None:
        store.put(keys.model(model), estimator)
        store.put(keys.model_card(model), card)  # last: a card says that the model is whole
        return model
    _, held_content, held_meaning = _read_card(store.get(keys.model_card(model)), store_root)
    if held_content != content:
        raise Conflict(
            f"The store {store_root} holds this model as another machine fitted it, which may differ in the last bits: "
            "use an empty store with --store."
        )
    if held_meaning != meaning:
        # Such as classes in another order: each prediction would silently be another one.
        raise Conflict(
            f"The store {store_root} holds this model with another {outputs.CARD_FILE}, so one of the two was altered: "
            "copy the folder anew, or use an empty store with --store."
        )
    return model


def _read_card(card: bytes, where: Path) -> tuple[str, str, dict[str, Any]]:
    """Read from a card what the model is named by, the SHA-256 of its file, and all else that decides its answers."""
    try:
        document = json.loads(card)
        model, content = str(document["digest"]), str(document["estimator_sha256"])
    except (ValueError, KeyError, TypeError):
        document, model, content = {}, "", ""
    if not is_digest(model) or not is_digest(content):
        raise DataLoss(f"The {outputs.CARD_FILE} in {where} is damaged or no model's: copy the folder anew.")
    return model, content, {name: value for name, value in document.items() if name not in _WHERE_IT_WAS_FITTED}
