"""What users name as a model: the digest of one that a server has, or a folder from anywhere."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf.client import outputs
from offshelf.client.importing import import_model
from offshelf.client.model import Model
from offshelf.digests import is_digest
from offshelf.errors import NotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from offshelf.client.connection import Connection


def find_model(connection: Connection, name: str) -> Model:
    """Find a model; see `Client.model`."""
    gateway = connection.gateway
    if is_digest(name):
        return Model.of(gateway.describe_model(name), gateway, partial(_read_file, connection, name))
    folder = outputs.model_folder(Path(name))
    digest = import_model(folder, connection.store)
    try:
        summary = gateway.describe_model(digest)
    except NotFound as error:
        raise NotFound(
            f"The server {connection.address} does not have the model in {folder}: make the run there, or predict on "
            "this machine, without --server."
        ) from error
    return Model.of(summary, gateway, lambda file: outputs.read_chunks(folder / file))


def _read_file(connection: Connection, digest: str, file: str) -> Iterator[bytes]:
    gateway = connection.gateway
    for status in gateway.list_runs():
        if status.result is not None and status.result.model == digest:
            return gateway.read_artifact(status.id, f"{outputs.MODEL_FOLDER}/{file}")
    raise NotFound(f"No run on {connection.address} has the model {digest}, so its files cannot be read.")
