"""The report of a comparison, rendered and put into the store."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from typing import TYPE_CHECKING

from offshelf.datasets import read_dataset
from offshelf.digests import canonical_json, digest_of
from offshelf.extraction.extractors import Extractors
from offshelf.services.stats.comparison import read_comparison
from offshelf.services.stats.exports import scores_parquet, table_csv
from offshelf.services.stats.folds import StoredFolds
from offshelf.services.stats.page import Page, SkippedImage, render_page
from offshelf.services.stats.predictions import OutOfFoldPredictions
from offshelf.store import keys

if TYPE_CHECKING:
    import threading

    from offshelf.store import ObjectStore

PAGE_NAME = "report.html"
TABLE_NAME = "table.csv"
SCORES_NAME = "scores.parquet"
ORIGIN_NAME = "report.json"
"""Says what a report was made from. Not part of what is rendered."""

REPORT_VERSION = 2
"""Version of what a report shows; part of its digest."""


@dataclass(frozen=True)
class ReportRequest:
    """What a report is made of."""

    comparison: str
    """Digest of the comparison."""
    title: str
    """Usually the dataset's name."""
    skipped: tuple[SkippedImage, ...] = ()
    left_out: tuple[str, ...] = ()
    """What was left out of the run, one sentence each."""

    @cached_property
    def digest(self) -> str:
        """Names the report by what was asked for, and the version that renders it."""
        return digest_of(
            {
                "version": REPORT_VERSION,
                "offshelf": metadata.version("offshelf"),
                "comparison": self.comparison,
                "title": self.title,
                "skipped": [[image.path, image.extractor, image.status, image.reason] for image in self.skipped],
                "left_out": self.left_out,
            }
        )


def render_report(store: ObjectStore, request: ReportRequest, *, stop: threading.Event) -> dict[str, str]:
    """Render a report and put it into the store. The same request gives the same bytes.

    Parameters
    ----------
    store
        Holds the comparison, its scores and its dataset, and takes the report.
    request
        What to report.
    stop
        Set when nobody waits for the report any more.

    Returns
    -------
    dict of str to str
        Keys in the store by the name of the artefact.

    Raises
    ------
    NotFound
        If the comparison, its dataset or its scores are not in the store.
    DataLoss
        If one of them is not what was written.
    Cancelled
        If `stop` was set.
    """
    comparison = read_comparison(store, request.comparison)
    dataset = read_dataset(store, comparison.dataset)
    folds = StoredFolds(store, dataset, folds=len(comparison.folds), stop=stop)
    winner = OutOfFoldPredictions.of(dataset, folds.of(comparison.best.scores))
    extractors, names = Extractors(store), comparison.best_of_extractors
    known = {name: spec for name in names if (spec := extractors.lookup(name))}
    page = Page(
        title=request.title,
        comparison=comparison,
        winner=winner,
        skipped=request.skipped,
        left_out=request.left_out,
        grouped=bool(dataset.groups),
        descriptions={name: spec.description for name, spec in known.items()},
        conditions=tuple(dict.fromkeys(spec.restriction for spec in known.values() if spec.restriction)),
        version=metadata.version("offshelf"),
    )
    contents = {
        PAGE_NAME: render_page(page).encode(),
        TABLE_NAME: table_csv(comparison),
        SCORES_NAME: scores_parquet(folds.rows(comparison.ranking)),
    }
    written = {name: keys.report(request.digest, name) for name in contents}
    # First, so that no part of a report ever lies in the store without saying whose images it shows.
    origin = canonical_json({"version": 1, "comparison": request.comparison, "dataset": comparison.dataset})
    store.put(keys.report(request.digest, ORIGIN_NAME), origin)
    for name, content in contents.items():
        store.put(written[name], content)
    return written


def import_renderer() -> None:
    """Import what rendering and testing take, so that the first report does not wait for it."""
    import jinja2  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import scipy.special  # noqa: F401
