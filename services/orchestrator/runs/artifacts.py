"""What a run leaves for its user besides the report: run.json and skipped.csv."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from offshelf.services.orchestrator.dispatch.units import SkippedImage
from offshelf.store import keys

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from offshelf.datasets import Dataset, Unread
    from offshelf.runs import Combination
    from offshelf.services.orchestrator.dispatch.units import ComparisonOutcome
    from offshelf.services.orchestrator.runs.extraction import Extraction
    from offshelf.services.orchestrator.runs.status import RunStatus
    from offshelf.store import ObjectStore

UNREAD = "unread"
"""Status of an image that was not there, or not what the dataset names."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What was compared, and what was fitted."""

    comparison: ComparisonOutcome
    fitted: Combination
    model: str


@dataclass(frozen=True, slots=True)
class RunFindings:
    """What a run has come to."""

    dataset: Dataset
    skipped: tuple[SkippedImage, ...]
    fingerprints: Mapping[str, str]
    selection: Selection | None = None
    """None if the goal was features alone."""


def skipped_images(
    dataset: Dataset, unread: Sequence[Unread], extractions: Mapping[str, Extraction]
) -> tuple[SkippedImage, ...]:
    """List every image that was not used, by path; one entry for all extractors where they agree.

    Parameters
    ----------
    unread
        Files that could not be read while the dataset was being read; they are not part of it.
    extractions
        Of every extractor that has a feature table.
    """
    rows = [SkippedImage(image.path, "", UNREAD, image.reason) for image in unread]
    found: dict[str, dict[tuple[str, str], list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, extraction in extractions.items():
        for digest, reason in extraction.unread.items():
            found[digest][UNREAD, reason].append(name)
        for digest, outcome in extraction.skipped.items():
            found[digest][str(outcome.status), outcome.reason].append(name)
    for item in dataset.items:
        for (status, reason), names in found.get(item.digest, {}).items():
            agreed = len(names) == len(extractions)
            rows.extend(SkippedImage(item.path, name, status, reason) for name in ([""] if agreed else names))
    return tuple(sorted(rows, key=lambda row: (row.path, row.extractor)))


def write_run_artifacts(store: ObjectStore, status: RunStatus, findings: RunFindings) -> dict[str, str]:
    """Write run.json and skipped.csv; returns their keys by name."""
    contents = {
        "run.json": json.dumps(_run_json(status, findings), indent=2, ensure_ascii=False).encode() + b"\n",
        "skipped.csv": _skipped_csv(findings.skipped),
    }
    written = {}
    for name, data in contents.items():
        written[name] = keys.run_artifact(status.run_id, name)
        store.put(written[name], data)
    return written


def _run_json(status: RunStatus, findings: RunFindings) -> dict[str, Any]:
    from importlib.metadata import version

    progress, spec = status.progress, status.spec
    document = {
        "run": status.run_id,
        "created_at": status.created_at.isoformat(),
        "offshelf": version("offshelf"),
        "goal": str(spec.goal),
        "dataset": findings.dataset.digest,
        "source": spec.source,
        "images": len(findings.dataset.items),
        "classes": list(findings.dataset.classes),
        "extractors": list(spec.extractors),
        "fingerprints": dict(findings.fingerprints),
        "images_extracted": progress.images_extracted,
        "images_reused": progress.images_reused,
        "images_skipped": len({image.path for image in findings.skipped}),
        "left_out": list(status.left_out),
        "conditions": list(status.conditions),
    }
    return document if findings.selection is None else document | _selection_json(status, findings.selection)


def _selection_json(status: RunStatus, selection: Selection) -> dict[str, Any]:
    progress, spec = status.progress, status.spec
    return {
        "classifiers": list(spec.classifiers),
        "measure": spec.measure,
        "folds": spec.folds,
        "seed": spec.seed,
        "scores_computed": progress.scores_computed,
        "scores_reused": progress.scores_reused,
        "scores": [score.to_json() for score in selection.comparison.scores],
        "verdict": selection.comparison.verdict,
        "model": selection.model,
        "fitted": {"extractor": selection.fitted.extractor, "classifier": selection.fitted.classifier},
    }


def _skipped_csv(skipped: Sequence[SkippedImage]) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(("path", "extractor", "status", "reason"))
    table.writerows((_inert(image.path), image.extractor, image.status, _inert(image.reason)) for image in skipped)
    return text.getvalue().encode()


def _inert(cell: str) -> str:
    """Keep a spreadsheet from taking a file name for a formula."""
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
