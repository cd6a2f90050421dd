"""Protobuf to records and back: the one place of the SDK that knows the messages."""

from __future__ import annotations

import re
from datetime import UTC
from typing import TYPE_CHECKING

from offshelf.client.records import (
    Catalog,
    CatalogEntry,
    CatalogExtractor,
    Dataset,
    Progress,
    Removal,
    RunResult,
    RunSpec,
    RunStatus,
)
from offshelf.errors import InvalidInput
from offshelf.runs import Combination, RunFetch, RunGoal, RunState, Score
from offshelf.v1 import dataset_pb2, orchestrator_pb2, selection_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable

_STATES = {
    orchestrator_pb2.RUN_STATE_PENDING: RunState.PENDING,
    orchestrator_pb2.RUN_STATE_RUNNING: RunState.RUNNING,
    orchestrator_pb2.RUN_STATE_INTERRUPTED: RunState.INTERRUPTED,
    orchestrator_pb2.RUN_STATE_SUCCEEDED: RunState.SUCCEEDED,
    orchestrator_pb2.RUN_STATE_FAILED: RunState.FAILED,
    orchestrator_pb2.RUN_STATE_CANCELLED: RunState.CANCELLED,
}

_GOALS = {
    RunGoal.COMPARISON: orchestrator_pb2.RUN_GOAL_COMPARISON,
    RunGoal.FEATURES: orchestrator_pb2.RUN_GOAL_FEATURES,
}

_FETCHES = {
    RunFetch.AUTO: orchestrator_pb2.RUN_FETCH_AUTO,
    RunFetch.NEVER: orchestrator_pb2.RUN_FETCH_NEVER,
}

ON_SERVER = "server:"
"""Begins the path of a dataset that lies where the server is."""

_PATH = re.compile(r"^(folder|zip|csv):(?=/)")
_UPLOADED = re.compile(r"^store:(?=[0-9a-f]{64}$)")


def spec_message(spec: RunSpec) -> orchestrator_pb2.RunSpec:
    """Convert a specification.

    Raises
    ------
    InvalidInput
        For values that the message cannot hold. The server checks everything else.
    """
    for name, value in (("folds", spec.folds), ("seed", spec.seed)):
        if not 0 <= value < 2**32:
            raise InvalidInput(f"{name} must be between 0 and {2**32 - 1}, not {value}.")
    try:
        spec.dataset.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"The path {spec.dataset!r} is not valid UTF-8: rename the dataset.") from None
    choice = spec.choice
    return orchestrator_pb2.RunSpec(
        dataset=spec.dataset.removeprefix(ON_SERVER),
        extractors=spec.extractors,
        classifiers=spec.classifiers,
        measure=spec.measure,
        folds=spec.folds,
        seed=spec.seed,
        choice=selection_pb2.Combination(extractor=choice.extractor, classifier=choice.classifier) if choice else None,
        goal=_GOALS[spec.goal],
        fetch=_FETCHES[spec.fetch],
    )


def status_record(run: orchestrator_pb2.Run, *, remote: bool) -> RunStatus:
    """Convert a run; `remote` says that paths of the server are none of this machine."""
    return RunStatus(
        id=run.id,
        spec=_spec_record(run.spec, remote=remote),
        # A newer server may know states that this client does not; what it can do is go on watching.
        state=_STATES.get(run.state, RunState.RUNNING),
        created_at=run.created_at.ToDatetime(UTC),
        activity=run.activity,
        progress=_progress_record(run.progress),
        error=run.error,
        left_out=tuple(run.left_out),
        result=_result_record(run.result) if run.HasField("result") else None,
        notices=tuple(run.notices),
        user=run.user,
        conditions=tuple(run.conditions),
    )


def dataset_record(message: dataset_pb2.Dataset) -> Dataset:
    """Convert a dataset."""
    return Dataset(
        digest=message.digest,
        name=message.name,
        source=message.source,
        images=message.images,
        bytes=message.bytes,
        classes=tuple(message.classes),
        created_at=message.created_at.ToDatetime(UTC),
        user=message.user,
    )


def removal_record(message: dataset_pb2.Removal) -> Removal:
    """Convert what was removed."""
    return Removal(
        images=message.images,
        segments=message.segments,
        segments_rewritten=message.segments_rewritten,
        tables=message.tables,
        scores=message.scores,
        models=message.models,
        reports=message.reports,
        datasets=message.datasets,
        others=message.others,
        bytes=message.bytes,
    )


def catalog_record(message: orchestrator_pb2.DescribeCatalogResponse) -> Catalog:
    """Convert a catalogue."""
    return Catalog(
        extractors=tuple(
            CatalogExtractor(
                name=extractor.entry.name,
                description=extractor.entry.description,
                dimension=extractor.dimension,
                available=extractor.available,
                reason=extractor.reason,
                downloadable=extractor.downloadable,
                licence=extractor.licence,
                restriction=extractor.restriction,
            )
            for extractor in message.extractors
        ),
        classifiers=_entries(message.classifiers),
        measures=_entries(message.measures),
    )


def _entries(entries: Iterable[orchestrator_pb2.CatalogEntry]) -> tuple[CatalogEntry, ...]:
    return tuple(CatalogEntry(entry.name, entry.description) for entry in entries)


def _combination_record(message: selection_pb2.Combination) -> Combination:
    return Combination(message.extractor, message.classifier)


def _score_record(message: selection_pb2.CombinationScore) -> Score:
    return Score(
        combination=_combination_record(message.combination),
        mean=message.mean,
        standard_deviation=message.standard_deviation,
        p_value=message.p_value,
        different_from_best=message.different_from_best,
    )


def _spec_record(spec: orchestrator_pb2.RunSpec, *, remote: bool) -> RunSpec:
    return RunSpec(
        # The server notes what kind of dataset it found; this is what can be asked for again.
        dataset=_UPLOADED.sub("dataset:", _PATH.sub(ON_SERVER if remote else "", spec.dataset)),
        extractors=tuple(spec.extractors),
        classifiers=tuple(spec.classifiers),
        measure=spec.measure,
        folds=spec.folds,
        seed=spec.seed,
        choice=_combination_record(spec.choice) if spec.HasField("choice") else None,
        goal=RunGoal.FEATURES if spec.goal == orchestrator_pb2.RUN_GOAL_FEATURES else RunGoal.COMPARISON,
        fetch=RunFetch.NEVER if spec.fetch == orchestrator_pb2.RUN_FETCH_NEVER else RunFetch.AUTO,
    )


def _progress_record(progress: orchestrator_pb2.RunProgress) -> Progress:
    return Progress(
        images_scanned=progress.images_scanned,
        images_total=progress.images_total,
        images_extracted=progress.images_extracted,
        images_reused=progress.images_reused,
        images_remaining=progress.images_remaining,
        images_per_second=progress.images_per_second,
        scores_computed=progress.scores_computed,
        scores_reused=progress.scores_reused,
        scores_remaining=progress.scores_remaining,
        combinations_done=progress.combinations_done,
        combinations_total=progress.combinations_total,
        seconds_left=progress.seconds_left if progress.seconds_left >= 0 else None,
        images_skipped=progress.images_skipped,
        best=_score_record(progress.best) if progress.HasField("best") else None,
    )


def _result_record(result: orchestrator_pb2.RunResult) -> RunResult:
    return RunResult(
        scores=tuple(_score_record(score) for score in result.scores),
        verdict=result.verdict,
        model=result.model,
        fitted=_combination_record(result.fitted) if result.HasField("fitted") else None,
        artifacts=tuple(result.artifacts),
        classes=tuple(result.classes),
        dataset=result.dataset,
    )
