"""Why no connection to a server comes about, in one line with what to do about it.

gRPC tells it in prose alone; tests hold that prose still for us. Machines are named, since the line may be read
elsewhere: that of an orchestrator, in the status of a run.
"""

from __future__ import annotations

import socket
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from offshelf.errors import InvalidInput, Unavailable

if TYPE_CHECKING:
    from pathlib import Path


class Unreachable(Unavailable):
    """The server that was called did not answer; to whoever called us in turn it is one like any `Unavailable`."""


class Security(Enum):
    """How a connection is protected."""

    NONE = 0
    """It is not: it leads to this machine, or something else encrypts."""
    SERVER = 1
    """TLS; the server shows a certificate."""
    MUTUAL = 2
    """TLS; both sides show a certificate."""


class Dialled(Protocol):
    """As much of a channel as is needed to say what is wrong with it."""

    @property
    def address(self) -> str:
        """HOST:PORT, as the user wrote it."""
        ...

    @property
    def security(self) -> Security:
        """How the connection is to be protected."""
        ...

    @property
    def tls(self) -> Path | None:
        """Folder with the certificate that is shown to the server, if one is."""
        ...

    @property
    def server_name(self) -> str:
        """The name that the server's certificate must have, if it is not the host of the address."""
        ...


_EXPIRED: Final = ("certificate has expired",)
_NOT_YET: Final = ("certificate is not yet valid",)
_OTHER_NAME: Final = ("Hostname Verification",)
_NOT_TRUSTED: Final = ("CERTIFICATE_VERIFY_FAILED",)
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "handshake")
_NO_CONNECTION: Final = ("failed to connect", "errors resolving", "resolution", "DNS")
_CLOSED: Final = ("Socket closed", "onnection reset", "EOF", "Broken pipe")


def why_unreachable(details: str, to: Dialled) -> str:
    """Say what gRPC's details of UNAVAILABLE mean."""

    def says(signs: tuple[str, ...]) -> bool:
        return any(sign in details for sign in signs)

    reason = f"The connection to the server at {to.address} was lost. Try again."
    if says(_EXPIRED):
        reason = (
            f"{_its_certificate(to)} has expired. Whoever runs it makes a new one: offshelf certs. "
            f"If it should not have, check the clock of {socket.gethostname()}."
        )
    elif says(_NOT_YET):
        reason = (
            f"{_its_certificate(to)} is not valid yet: set the clock of {socket.gethostname()}, or of the machine that "
            "made it."
        )
    elif says(_OTHER_NAME):
        reason = _other_name(to)
    elif says(_NOT_TRUSTED):
        reason = _not_trusted(to)
    elif says(_NO_TLS):
        reason = f"The server at {to.address} does not speak TLS as expected. Check the address and --ca."
    elif says(_NO_CONNECTION) and says(_CLOSED):
        reason = _closed(to)
    elif says(_NO_CONNECTION):
        reason = _no_server(to)
    return reason


def _no_server(to: Dialled) -> str:
    if to.security is Security.SERVER:
        return (
            f"No server answers at {to.address}. Check --server or OFFSHELF_SERVER. On Kubernetes, this says why it is "
            "down: kubectl describe pods --namespace offshelf "
            "--selector 'app.kubernetes.io/name in (orchestrator, predictor)'"
        )
    return f"No server answers at {to.address}. Start one with `offshelf up`, or check --server or OFFSHELF_SERVER."


def _its_certificate(to: Dialled) -> str:
    return f"The certificate of the server at {to.address}"


def _not_trusted(to: Dialled) -> str:
    if to.tls is None:
        return f"{_its_certificate(to)} is not trusted. Give its authority with --ca."
    return (
        f"{_its_certificate(to)} is not trusted: it is not of the authority in {to.tls / 'ca.crt'}. "
        "Make the certificates of all services with one authority: offshelf certs."
    )


def _other_name(to: Dialled) -> str:
    if to.server_name:
        return (
            f"{_its_certificate(to)} is not for {to.server_name!r}: another service answers there, or it has the files "
            "of another in OFFSHELF_TLS."
        )
    host = to.address.rpartition(":")[0].removeprefix("dns:///").strip("[]")
    return (
        f"{_its_certificate(to)} is for other names. Use one of them with --server, or add this one to it: "
        f"offshelf certs FOLDER --host {host}"
    )


def _closed(to: Dialled) -> str:
    """Explain a server that takes a connection and ends it at once.

    One that does not believe our certificate does so: in TLS 1.3 the handshake is complete for us by then, and gRPC
    does not hand on what the server says of it. Whether our certificate is valid now is all that can be known here.
    """
    server = f"The server at {to.address} ends the connection at once"
    match to.security:
        case Security.NONE:
            return f"{server}. If it wants TLS, give its authority with --ca; if not, try again."
        case Security.SERVER:
            return (
                f"{server}. It may want a certificate from us, as services do that users do not talk to (check the "
                "address), or be about to stop (try again)."
            )
        case Security.MUTUAL:
            return _own_trouble(to) or (
                f"{server}. It may not believe the certificate in {to.tls} (make those of all services with one "
                "authority: offshelf certs; and check its clock), or be about to stop (try again)."
            )


def _own_trouble(to: Dialled) -> str:
    from offshelf.rpc.credentials import what_is_wrong_now
    from offshelf.rpc.identity import identity_in

    if to.tls is None:
        return ""
    try:
        return what_is_wrong_now(identity_in(to.tls).value(), to.tls)
    except InvalidInput as error:
        return error.message
