"""Offshelf: a folder of labelled images in; a compared, trained and served classifier out.

    with offshelf.Client() as client:
        run = client.run("DogCat/", extractors=["googlenet", "hog"], classifiers=["SVM", "LR"])
        run.watch()
        print(run.table())
        print(run.best.predict("unknown.jpg"))

Without a server configured, `Client` starts the services on this machine (``pip install 'offshelf[embedded]'``).

The names below are loaded when they are first used: every worker process of every service imports this package, and
none of them needs gRPC for it.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from offshelf.client import (
        Catalog,
        CatalogEntry,
        CatalogExtractor,
        Client,
        Combination,
        Dataset,
        Model,
        Prediction,
        Progress,
        Removal,
        Run,
        RunGoal,
        RunResult,
        RunSpec,
        RunState,
        RunStatus,
        Score,
        SkippedImage,
        Table,
        TableRow,
        UploadProgress,
    )
    from offshelf.errors import (
        Cancelled,
        Conflict,
        DataLoss,
        DeadlineExceeded,
        EngineMismatch,
        EngineUnavailable,
        Internal,
        InvalidDataset,
        InvalidInput,
        NotFound,
        OffshelfError,
        PermissionDenied,
        QuotaExceeded,
        ResourceExhausted,
        RunFailed,
        StoreDenied,
        StoreFull,
        StoreUnavailable,
        Unauthenticated,
        Unavailable,
        UnknownName,
    )

    __version__: str

__all__ = [
    "Cancelled",
    "Catalog",
    "CatalogEntry",
    "CatalogExtractor",
    "Client",
    "Combination",
    "Conflict",
    "DataLoss",
    "Dataset",
    "DeadlineExceeded",
    "EngineMismatch",
    "EngineUnavailable",
    "Internal",
    "InvalidDataset",
    "InvalidInput",
    "Model",
    "NotFound",
    "OffshelfError",
    "PermissionDenied",
    "Prediction",
    "Progress",
    "QuotaExceeded",
    "Removal",
    "ResourceExhausted",
    "Run",
    "RunFailed",
    "RunGoal",
    "RunResult",
    "RunSpec",
    "RunState",
    "RunStatus",
    "Score",
    "SkippedImage",
    "StoreDenied",
    "StoreFull",
    "StoreUnavailable",
    "Table",
    "TableRow",
    "Unauthenticated",
    "Unavailable",
    "UnknownName",
    "UploadProgress",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'offshelf' has no attribute {name!r}")
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("offshelf")
    errors = importlib.import_module("offshelf.errors")
    home = errors if hasattr(errors, name) else importlib.import_module("offshelf.client")
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted(__all__)
