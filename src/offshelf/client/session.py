"""The door of the SDK."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

from offshelf.client import outputs
from offshelf.client.gateway import Gateway
from offshelf.client.importing import import_model
from offshelf.client.model import Model
from offshelf.client.records import RunSpec
from offshelf.client.run import Run
from offshelf.digests import is_digest
from offshelf.errors import InvalidInput, NotFound
from offshelf.settings import default_store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import TracebackType

    from offshelf import embedded
    from offshelf.client.records import Catalog
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
        Bearer token for the server. By default ``OFFSHELF_TOKEN``.
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
        if server and store:
            raise InvalidInput("Name a server or a store, not both: a server has its own store.")
        server = server or (None if store else os.environ.get("OFFSHELF_SERVER"))
        self._endpoint: embedded.Endpoint | None = None
        if server:
            token = token or os.environ.get("OFFSHELF_TOKEN")
            certificate = os.fspath(ca) if ca else os.environ.get("OFFSHELF_CA")
        else:
            from offshelf import embedded  # its file locks exist on POSIX systems alone; a remote server needs none

            self._endpoint = embedded.attach_or_start(embedded.store_root(os.fspath(store or default_store())))
            server, token, certificate = self._endpoint.address, self._endpoint.token, None
        self._server = server
        try:
            self._gateway = Gateway(
                server,
                token=token,
                ca=Path(certificate) if certificate else None,
                predictor=os.environ.get("OFFSHELF_PREDICTOR"),
            )
        except BaseException:
            if self._endpoint is not None:
                self._endpoint.release()
            raise

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
        return self._server

    @property
    def _origin(self) -> dict[str, str]:
        return {"store": str(self.store)} if self.store else {"server": self._server}

    @property
    def store(self) -> Path | None:
        """Directory of the store if the services are on this machine; None if they are behind a server."""
        return self._endpoint.root if self._endpoint else None

    def close(self, *, wait: bool = True) -> None:
        """Close the connection; does nothing the second time.

        Parameters
        ----------
        wait
            Wait for the end of services that this client started and nobody else uses. Otherwise they end by
            themselves a little later.
        """
        self._gateway.close()
        if self._endpoint is not None:
            self._endpoint.release(wait=wait)

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
    ) -> Run:
        """Start a run, or take an unfinished one of the same specification up.

        Parameters
        ----------
        dataset
            A folder with a folder of images for each class, a zip of such a folder, or a CSV of path,label[,group].
            With a server, a path on that server.
        extractors, classifiers
            Names of the catalogue; by default all that are available.
        measure
            What is best: a name of the catalogue.
        folds
            Number of folds of the cross-validation.
        seed
            Equal seeds give equal scores.
        choice
            Fit this combination instead of the best one.

        Returns
        -------
        Run
            It goes on by itself: `Run.watch` waits for its end.

        Raises
        ------
        InvalidInput
            If something cannot be used; `UnknownName` has the nearest match, `InvalidDataset` what is wrong with the
            images.
        PermissionDenied
            If the dataset is outside the server's data roots.
        ResourceExhausted
            If the store is full.
        """
        spec = RunSpec(
            dataset=self._dataset(os.fspath(dataset)),
            extractors=_names(extractors),
            classifiers=_names(classifiers),
            measure=measure,
            folds=folds,
            seed=seed,
            choice=choice,
        )
        status, resumed = self._gateway.create_run(spec)
        return Run(self._gateway, status, spec=spec, origin=self._origin, resumed=resumed)

    def runs(self) -> Iterator[Run]:
        """Yield all runs, newest first."""
        return (Run(self._gateway, status, origin=self._origin) for status in self._gateway.list_runs())

    def get(self, run_id: str) -> Run:
        """Return one run. Raises `NotFound`."""
        return Run(self._gateway, self._gateway.get_run(run_id), origin=self._origin)

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
        name = os.fspath(model)
        if is_digest(name):
            return Model.of(self._gateway.describe_model(name), self._gateway, partial(self._read_model, name))
        folder = outputs.model_folder(Path(name))
        digest = import_model(folder, self.store)
        try:
            summary = self._gateway.describe_model(digest)
        except NotFound as error:
            raise NotFound(
                f"The server {self._server} does not have the model in {folder}: make the run there, or predict on "
                "this machine, without --server."
            ) from error
        return Model.of(summary, self._gateway, lambda file: outputs.read_chunks(folder / file))

    def _read_model(self, digest: str, file: str) -> Iterator[bytes]:
        for status in self._gateway.list_runs():
            if status.result is not None and status.result.model == digest:
                return self._gateway.read_artifact(status.id, f"{outputs.MODEL_FOLDER}/{file}")
        raise NotFound(f"No run on {self._server} has the model {digest}, so its files cannot be read.")

    def _dataset(self, dataset: str) -> str:
        if self._endpoint is None or not dataset:
            return dataset  # an empty name is refused, and not the folder we happen to be in
        # The services were started elsewhere, perhaps by another client. Links are for the server to judge, and a "~"
        # of nobody's, at which pathlib fails, is a name like any other.
        return os.path.abspath(os.path.expanduser(dataset))  # noqa: PTH100, PTH111


def _names(names: str | Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)
