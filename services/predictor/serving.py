"""Serving fitted models: encoded images in, class probabilities out."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol

from offshelf import models
from offshelf.digests import is_digest
from offshelf.errors import Cancelled, InvalidInput, NotFound, StoreUnavailable
from offshelf.estimators import building, registry
from offshelf.leases import LeaseCache
from offshelf.store import keys

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from offshelf.features import SegmentRow
    from offshelf.models import ModelCard
    from offshelf.store import ObjectStore

MODELS_A_PAGE = 100
MOST_MODELS_A_PAGE = 1000

_MODELS_KEPT = 8
_EXTRACTORS_KEPT = 2
"""Each holds a network and worker processes."""

_CARD = "/model.json"

_LOOK_SECONDS = 60.0
"""So long may a model that was deleted still be served by those who have loaded it."""


class Embedder(Protocol):
    """An extractor that is ready: `offshelf.extraction.pipeline.Extraction`."""

    def extract_bytes(self, images: Sequence[bytes], *, stop: threading.Event) -> list[SegmentRow]:
        """Extract encoded images; one row each, in order. Called from several threads."""
        ...

    def close(self) -> None:
        """Give everything back."""
        ...


class Extractors(Protocol):
    """The extractors of this installation."""

    def warm_up(self) -> None:
        """Import what opening one takes."""
        ...

    def open(self, name: str, fingerprint: str) -> Embedder:
        """Make an extractor ready.

        Raises
        ------
        Conflict
            If this installation lacks it, has it in another version, or lacks its weights; the message has the fix.
        """
        ...


@dataclass(frozen=True, slots=True)
class Prediction:
    """What became of one image: a label with probabilities, or an error."""

    label: str = ""
    """The most probable class; of equally probable ones the first."""
    probabilities: Mapping[str, float] = field(default_factory=dict)
    """Of every class of the model."""
    error: str = ""
    """Why the image could not be classified; empty if it was."""


@dataclass(frozen=True, slots=True)
class ModelPage:
    """Some of the models in the store."""

    models: tuple[str, ...]
    """Digests, sorted."""
    next_token: str
    """Gets the page after this one; empty if this is the last."""


@dataclass(slots=True, eq=False)
class _LoadedModel:
    card: ModelCard
    estimator: Any
    seen: float
    """When its card was last in the store."""


class ModelServer:
    """Classifies images with the models of a store. Safe to use from any number of threads.

    Models, and the extractors they need, are loaded when first asked for and kept while they are used often enough.

    Parameters
    ----------
    store
        Holds the models.
    extractors
        The extractors of this installation.
    cores
        Cores that numeric libraries may use.
    models_kept, extractors_kept
        How many of each stay loaded.
    on_load
        Told of each "model" and "extractor" that was loaded, and in how many seconds.
    clock
        Gives the time in seconds.
    """

    def __init__(
        self,
        store: ObjectStore,
        extractors: Extractors,
        *,
        cores: int = 1,
        models_kept: int = _MODELS_KEPT,
        extractors_kept: int = _EXTRACTORS_KEPT,
        on_load: Callable[[str, float], None] = lambda _what, _seconds: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._source = extractors
        self._cores = cores
        self._on_load = on_load
        self._clock = clock
        self._models: LeaseCache[str, _LoadedModel] = LeaseCache(self._load, lambda _: None, capacity=models_kept)
        self._extractors: LeaseCache[tuple[str, str], Embedder] = LeaseCache(
            self._open, lambda embedder: embedder.close(), capacity=extractors_kept
        )

    def warm_up(self) -> None:
        """Import what models are made of, so that the first request does not wait for it."""
        import skops.io  # noqa: F401
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # says nothing of its types

        for name in registry.CLASSIFIERS:
            building.build(name, building.search_space(name)[0], seed=0)
        self._source.warm_up()
        # They count the cores of the machine, not those that this process may use.
        threadpool_limits(self._cores)

    def close(self) -> None:
        """Give all extractors back."""
        self._models.close()
        self._extractors.close()

    def predict(self, model: str, images: Sequence[bytes], *, stop: threading.Event) -> list[Prediction]:
        """Classify encoded images.

        Parameters
        ----------
        model
            Digest of the model.
        images
            Encoded images (JPEG, PNG, ...).
        stop
            Ends the work within an image when it is set.

        Returns
        -------
        list of Prediction
            One an image, in order. An image that cannot be used gets an error, and the others their predictions.

        Raises
        ------
        InvalidInput
            If the model's name is no digest, or there is no image.
        NotFound
            If there is no such model.
        Conflict
            If the model needs something that this installation lacks; the message has the fix.
        DataLoss
            If the model's files are altered.
        Cancelled
            If `stop` was set.
        """
        if not is_digest(model):
            raise InvalidInput(f"{model!r} is not the digest of a model, which has 64 hexadecimal digits.")
        if not images:
            raise InvalidInput("There is no image to classify: send at least one.")
        with self._models.lease(model) as loaded:
            card = loaded.card
            self._check_still_there(loaded)
            with self._extractors.lease((card.extractor, card.fingerprint)) as embedder:
                rows = embedder.extract_bytes(images, stop=stop)
            if stop.is_set():
                raise Cancelled("Classifying the images was stopped.")
            return _classify(loaded, rows)

    def describe(self, model: str, *, stop: threading.Event) -> ModelCard:
        """Read a model's card.

        Raises
        ------
        NotFound
            If there is no such model.
        DataLoss
            If the card is damaged.
        """
        del stop
        return self._card(model)

    def list(self, page_size: int, page_token: str, *, stop: threading.Event) -> ModelPage:
        """List the models in the store.

        Parameters
        ----------
        page_size
            At most so many; 0 means `MODELS_A_PAGE`.
        page_token
            From the page before; empty for the first.
        stop
            Ends the listing when it is set.

        Raises
        ------
        InvalidInput
            For a token that no page gave.
        """
        if page_token and not is_digest(page_token):
            raise InvalidInput("This service gave no such page token. Leave it out to begin with the first page.")
        size = min(page_size or MODELS_A_PAGE, MOST_MODELS_A_PAGE)
        found = list(islice((digest for digest in self._digests(stop) if digest > page_token), size + 1))
        page = found[:size]
        return ModelPage(tuple(page), page[-1] if len(found) > size else "")

    def _digests(self, stop: threading.Event) -> Iterator[str]:
        for info in self._store.list(keys.MODELS):
            if stop.is_set():
                raise Cancelled("Listing the models was stopped.")
            digest = info.key.removeprefix(keys.MODELS).removesuffix(_CARD)
            # A model without its card is not whole.
            if info.key.endswith(_CARD) and is_digest(digest):
                yield digest

    def _card(self, digest: str) -> ModelCard:
        try:
            return models.read_card(self._store, digest)
        except NotFound:
            raise _no_model(digest) from None

    def _check_still_there(self, loaded: _LoadedModel) -> None:
        """Refuse a model that was deleted after it was loaded, within a minute or so."""
        now = self._clock()
        if now - loaded.seen < _LOOK_SECONDS:
            return
        loaded.seen = now  # of several requests at once one looks
        try:
            gone = self._store.stat(keys.model_card(loaded.card.digest)) is None
        except StoreUnavailable:
            return  # what is loaded needs no store
        if gone:
            self._models.forget(loaded.card.digest)
            raise _no_model(loaded.card.digest)

    def _load(self, digest: str) -> _LoadedModel:
        began = time.perf_counter()
        card = self._card(digest)
        loaded = _LoadedModel(card, models.read_estimator(self._store, card), self._clock())
        self._on_load("model", time.perf_counter() - began)
        return loaded

    def _open(self, key: tuple[str, str]) -> Embedder:
        began = time.perf_counter()
        embedder = self._source.open(*key)
        self._on_load("extractor", time.perf_counter() - began)
        return embedder


def _no_model(digest: str) -> NotFound:
    return NotFound(f"There is no model {digest[:64]!r} in this store.")


def _classify(model: _LoadedModel, rows: Sequence[SegmentRow]) -> list[Prediction]:
    import numpy as np

    classes = model.card.classes
    vectors = [row.vector for row in rows if row.vector is not None]
    found: Iterator[Sequence[float]] = iter(())
    if vectors:
        found = iter(building.class_probabilities(model.estimator, np.stack(vectors), len(classes)).tolist())
    return [
        Prediction(error=row.reason or str(row.status)) if row.vector is None else _prediction(classes, next(found))
        for row in rows
    ]


def _prediction(classes: Sequence[str], probabilities: Sequence[float]) -> Prediction:
    label = classes[probabilities.index(max(probabilities))]
    return Prediction(label, dict(zip(classes, probabilities, strict=True)))
