"""All extractors of an installation: those that are registered, and the networks of users' own in its store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from offshelf.errors import DataLoss, InvalidInput, NotFound, UnknownName
from offshelf.extraction import registry
from offshelf.extraction.own.description import FORMATS, split_name
from offshelf.extraction.own.stored import find_network, list_networks
from offshelf.extraction.spec import served

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from offshelf.extraction.own.stored import OwnNetwork
    from offshelf.extraction.spec import ExtractorSpec
    from offshelf.store.objects import ObjectStore

CUSTOM: Final = "custom"
"""What replicas are started for that serve those extractors which have none of their own: there is no end of them."""

_KEPT = 1000
"""Networks whose cards are remembered: they never change."""


class Extractors:
    """Finds extractors by name. Safe to use from any number of threads; what it has not seen yet it asks the store for.

    Parameters
    ----------
    store
        Where networks of users' own are.
    registered
        Those that have a name of their own; by default `registry.EXTRACTORS`.
    remote
        Names of those whose networks run on a remote engine in this installation: exactly these, so that
        "vgg16" says nothing of "vgg16:max".

    Raises
    ------
    InvalidInput
        If one of these does not exist, or cannot run on a remote engine; the message names the setting.
    """

    def __init__(
        self,
        store: ObjectStore,
        registered: Mapping[str, ExtractorSpec] | None = None,
        *,
        remote: Iterable[str] = (),
    ) -> None:
        self._store = store
        self._local = registry.EXTRACTORS if registered is None else registered
        self._remote = {spec.name: spec for spec in map(self._served, remote)}
        self.registered = {name: self._remote.get(name, spec) for name, spec in self._local.items()}
        self._seen: dict[tuple[str, str], OwnNetwork] = {}

    def find(self, name: str) -> ExtractorSpec:
        """Look an extractor up by name.

        Parameters
        ----------
        name
            As for `registry.find`; or that of a network of a user's own, as in "onnx:net@0123456789ab", perhaps with a
            precision: "onnx:net@0123456789ab:bf16". What stands before the "@" is for people.

        Raises
        ------
        UnknownName, InvalidInput
            As `registry.find`.
        NotFound
            If the store has no such network.
        DataLoss
            If what the store has of it is damaged.
        OffshelfError
            What the store raises.
        """
        first, colon, _ = name.partition(":")
        if colon and first in FORMATS:
            return self._network(name).named(name)
        spec = registry.find(name, self._local)
        return self._remote.get(spec.name, spec)

    def lookup(self, name: str) -> ExtractorSpec | None:
        """Look an extractor up that may be one of another version of Offshelf, or of another store; None if it is."""
        try:
            return self.find(name)
        except (UnknownName, InvalidInput, NotFound, DataLoss):
            return None

    def own(self) -> list[ExtractorSpec]:
        """List the networks of users' own, newest first. Raises what the store raises."""
        return [network.spec for network in list_networks(self._store)]

    def _served(self, name: str) -> ExtractorSpec:
        refused = "OFFSHELF_REMOTE_ENGINES cannot be used"
        if name.partition(":")[0] in FORMATS:
            raise InvalidInput(f"{refused}: {name} is a network of a user's own, and those run on no remote engine.")
        try:
            return served(registry.find(name, self._local))
        except InvalidInput as error:
            raise InvalidInput(f"{refused}: {error.message}") from error

    def _network(self, name: str) -> OwnNetwork:
        parts = split_name(name)
        if parts is not None and parts[:2] in self._seen:
            return self._seen[parts[:2]]
        network = find_network(self._store, name)
        if parts is not None:
            if len(self._seen) >= _KEPT:
                self._seen.clear()
            self._seen[parts[:2]] = network
        return network


def replicas_of(name: str) -> str:
    """Return what replicas are started for that serve an extractor in a cluster: its name, or `CUSTOM`.

    Those with parameters and the networks of users' own share replicas: nobody can deploy some for each.
    """
    return CUSTOM if ":" in name else name
