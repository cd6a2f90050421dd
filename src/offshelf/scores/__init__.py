"""Scores: out-of-fold predictions of one classifier on one feature table, named by the digest of what made them.

One Parquet object a fold, with a row for each held-out image and the rest as JSON in the file's metadata; one manifest
over the folds, written last.
"""

from offshelf.scores.folds import FoldScores, decode_fold, encode_fold, finished_folds, read_fold, write_fold
from offshelf.scores.identity import TRAINER_VERSION, ValidationPlan, scores_digest
from offshelf.scores.manifest import (
    FoldEntry,
    ScoresManifest,
    read_manifest,
    read_manifest_if_complete,
    write_manifest,
)

__all__ = [
    "TRAINER_VERSION",
    "FoldEntry",
    "FoldScores",
    "ScoresManifest",
    "ValidationPlan",
    "decode_fold",
    "encode_fold",
    "finished_folds",
    "read_fold",
    "read_manifest",
    "read_manifest_if_complete",
    "scores_digest",
    "write_fold",
    "write_manifest",
]
