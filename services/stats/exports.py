"""The comparison as files for other programs: CSV for spreadsheets, Parquet for data analysis."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

from offshelf.digests import canonical_json
from offshelf.measures import MEASURES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from offshelf.services.stats.comparison import Comparison
    from offshelf.services.stats.folds import FoldRow

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n")
"""What makes spreadsheets take a cell for a formula (OWASP, "CSV Injection")."""


def table_csv(comparison: Comparison) -> bytes:
    """Write a row a combination, best first: the run's measure, the test, and every measure.

    Figures are in the measure's own unit (for most: 0 to 1), with all their digits.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    each_measure = [f"{name}_{figure}" for name in MEASURES for figure in ("mean", "sd")]
    writer.writerow(["extractor", "classifier", "mean", "sd", "p_value", "different_from_best", *each_measure])
    for ranked in comparison.ranking:
        spreads = [ranked.measures[name] for name in MEASURES]
        writer.writerow(
            [
                harmless(ranked.combination.extractor),
                harmless(ranked.combination.classifier),
                ranked.spread.mean,
                ranked.spread.standard_deviation,
                ranked.p_value,
                "true" if ranked.different_from_best else "false",
                *(value for spread in spreads for value in (spread.mean, spread.standard_deviation)),
            ]
        )
    return text.getvalue().encode()


def harmless(text: str) -> str:
    """Keep a spreadsheet from taking a text for a formula: a quote before it makes it text."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def scores_parquet(folds: Iterable[FoldRow]) -> bytes:
    """Write a row a combination and fold: every measure, and the settings that the search chose, as JSON text.

    Parameters
    ----------
    folds
        In the order of the rows.

    Returns
    -------
    bytes
        Columns extractor, classifier (text), fold (from 0), one a measure (float64), settings (text). Equal scores give
        equal bytes (with the same version of pyarrow).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("extractor", pa.string()),
            ("classifier", pa.string()),
            ("fold", pa.int32()),
            *((name, pa.float64()) for name in MEASURES),
            ("settings", pa.string()),
        ]
    )
    rows = [
        {
            "extractor": fold.combination.extractor,
            "classifier": fold.combination.classifier,
            "fold": fold.fold,
            **{name: fold.measures[name] for name in MEASURES},
            "settings": canonical_json(dict(fold.settings)).decode(),
        }
        for fold in folds
    ]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink, compression="zstd")
    return sink.getvalue()
