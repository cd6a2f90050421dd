"""The certificate by which a service shows who it is, and the authority by which it knows others.

Read with Python's own ssl module, which every installation has; the library that makes certificates is needed by
`offshelf certs` alone.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import ssl
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from offshelf.errors import InvalidInput
from offshelf.reloading import Reloaded
from offshelf.rpc.auth import read_secret

if TYPE_CHECKING:
    from pathlib import Path

CERTIFICATE_FILE: Final = "tls.crt"
"""PEM certificate of a service, followed by those between it and its authority. The names are Kubernetes'."""

KEY_FILE: Final = "tls.key"
"""PEM key of that certificate."""

AUTHORITY_FILE: Final = "ca.crt"
"""PEM certificates of the authorities that others are believed by."""

_NO_CHECK_TIME: Final = 0x200000
"""OpenSSL's X509_V_FLAG_NO_CHECK_TIME, which ssl has no name for."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What the files of a folder hold."""

    certificate: bytes
    """The certificate and those between it and its authority, as PEM."""

    key: bytes = field(repr=False)
    """Its key, as PEM."""

    authority: bytes
    """Certificates of the authorities to trust, as PEM; empty if the folder has none."""

    names: frozenset[str]
    """The names and addresses that the certificate is for."""

    begins: dt.datetime
    """Before this time the certificate is not valid."""

    ends: dt.datetime
    """After this time the certificate is not valid."""


@lru_cache(maxsize=16)
def identity_in(folder: Path) -> Reloaded[Identity]:
    """Read the certificate, key and authority in a folder, and again whenever they change.

    One object for each folder of a process, since connections are opened all the time.

    Raises
    ------
    InvalidInput
        A file is missing or holds something else, others can read the key, or it belongs to another certificate.
    """
    return Reloaded(lambda: _read(folder), folder / CERTIFICATE_FILE, folder / KEY_FILE, folder / AUTHORITY_FILE)


@lru_cache(maxsize=16)
def authority_in(path: Path) -> Reloaded[bytes]:
    """Read a file of PEM certificates to trust, and again whenever it changes.

    Raises
    ------
    InvalidInput
        The file is missing, or holds no certificate.
    """
    return Reloaded(lambda: _read_authority(path), path)


def _read(folder: Path) -> Identity:
    certificate, key = folder / CERTIFICATE_FILE, folder / KEY_FILE
    secret = read_secret(key, "key")
    chain = _content(certificate)
    described = _describe(certificate, key)
    authority = folder / AUTHORITY_FILE
    return Identity(
        certificate=chain,
        key=secret,
        authority=_read_authority(authority) if authority.exists() else b"",
        names=frozenset(name for _, name in described.get("subjectAltName", ())),
        begins=_time(described["notBefore"]),
        ends=_time(described["notAfter"]),
    )


def _read_authority(path: Path) -> bytes:
    pem = _content(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError):
        raise InvalidInput(
            f"{path} holds no PEM certificate. Give the file of the authority that signed the server's."
        ) from None
    return pem


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"The certificates in {path} cannot be read: {error.strerror}.") from None


def _describe(certificate: Path, key: Path) -> dict[str, Any]:
    """Show a certificate, which ssl does for those of a connection alone: so one is made, in memory, with itself.

    That also shows that the key is the certificate's, and that the certificate is good for a server.
    """
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    theirs.check_hostname = False
    theirs.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | _NO_CHECK_TIME
    try:
        # Without a password it would be asked for on the terminal.
        ours.load_cert_chain(certificate, key, password=lambda: "")
        theirs.load_verify_locations(cafile=certificate)
        there, back = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = ours.wrap_bio(there, back, server_side=True)
        client = theirs.wrap_bio(back, there)
        for side in (client, server, client):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
        return dict(client.getpeercert() or {})
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "verify_message", "") or getattr(error, "reason", "") or "no PEM certificate and key"
        raise InvalidInput(
            f"{certificate} and {key} are no certificate with its key ({str(reason).lower().replace('_', ' ')}). "
            "Make new ones: offshelf certs."
        ) from None


def _time(text: str) -> dt.datetime:
    return dt.datetime.fromtimestamp(ssl.cert_time_to_seconds(text), tz=dt.UTC)
