"""How the main port of a service is protected, decided by the contract of the service and the settings.

Some services are called by the orchestrator alone (every method of theirs is for the role SERVICE); between them, both
sides show a certificate. The others are doors: users come to them, with tokens.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from offshelf.errors import InvalidInput
from offshelf.rpc.auth import read_token
from offshelf.rpc.authentication import BearerTokens, OrchestratorCertificate, Owner, Users
from offshelf.rpc.channel import is_loopback
from offshelf.rpc.credentials import server_credentials
from offshelf.rpc.permissions import is_internal
from offshelf.rpc.service import BringsToken

if TYPE_CHECKING:
    import grpc

    from offshelf.rpc.authentication import Authenticator, TokenHolders
    from offshelf.rpc.service import Service
    from offshelf.settings import Settings

_log: Final = logging.getLogger(__name__)

CONNECTION_SECONDS: Final = 300
"""After so long, clients from elsewhere are asked to connect anew: otherwise a new replica never gets any of them."""

CONNECTION_GRACE_SECONDS: Final = 3600
"""How long calls of such a connection may still go on. An upload is the longest call there is."""

_HANDSHAKE_MILLISECONDS: Final = 10_000
"""So long may a client take to agree on TLS; gRPC's own two minutes let idle connections pile up."""

_WEAK_TOKEN: Final = 32
"""A token of fewer characters may be one that somebody thought of."""


@dataclass(frozen=True)
class Access:
    """What a server needs to let in those whom it should, and nobody else."""

    authenticator: Authenticator
    """Finds out who calls."""

    credentials: grpc.ServerCredentials | None
    """Of the main port; None for plaintext."""

    options: tuple[tuple[str, int], ...]
    """Of gRPC, for the main port."""

    @classmethod
    def of(cls, service: Service, settings: Settings) -> Access:
        """Decide how a service is protected.

        Raises
        ------
        InvalidInput
            Its connections could be read by others, there is nothing to know callers by, or a file cannot be used.
        """
        reachable = not is_loopback(settings.host)
        if reachable and settings.tls is None and not settings.plaintext:
            raise InvalidInput(
                f"This server would listen on {settings.host} without encryption. Set OFFSHELF_TLS to a folder with "
                "tls.crt, tls.key and ca.crt (offshelf certs makes them), or OFFSHELF_PLAINTEXT=1 if a mesh encrypts."
            )
        internal = is_internal(service.name)
        options: tuple[tuple[str, int], ...] = (("grpc.server_handshake_timeout_ms", _HANDSHAKE_MILLISECONDS),)
        if reachable and not internal:
            options += connection_options(CONNECTION_SECONDS, CONNECTION_GRACE_SECONDS)
        return cls(
            _authenticator(service, settings, internal=internal),
            None if settings.tls is None else server_credentials(settings.tls, clients_too=internal),
            options,
        )


def connection_options(seconds: float, grace_seconds: float) -> tuple[tuple[str, int], ...]:
    """Say for how long clients keep a connection, and how long calls may go on after that."""
    return (
        ("grpc.max_connection_age_ms", round(seconds * 1000)),
        ("grpc.max_connection_age_grace_ms", round(grace_seconds * 1000)),
    )


def _authenticator(service: Service, settings: Settings, *, internal: bool) -> Authenticator:
    if internal and settings.tls is not None:
        return OrchestratorCertificate()
    holders: list[TokenHolders] = []
    if not internal and settings.users is not None:
        holders.append(Users(settings.users))
    token_file = service.token_file if isinstance(service, BringsToken) else None
    token_file = token_file or settings.token_file
    if token_file is not None or not holders:
        token = read_token(token_file)
        if len(token) < _WEAK_TOKEN:
            _log.warning("the token of this server is short: one of 32 random characters cannot be guessed")
        holders.append(Owner(token))
    return BearerTokens(holders)
