"""The layout of the store: the one place that knows what lies where."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

FORMAT = "store.json"
"""Says which version of this layout the store holds."""

IMAGES = "images/"
"""Prefix of all uploaded images."""


def image(digest: str) -> str:
    """Bytes of an uploaded image."""
    return f"{IMAGES}{digest[:2]}/{digest}"


DATASETS = "datasets/"
"""Prefix of all datasets."""


def dataset(digest: str) -> str:
    """Manifest of a dataset."""
    return f"{DATASETS}{digest}.json"


def dataset_card(digest: str) -> str:
    """What lists show of a dataset; written after its manifest."""
    return f"{DATASETS}{digest}.card.json"


DELETIONS = "deletions/"
"""Prefix of all deletions that are under way."""


def deletion(digest: str) -> str:
    """The images of a dataset that is being deleted; there from the first step of that to its last."""
    return f"{DELETIONS}{digest}.json"


FEATURES = "features/"
"""Prefix of all feature segments and tables."""


def segments(fingerprint: str) -> str:
    """Prefix of all feature segments of an extractor."""
    return f"{FEATURES}{fingerprint}/segments/"


def segment(fingerprint: str, inputs: str, content: str) -> str:
    """One feature segment: the digest of what was asked for, and of the file that came out."""
    return f"{segments(fingerprint)}{inputs}-{content}.parquet"


def tables(fingerprint: str) -> str:
    """Prefix of all feature tables of an extractor."""
    return f"{FEATURES}{fingerprint}/tables/"


def table(fingerprint: str, digest: str) -> str:
    """Manifest of a feature table."""
    return f"{tables(fingerprint)}{digest}.json"


EXPORTS = "exports/"
"""Prefix of all features in files for users: copies of what segments hold."""


def exports(dataset: str) -> str:
    """Prefix of those of a dataset."""
    return f"{EXPORTS}{dataset}/"


def export(dataset: str, digest: str) -> str:
    """Features of a dataset in one file, named by the tables that it was made from."""
    return f"{exports(dataset)}{digest}.parquet"


SCORES = "scores/"
"""Prefix of all scores."""


def fold_scores(scores: str, fold: int) -> str:
    """Out-of-fold predictions and measures of one classifier on one fold."""
    return f"{SCORES}{scores}/fold-{fold:04d}.parquet"


def scores(digest: str) -> str:
    """Manifest over the folds of one classifier; written last."""
    return f"{SCORES}{digest}/scores.json"


COMPARISONS = "comparisons/"
"""Prefix of all comparisons."""


def comparison(digest: str) -> str:
    """Comparison of all combinations of a run."""
    return f"{COMPARISONS}{digest}.json"


REPORTS = "reports/"
"""Prefix of all reports."""


def report(digest: str, name: str) -> str:
    """Rendered artefact of a report."""
    return f"{REPORTS}{digest}/{name}"


MODELS = "models/"
"""Prefix of all models."""


def model(digest: str) -> str:
    """A model's estimator, in skops' format."""
    return f"{MODELS}{digest}/model.skops"


def model_card(digest: str) -> str:
    """A model's card; written last."""
    return f"{MODELS}{digest}/model.json"


NETWORKS = "ir/"
"""Prefix of all networks that were converted for the engine."""


def network(fingerprint: str, converter_version: int, name: str) -> str:
    """File of a network converted for the engine (OpenVINO's intermediate representation)."""
    return f"{NETWORKS}{fingerprint}-{converter_version}/{name}"


OWN_NETWORKS = "networks/"
"""Prefix of all networks that users brought."""


def own_network_file(digest: str, suffix: str) -> str:
    """File of a network that a user brought, as it came."""
    return f"{OWN_NETWORKS}{digest}/network.{suffix}"


def own_network_card(digest: str) -> str:
    """What is known of such a network; written last."""
    return f"{OWN_NETWORKS}{digest}/card.json"


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


HISTORY = "history/"
"""Prefix of the marks that say which runs are open and which have ended; one list of them tells where all stand."""


def run_opening(run_id: str, epoch: int) -> str:
    """Mark that a run is open in an epoch; written before the first event of that epoch."""
    return f"{HISTORY}{run_id}/{epoch:08d}-open"


def run_ending(run_id: str, epoch: int) -> str:
    """All that is shown of a run that has ended in an epoch; written after its last event."""
    return f"{HISTORY}{run_id}/{epoch:08d}-ended.json"


EPOCHS = "epochs/"
"""Prefix of the marks of epochs."""


def epoch(number: int) -> str:
    """Mark that an orchestrator has begun this epoch."""
    return f"{EPOCHS}{number:08d}"


REQUESTS = "requests/"
"""Prefix of what is known of clients' requests."""


def request(digest: str) -> str:
    """The run that was created for a client's request; named by the digest of that request's id."""
    return f"{REQUESTS}{digest}.json"


AUDIT = "audit/"
"""Prefix of the audit log."""


def audit(moment: datetime, process: str, number: int) -> str:
    """Some lines of the audit log, by when and by whom they were written."""
    return f"{AUDIT}{moment:%Y-%m-%d}/{moment:%H%M%S}-{process}-{number:06d}.jsonl"
