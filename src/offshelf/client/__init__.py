"""The SDK: runs, tables and models, without gRPC in sight.

`Client` is the door; it gives `Run`, which gives `Table` and `Model`. What they show are frozen dataclasses
(`records`). Only `gateway` and `dataset_gateway` know gRPC, and `wire` turns records into protobuf.
"""

from offshelf.client.model import Model
from offshelf.client.records import (
    Catalog,
    CatalogEntry,
    CatalogExtractor,
    Dataset,
    Prediction,
    Progress,
    Removal,
    RunResult,
    RunSpec,
    RunStatus,
    SkippedImage,
    UploadProgress,
)
from offshelf.client.run import Run
from offshelf.client.session import Client
from offshelf.client.table import Table, TableRow
from offshelf.runs import Combination, RunGoal, RunState, Score

__all__ = [
    "Catalog",
    "CatalogEntry",
    "CatalogExtractor",
    "Client",
    "Combination",
    "Dataset",
    "Model",
    "Prediction",
    "Progress",
    "Removal",
    "Run",
    "RunGoal",
    "RunResult",
    "RunSpec",
    "RunState",
    "RunStatus",
    "Score",
    "SkippedImage",
    "Table",
    "TableRow",
    "UploadProgress",
]
