"""The SDK: runs, tables and models, without gRPC in sight.

`Client` is the door; it gives `Run`, which gives `Table` and `Model`. What they show are frozen dataclasses
(`records`). Only `gateway` knows gRPC, and only `wire` knows protobuf.
"""

from offshelf.client.model import Model
from offshelf.client.records import (
    Catalog,
    CatalogEntry,
    CatalogExtractor,
    Prediction,
    Progress,
    RunResult,
    RunSpec,
    RunStatus,
)
from offshelf.client.run import Run
from offshelf.client.session import Client
from offshelf.client.table import Table, TableRow
from offshelf.runs import Combination, RunState, Score

__all__ = [
    "Catalog",
    "CatalogEntry",
    "CatalogExtractor",
    "Client",
    "Combination",
    "Model",
    "Prediction",
    "Progress",
    "Run",
    "RunResult",
    "RunSpec",
    "RunState",
    "RunStatus",
    "Score",
    "Table",
    "TableRow",
]
