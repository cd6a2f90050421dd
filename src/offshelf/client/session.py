"""The door of the SDK."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Self

from offshelf.client.connection import Connection
from offshelf.client.model_lookup import find_model
from offshelf.client.networks import bring_network, bring_networks
from offshelf.client.records import RunSpec
from offshelf.client.run import Run
from offshelf.client.sources import bring, find_dataset, local_uri
from offshelf.digests import is_digest
from offshelf.errors import InvalidInput
from offshelf.runs import RunFetch, RunGoal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from types import TracebackType

    from offshelf.client.model import Model
    from offshelf.client.records import Catalog, Dataset, Removal, UploadProgress
    from offshelf.runs import Combination


class Client:
    """A connection to Offshelf: to a server, or to services on this machine that it starts if none run there.

        with Client() as client:
            run = client.run("DogCat/", extractors=["googlenet"], measure="accuracy")
            run.watch()
            print(run.table())
            print(run.best.predict("x.jpg"))

    Parameters
    ----------
    server
        HOST:PORT of a server. By default ``OFFSHELF_SERVER``; if that is not set either, services on this machine.
    token
        Bearer token for the server. By default ``OFFSHELF_TOKEN``, or what the file ``OFFSHELF_TOKEN_FILE`` holds.
    ca
        File with the certificate of the server's authority, if it has its own. By default ``OFFSHELF_CA``.
    store
        Directory in which services on this machine keep everything; not for use with `server`. By default
        ``OFFSHELF_STORE``, or ``offshelf`` in the user's data directory.

    Raises
    ------
    InvalidInput
        If both a server and a store are named.
    Unavailable
        If the server does not answer, or the services do not start.
    NotFound
        If there is no server to connect to and the services are not installed here.
    """

    def __init__(
        self,
        server: str | None = None,
        token: str | None = None,
        ca: str | os.PathLike[str] | None = None,
        store: str | os.PathLike[str] | None = None,
    ) -> None:
        self._connection = Connection(server, token, ca, store)
        self._gateway = self._connection.gateway

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Whoever presses Ctrl-C does not want to wait.
        self.close(wait=kind is None or issubclass(kind, Exception))

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        return self._connection.address

    @property
    def store(self) -> Path | None:
        """Directory of the store if the services are on this machine; None if they are behind a server."""
        return self._connection.store

    def close(self, *, wait: bool = True) -> None:
        """Close the connection; does nothing the second time.

        Parameters
        ----------
        wait
            Wait for the end of services that this client started and nobody else uses. Otherwise they end by
            themselves a little later.
        """
        self._connection.close(wait=wait)

    def run(
        self,
        dataset: str | os.PathLike[str],
        *,
        extractors: str | Iterable[str] = (),
        classifiers: str | Iterable[str] = (),
        measure: str = "accuracy",
        folds: int = 10,
        seed: int = 0,
        choice: Combination | None = None,
        fetch: str = "auto",
        on_upload: Callable[[UploadProgress], None] | None = None,
    ) -> Run:
        """Start a run, or take an unfinished one of the same specification up.

        Parameters
        ----------
        dataset
            A folder with a folder of images for each class, a zip of such a folder, or a CSV of path,label[,group]. If
            the services run elsewhere, what they do not have of it is uploaded first. Or something that they can read
            themselves: "dataset:DIGEST" of one that was uploaded before (the beginning of the digest, or the name,
            will do), "s3://bucket/prefix", or "server:/path" of the server's own.
        extractors, classifiers
            Names of the catalogue; by default all that are available. An extractor can also be a network of your own,
            "onnx:FILE" or "tflite:FILE", which is uploaded unless the services have it: see `upload_network`.
        measure
            What is best: a name of the catalogue.
        folds
            Number of folds of the cross-validation.
        seed
            Equal seeds give equal scores.
        choice
            Fit this combination instead of the best one.
        fetch
            "auto": weights that named extractors lack are downloaded, if the services may. "never": for this run none
            are, and an extractor that lacks its own is left out, with the reason.
        on_upload
            Called with the progress of an upload, in this thread, some times a second.

        Returns
        -------
        Run
            It goes on by itself: `Run.watch` waits for its end. Images that could not be uploaded are its `skipped`.

        Raises
        ------
        InvalidInput
            If something cannot be used; `UnknownName` has the nearest match, `InvalidDataset` what is wrong with the
            images.
        PermissionDenied
            If the dataset is outside the server's data roots.
        QuotaExceeded, StoreFull
            If the server takes no more.
        """
        spec = RunSpec(
            dataset=os.fspath(dataset),
            extractors=_names(extractors),
            classifiers=_names(classifiers),
            measure=measure,
            folds=folds,
            seed=seed,
            choice=choice,
            fetch=_fetch(fetch),
        )
        return self._start(spec, on_upload)

    def extract(
        self,
        dataset: str | os.PathLike[str],
        extractors: str | Iterable[str],
        *,
        fetch: str = "auto",
        on_upload: Callable[[UploadProgress], None] | None = None,
    ) -> Run:
        """Have features extracted and nothing else; or take an unfinished run that does this up.

            client.extract("photos/", ["resnet50", "hog"]).watch().save("features.parquet")

        What is extracted is found again by `run`, and the other way round.

        Parameters
        ----------
        dataset
            As for `run`, but images need no labels: a folder of images will do, or a CSV with the column path.
        extractors, fetch, on_upload
            As for `run`; at least one extractor is named.

        Returns
        -------
        Run
            `Run.watch` waits for its end, and `Run.save` writes the features.

        Raises
        ------
        OffshelfError
            As `run`.
        """
        names = _names(extractors)
        if not names:
            raise InvalidInput("Name at least one extractor: `offshelf catalog` lists them.")
        return self._start(RunSpec.of_features(os.fspath(dataset), names, _fetch(fetch)), on_upload)

    def _start(self, spec: RunSpec, on_upload: Callable[[UploadProgress], None] | None) -> Run:
        """Bring what the services lack of what a specification names, and start it."""
        chosen = bring_networks(self._gateway.networks, self._gateway.absence, spec.extractors)
        named, skipped = bring(
            self._gateway.datasets,
            spec.dataset,
            folds=None if spec.goal is RunGoal.FEATURES else spec.folds,
            on_progress=on_upload,
            upload_to=self.address if self._connection.remote else "",
        )
        if named != spec.dataset and self._connection.remote:
            self._gateway.absence.meet()  # it was uploaded, or found by its name
        spec = replace(spec, dataset=named, extractors=chosen)
        status, resumed = self._gateway.create_run(spec)
        return Run(self._gateway, status, spec=spec, origin=self._connection.origin, resumed=resumed, skipped=skipped)

    def upload(
        self,
        dataset: str | os.PathLike[str],
        *,
        name: str = "",
        on_progress: Callable[[UploadProgress], None] | None = None,
    ) -> Dataset:
        """Put a dataset of this machine into the store. Images that are there are not sent again.

        Parameters
        ----------
        dataset
            A folder with a folder of images for each class, a zip of such a folder, or a CSV of path,label[,group].
        name
            What people shall call it; by default after its folder or file.
        on_progress
            Called in this thread, some times a second.

        Returns
        -------
        Dataset
            ``run(f"dataset:{it.digest}")`` uses it. Images that could not be read are its `skipped`.

        Raises
        ------
        InvalidDataset
            If it cannot be used.
        QuotaExceeded, StoreFull
            If the server takes no more.
        Unavailable
            If the server stays away. What was uploaded is kept: the same upload goes on from there.
        """
        from offshelf.client.uploading import upload

        uri = local_uri(os.fspath(dataset), self.address)
        return upload(self._gateway.datasets, uri, name=name, on_progress=on_progress)

    def upload_network(self, network: str) -> str:
        """Put a network of your own into the store, unless it is there.

        Parameters
        ----------
        network
            "onnx:FILE" or "tflite:FILE". Beside FILE lies FILE.json, which says how images go into the network: "size"
            (one number, or [height, width]), "colour" ("RGB" or "BGR"), "mean" and "scale" (one number, or one a
            channel: pixels of 0 to 255 less the mean, divided by the scale), and if need be "output" (its name),
            "pooling" ("avg", "max" or "flatten", of an output of feature maps) and "licence". Or "onnx:s3://bucket/name"
            or "onnx:https://host/path", for the server to fetch, if it may.

        Returns
        -------
        str
            What it is called as an extractor: "onnx:net@0123456789ab".

        Raises
        ------
        InvalidInput
            If the file or its description cannot be used.
        PermissionDenied
            If the server may not fetch it.
        QuotaExceeded, StoreFull
            If the server takes no more.
        """
        return bring_network(self._gateway.networks, self._gateway.absence, network)

    def datasets(self) -> Iterator[Dataset]:
        """Yield all datasets in the store, newest first."""
        return self._gateway.datasets.list()

    def dataset(self, name: str) -> Dataset:
        """Find a dataset by its digest, by the beginning of its digest (eight digits or more), or by its name.

        Raises
        ------
        NotFound
            If there is none.
        InvalidInput
            If there are several.
        """
        return find_dataset(self._gateway.datasets, name)

    def delete_dataset(self, name: str, *, dry_run: bool = False) -> Removal:
        """Delete a dataset, with the images, features, scores, models and reports that no other dataset needs.

        Parameters
        ----------
        name
            As for `dataset`.
        dry_run
            Say what would go, and delete nothing.

        Raises
        ------
        NotFound
            If there is no such dataset.
        Conflict
            If a run uses it, or something else is being deleted.
        """
        # A digest is not looked up: what was deleted in part is in no list any more.
        digest = name if is_digest(name) else self.dataset(name).digest
        return self._gateway.datasets.delete(digest, dry_run=dry_run)

    def collect_garbage(self, days: int = 7, *, dry_run: bool = True) -> Removal:
        """Delete what no dataset, run or model needs any more.

        Parameters
        ----------
        days
            Nothing younger goes; at least 7.
        dry_run
            Say what would go, and delete nothing.

        Raises
        ------
        InvalidInput
            For less than seven days.
        Conflict
            If something else is being deleted.
        """
        return self._gateway.datasets.collect_garbage(days=days, dry_run=dry_run)

    def runs(self, *, on_trouble: Callable[[str], None] | None = None) -> Iterator[Run]:
        """Yield all runs, newest first.

        Parameters
        ----------
        on_trouble
            Called, before any run is given that it concerns, with the reason why runs are missing that have ended and
            cannot be read at the moment.

        Raises
        ------
        Unavailable
            If runs are missing and nobody was to be told, after those that are known.
        """
        found = self._gateway.list_runs(on_trouble)
        return (Run(self._gateway, status, origin=self._connection.origin) for status in found)

    def get(self, run_id: str) -> Run:
        """Return one run. Raises `NotFound`."""
        return Run(self._gateway, self._gateway.get_run(run_id), origin=self._connection.origin)

    def catalog(self) -> Catalog:
        """Return all names that `run` takes, and which extractors are available."""
        return self._gateway.catalog()

    def model(self, model: str | os.PathLike[str]) -> Model:
        """Return a fitted model, ready to predict.

        Parameters
        ----------
        model
            Its digest; or a folder that `Run.download` or `Model.save` wrote, on whatever machine. With services on
            this machine, the folder's model is put into their store first.

        Raises
        ------
        NotFound
            If there is no such folder, or the server does not have the model.
        InvalidInput
            If the folder holds no model.
        DataLoss
            If the model's files are altered.
        Conflict
            If the store holds another model under the same digest.
        """
        return find_model(self._connection, os.fspath(model))


def _fetch(fetch: str) -> RunFetch:
    try:
        return RunFetch(fetch)
    except ValueError:
        raise InvalidInput(f'fetch is "auto" or "never", not {fetch!r}.') from None


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
