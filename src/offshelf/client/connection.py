"""Which services a client speaks to: a server's, or those on this machine, which are started if none run there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from offshelf.client.gateway import Gateway
from offshelf.errors import InvalidInput
from offshelf.rpc.auth import read_token
from offshelf.settings import default_store

if TYPE_CHECKING:
    from offshelf import embedded


class Connection:
    """A connection to one installation.

    Parameters and errors are those of `Client`, which see.
    """

    def __init__(
        self,
        server: str | None,
        token: str | None,
        ca: str | os.PathLike[str] | None,
        store: str | os.PathLike[str] | None,
    ) -> None:
        if server and store:
            raise InvalidInput("Name a server or a store, not both: a server has its own store.")
        server = server or (None if store else os.environ.get("OFFSHELF_SERVER"))
        self._endpoint: embedded.Endpoint | None = None
        if server:
            token = token or os.environ.get("OFFSHELF_TOKEN") or _token_in_file(os.environ.get("OFFSHELF_TOKEN_FILE"))
            certificate = os.fspath(ca) if ca else os.environ.get("OFFSHELF_CA")
        else:
            from offshelf import embedded  # its file locks exist on POSIX systems alone; a remote server needs none

            self._endpoint = embedded.attach_or_start(embedded.store_root(os.fspath(store or default_store())))
            server, token, certificate = self._endpoint.address, self._endpoint.token, None
        self.address = server
        """HOST:PORT."""
        try:
            self.gateway = Gateway(
                server,
                token=token,
                ca=Path(certificate) if certificate else None,
                predictor=os.environ.get("OFFSHELF_PREDICTOR"),
                remote=self.remote,
            )
        except BaseException:
            if self._endpoint is not None:
                self._endpoint.release()
            raise

    @property
    def remote(self) -> bool:
        """Whether the services have other files than this machine."""
        return self._endpoint is None

    @property
    def store(self) -> Path | None:
        """Directory of the store if the services are on this machine."""
        return self._endpoint.root if self._endpoint else None

    @property
    def origin(self) -> dict[str, str]:
        """What an output says of where its run was made."""
        return {"store": str(self.store)} if self.store else {"server": self.address}

    def close(self, *, wait: bool) -> None:
        """Close it; does nothing the second time. Services that this client started end if nobody else uses them."""
        self.gateway.close()
        if self._endpoint is not None:
            self._endpoint.release(wait=wait)


def _token_in_file(path: str | None) -> str | None:
    """Read the token that somebody keeps in a file, if it is named."""
    return read_token(Path(path)) if path else None
