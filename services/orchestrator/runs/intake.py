"""What users ask for, made definite, and refused at once where it could only fail later."""

from __future__ import annotations

import asyncio
import contextvars
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from offshelf import datasets
from offshelf.errors import InvalidInput
from offshelf.runs import RunFetch, RunGoal
from offshelf.services.orchestrator.runs.inputs import check_images, read_stored
from offshelf.services.orchestrator.runs.specification import make_features_spec, make_spec

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from offshelf.runs import Combination
    from offshelf.services.orchestrator.catalog import ExtractorCatalog
    from offshelf.services.orchestrator.runs.specification import RunSpec
    from offshelf.store import ObjectStore


_LISTINGS = 2
"""Folders and buckets that are listed at a time: each may have hundreds of thousands of files."""

_MOST_NAMES = 1000


@dataclass(frozen=True, slots=True)
class Request:
    """A run as a user asks for it; what is empty is up to us."""

    dataset: str
    """A path, "s3://bucket/prefix" or "dataset:<digest>"."""
    extractors: Sequence[str] = ()
    classifiers: Sequence[str] = ()
    measure: str = ""
    folds: int = 0
    seed: int = 0
    choice: Combination | None = None
    """Fit this combination instead of the best one."""
    goal: RunGoal = RunGoal.COMPARISON
    fetch: RunFetch = RunFetch.AUTO


class Intake:
    """Turns requests into specifications.

    Parameters
    ----------
    roots
        Folders that datasets may lie in; None for any.
    buckets
        Buckets that datasets may be read from.
    """

    def __init__(
        self,
        store: ObjectStore,
        catalog: ExtractorCatalog,
        *,
        roots: tuple[Path, ...] | None,
        buckets: tuple[str, ...] = (),
    ) -> None:
        self._store = store
        self._roots = roots
        self._buckets = buckets
        self._listers = ThreadPoolExecutor(_LISTINGS, thread_name_prefix="listing")
        self.catalog = catalog

    async def specify(self, request: Request) -> RunSpec:
        """Make a request definite; `check` looks at what it is about.

        Raises
        ------
        InvalidInput
            If something in it cannot be used.
        PermissionDenied
            If the dataset lies outside the data roots and buckets.
        """
        if len(request.extractors) + len(request.classifiers) > _MOST_NAMES:
            raise InvalidInput("There are not so many extractors and classifiers: name each once.")
        source = await asyncio.to_thread(datasets.source_uri, request.dataset, roots=self._roots, buckets=self._buckets)
        # In a thread: networks of users' own are looked up in the store.
        if request.goal is RunGoal.FEATURES:
            _check_features_alone(request)
            return await asyncio.to_thread(
                make_features_spec,
                source=source,
                extractors=request.extractors,
                fetch=request.fetch,
                catalog=self.catalog,
            )
        return await asyncio.to_thread(
            make_spec,
            source=source,
            extractors=request.extractors,
            classifier_names=request.classifiers,
            measure=request.measure,
            folds=request.folds,
            seed=request.seed,
            choice=request.choice,
            fetch=request.fetch,
            catalog=self.catalog,
        )

    async def check(self, spec: RunSpec) -> None:
        """Refuse a run that could only fail. Images are listed for few runs at a time; others wait.

        Raises
        ------
        InvalidInput
            If no extractor is available, or the images are no dataset.
        PermissionDenied
            If they lie where this server may not read.
        """
        await asyncio.to_thread(self._check_extractors, spec)
        if spec.stored_dataset:
            await asyncio.to_thread(self._check_stored, spec)
            return
        # In threads of their own: one whose client has left cannot be stopped, and counts for as long as it goes on.
        context = contextvars.copy_context()
        await asyncio.get_running_loop().run_in_executor(self._listers, context.run, self._check_listing, spec)

    def _check_extractors(self, spec: RunSpec) -> None:
        reasons = [reason for name in spec.extractors if (reason := spec.hindrance(name, self.catalog))]
        if len(reasons) == len(spec.extractors):
            raise InvalidInput(" ".join(reasons))

    def _check_stored(self, spec: RunSpec) -> None:
        check_images(spec, read_stored(self._store, spec.stored_dataset).items)

    def _check_listing(self, spec: RunSpec) -> None:
        source = datasets.open_source(
            spec.source, roots=self._roots, store=self._store, buckets=self._buckets, labelled=spec.needs_labels
        )
        try:
            check_images(spec, source.entries())
        finally:
            source.close()


def _check_features_alone(request: Request) -> None:
    if request.classifiers or request.measure or request.folds or request.seed or request.choice:
        raise InvalidInput(
            "A run for features alone takes no classifiers, measure, folds, seed or choice: leave them out."
        )
