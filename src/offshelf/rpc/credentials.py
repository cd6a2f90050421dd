"""gRPC's credentials, made from certificates that may change while they are used.

gRPC asks a server's at each new connection. It never asks a channel's again: `offshelf.rpc.rotation` opens new ones.
"""

from __future__ import annotations

import datetime as dt
import logging
import socket
from typing import TYPE_CHECKING, Final

import grpc

from offshelf.errors import InvalidInput
from offshelf.rpc.identity import AUTHORITY_FILE, CERTIFICATE_FILE, identity_in

if TYPE_CHECKING:
    from pathlib import Path

    from offshelf.rpc.identity import Identity

_log: Final = logging.getLogger(__name__)


def server_credentials(folder: Path, *, clients_too: bool) -> grpc.ServerCredentials:
    """Make the credentials of a server from its folder; they follow the files, the authority included.

    Parameters
    ----------
    folder
        Holds `tls.crt`, `tls.key` and, for `clients_too`, `ca.crt`.
    clients_too
        Whether clients must show a certificate of the same authority.

    Raises
    ------
    InvalidInput
        A file is missing or cannot be used, or the certificate is not valid now.
    """
    source = identity_in(folder)
    given = source.value()
    if clients_too and not given.authority:
        raise InvalidInput(f"{folder / AUTHORITY_FILE} is missing: it says which clients to believe.")
    refuse_if_not_valid(given, folder)

    def fetch() -> grpc.ServerCertificateConfiguration | None:
        nonlocal given
        latest = source.value()
        if latest is given or (clients_too and not latest.authority):
            return None
        given = latest
        _log.info("the certificate was exchanged", extra={"valid_until": latest.ends.isoformat()})
        return _configuration(latest)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(given),
        fetch,  # type: ignore[arg-type]  # None is right too: nothing has changed
        require_client_authentication=clients_too,
    )


def channel_credentials(identity: Identity) -> grpc.ChannelCredentials:
    """Make the credentials of a channel between services: both show a certificate."""
    return grpc.ssl_channel_credentials(identity.authority, identity.key, identity.certificate)


def refuse_if_not_valid(identity: Identity, folder: Path) -> None:
    """Refuse a certificate that nobody would believe at this time.

    Raises
    ------
    InvalidInput
        It has expired, or it is not valid yet.
    """
    if trouble := what_is_wrong_now(identity, folder):
        raise InvalidInput(trouble)


def what_is_wrong_now(identity: Identity, folder: Path) -> str:
    """Say in a sentence why a certificate of ours is not valid at this time; empty if it is."""
    now, certificate = dt.datetime.now(dt.UTC), folder / CERTIFICATE_FILE
    here = socket.gethostname()  # whoever reads this may be at another machine
    if now > identity.ends:
        ended = f"{identity.ends:%Y-%m-%d %H:%M} UTC"
        return f"The certificate {certificate} of {here} expired on {ended}. Make a new one: offshelf certs."
    if now < identity.begins:
        return (
            f"The certificate {certificate} of {here} is not valid before {identity.begins:%Y-%m-%d %H:%M} UTC, and "
            f"there it is {now:%Y-%m-%d %H:%M}. Set the clock of {here}, or of the machine that made it."
        )
    return ""


def _configuration(identity: Identity) -> grpc.ServerCertificateConfiguration:
    return grpc.ssl_server_certificate_configuration(
        [(identity.key, identity.certificate)], root_certificates=identity.authority or None
    )
