"""The layout of the store: the one place that knows what lies where."""

from __future__ import annotations

FORMAT = "store.json"
"""Says which version of this layout the store holds."""


def image(digest: str) -> str:
    """Bytes of an uploaded image."""
    return f"images/{digest[:2]}/{digest}"


def dataset(digest: str) -> str:
    """Manifest of a dataset."""
    return f"datasets/{digest}.json"


def segments(fingerprint: str) -> str:
    """Prefix of all feature segments of an extractor."""
    return f"features/{fingerprint}/segments/"


def segment(fingerprint: str, inputs: str, content: str) -> str:
    """One feature segment: the digest of what was asked for, and of the file that came out."""
    return f"{segments(fingerprint)}{inputs}-{content}.parquet"


def tables(fingerprint: str) -> str:
    """Prefix of all feature tables of an extractor."""
    return f"features/{fingerprint}/tables/"


def table(fingerprint: str, digest: str) -> str:
    """Manifest of a feature table."""
    return f"{tables(fingerprint)}{digest}.json"


def fold_scores(scores: str, fold: int) -> str:
    """Out-of-fold predictions and measures of one classifier on one fold."""
    return f"scores/{scores}/fold-{fold:04d}.parquet"


def scores(digest: str) -> str:
    """Manifest over the folds of one classifier; written last."""
    return f"scores/{digest}/scores.json"


def comparison(digest: str) -> str:
    """Comparison of all combinations of a run."""
    return f"comparisons/{digest}.json"


def report(digest: str, name: str) -> str:
    """Rendered artefact of a report."""
    return f"reports/{digest}/{name}"


MODELS = "models/"
"""Prefix of all models."""


def model(digest: str) -> str:
    """A model's estimator, in skops' format."""
    return f"{MODELS}{digest}/model.skops"


def model_card(digest: str) -> str:
    """A model's card; written last."""
    return f"{MODELS}{digest}/model.json"


def network(fingerprint: str, converter_version: int, name: str) -> str:
    """File of a network converted for the engine (OpenVINO's intermediate representation)."""
    return f"ir/{fingerprint}-{converter_version}/{name}"


RUNS = "runs/"
"""Prefix of all runs."""


def run_spec(run_id: str) -> str:
    """Specification of a run."""
    return f"{RUNS}{run_id}/spec.json"


def run_events(run_id: str) -> str:
    """Prefix of a run's events."""
    return f"{RUNS}{run_id}/events/"


def run_event(run_id: str, epoch: int, sequence: int) -> str:
    """One state change of a run."""
    return f"{run_events(run_id)}{epoch:08d}-{sequence:08d}.json"


def run_artifact(run_id: str, name: str) -> str:
    """Artefact that belongs to one run alone."""
    return f"{RUNS}{run_id}/artifacts/{name}"
