"""Certificates for the services of one installation, and the authority that signs them.

    FOLDER/ca/ca.crt, ca.key            the authority; whoever has its key can pretend to be any service
    FOLDER/<service>/tls.crt, tls.key   a certificate for each service, for both ends of a connection
    FOLDER/<service>/ca.crt             the authorities to believe

Exchanging the authority fails no call, in whatever order the services learn of it. The new one is signed by the old one
too (FOLDER/ca/cross.crt) and that certificate is sent along, so that those who know the old one alone believe the new
certificates; and those who know the new one go on believing the old one (FOLDER/ca/previous.crt) for a while.

Needs the package cryptography (the extra "certs"); only `offshelf certs` imports this.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from offshelf.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

DOORS: Final = ("orchestrator", "predictor")
"""The services that users come to, by whatever names they are reached."""

SERVICES: Final = (*DOORS, "extractor", "trainer", "stats")
"""All services; the name of each stands in its certificate."""

HANDOVER: Final = dt.timedelta(minutes=10)
"""For so long, at least, an old authority is believed beside the new one. A changed Secret is in all pods by then."""

_AUTHORITY_DAYS: Final = 3650
_BACKDATED: Final = dt.timedelta(hours=1)
"""Certificates are valid from before they were made on, for clocks that are behind."""

_OF_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")
"""At which a door is reached through `kubectl port-forward`."""

_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")


@dataclass(frozen=True, slots=True)
class Issued:
    """What `issue` has done."""

    services: tuple[str, ...]
    ends: dt.datetime
    """When the certificates expire."""
    new_authority: bool
    """Whether an authority was made."""
    previous_trusted: bool
    """Whether the authority before this one is still believed."""


@dataclass(frozen=True, slots=True)
class _Authority:
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    cross: x509.Certificate | None = None
    """The same authority, signed by the one before."""
    previous: x509.Certificate | None = None
    """The one before, while it is believed."""


def issue(
    folder: Path,
    *,
    namespace: str = "offshelf",
    hosts: Sequence[str] = (),
    days: int = 365,
    services: Sequence[str] = SERVICES,
    new_authority: bool = False,
    now: dt.datetime | None = None,
) -> Issued:
    """Make certificates for services, or new ones in the place of old ones; and an authority if there is none.

    Parameters
    ----------
    folder
        Where all is kept. Made if it is missing.
    namespace
        Kubernetes namespace that the services live in.
    hosts
        Names and addresses at which users reach the doors.
    days
        How long the certificates are valid.
    services
        Which of `SERVICES`.
    new_authority
        Make another authority. It takes the certificates of all services with it.
    now
        The time.

    Raises
    ------
    InvalidInput
        A host is no name or address, or is the name of a service; a file of the authority is missing or cannot be
        used.
    Conflict
        The authority has expired; or it was exchanged a moment ago, and so cannot be again.
    """
    now = (now or dt.datetime.now(dt.UTC)).replace(microsecond=0)
    _check_hosts(hosts)
    first = not (folder / "ca" / "ca.key").exists()
    if first and not new_authority and (folder / "ca" / "ca.crt").exists():
        raise InvalidInput(
            f"{folder / 'ca'} has the certificate of an authority and not its key: put ca.key there for as long as "
            "this takes, or make another authority, which those who know this one will not believe: --new-authority."
        )
    if first or new_authority:
        services = SERVICES
        before = None if first else _aged(_read_authority(folder / "ca"), now)
        if before and before.certificate.not_valid_after_utc <= now:
            before = None  # nobody believes anything by it any more
        if before and before.previous:
            raise Conflict(
                "The authority was exchanged a moment ago, and some services may not know the present one yet. "
                f"Try again {HANDOVER.total_seconds() / 60:.0f} minutes after that."
            )
        authority = _new_authority(now, before)
        _write_authority(folder / "ca", authority)
    else:
        authority = _aged(_read_authority(folder / "ca"), now)
        if authority.previous is None:
            for name in ("previous.crt", "cross.crt"):
                (folder / "ca" / name).unlink(missing_ok=True)
    ends = min(now + dt.timedelta(days=days), authority.certificate.not_valid_after_utc)
    if ends <= now:
        raise Conflict(f"The authority in {folder / 'ca'} has expired. Make another: --new-authority.")
    believed = [authority.certificate, *([authority.previous] if authority.previous else [])]
    for service in services:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = _certificate(authority, service, key, _names(service, namespace, hosts), (now - _BACKDATED, ends))
        _write(folder / service / "tls.key", _key_pem(key), private=True)
        _write(folder / service / "tls.crt", _pem(certificate, *([authority.cross] if authority.cross else [])))
        _write(folder / service / "ca.crt", _pem(*believed))
    return Issued(tuple(services), ends, first or new_authority, authority.previous is not None)


def _names(service: str, namespace: str, hosts: Iterable[str]) -> list[str]:
    within = f"{service}.{namespace}"
    in_cluster = [service, within, f"{within}.svc", f"{within}.svc.cluster.local"]
    outside = [*_OF_THIS_MACHINE, *hosts] if service in DOORS else []
    return list(dict.fromkeys([*in_cluster, *outside]))


def _check_hosts(hosts: Iterable[str]) -> None:
    for host in hosts:
        if host.lower() in SERVICES:
            raise InvalidInput(f"{host} is the name of a service: whoever has it in a certificate is that service.")
        if _address(host) is None and not _HOST.fullmatch(host):
            raise InvalidInput(f"{host!r} is no name or address of a host: give it without a port, as users reach it.")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _new_authority(now: dt.datetime, before: _Authority | None) -> _Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    # Each has a name of its own: authorities of one name are easily mistaken for each other.
    name = _name(f"Offshelf authority {now:%Y-%m-%d %H:%M:%S} {secrets.token_hex(4)}")
    valid = (now - _BACKDATED, now + dt.timedelta(days=_AUTHORITY_DAYS))
    own = _authority_certificate(name, key, name, key, valid, others_below=1)
    if before is None:
        return _Authority(own, key)
    until = (valid[0], before.certificate.not_valid_after_utc)
    cross = _authority_certificate(name, key, before.certificate.subject, before.key, until, others_below=0)
    return _Authority(own, key, cross, before.certificate)


def _aged(authority: _Authority, now: dt.datetime) -> _Authority:
    """Give up the authority before this one, once all have had the time to learn of this one."""
    made = authority.certificate.not_valid_before_utc + _BACKDATED
    return authority if now < made + HANDOVER else _Authority(authority.certificate, authority.key)


def _authority_certificate(
    name: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signer: x509.Name,
    signing: ec.EllipticCurvePrivateKey,
    valid: tuple[dt.datetime, dt.datetime],
    *,
    others_below: int,
) -> x509.Certificate:
    return (
        _builder(name, signer, key, signing, valid)
        .add_extension(x509.BasicConstraints(ca=True, path_length=others_below), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .sign(signing, hashes.SHA256())
    )


def _certificate(
    authority: _Authority,
    service: str,
    key: ec.EllipticCurvePrivateKey,
    names: Iterable[str],
    valid: tuple[dt.datetime, dt.datetime],
) -> x509.Certificate:
    addresses = {name: _address(name) for name in names}
    alternative = [x509.IPAddress(address) if address else x509.DNSName(name) for name, address in addresses.items()]
    both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        _builder(_name(service), authority.certificate.subject, key, authority.key, valid)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(both), critical=False)
        .add_extension(x509.SubjectAlternativeName(alternative), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def _builder(
    name: x509.Name,
    signer: x509.Name,
    key: ec.EllipticCurvePrivateKey,
    signing: ec.EllipticCurvePrivateKey,
    valid: tuple[dt.datetime, dt.datetime],
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(signer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(valid[0])
        .not_valid_after(valid[1])
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _read_authority(folder: Path) -> _Authority:
    try:
        key = load_pem_private_key((folder / "ca.key").read_bytes(), password=None)
        certificate = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
        cross, previous = (
            x509.load_pem_x509_certificate((folder / name).read_bytes()) if (folder / name).exists() else None
            for name in ("cross.crt", "previous.crt")
        )
    except OSError as error:
        raise InvalidInput(f"The authority in {folder} cannot be read: {error.strerror}.") from None
    except (ValueError, TypeError):
        raise InvalidInput(f"{folder} does not hold an authority that offshelf certs made.") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise InvalidInput(f"{folder} holds a key and a certificate that do not belong together.")
    return _Authority(certificate, key, cross, previous)


def _write_authority(folder: Path, authority: _Authority) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name, certificate in (("previous.crt", authority.previous), ("cross.crt", authority.cross)):
        if certificate:
            _write(folder / name, _pem(certificate))
        else:
            (folder / name).unlink(missing_ok=True)
    _write(folder / "ca.crt", _pem(authority.certificate))
    _write(folder / "ca.key", _key_pem(authority.key), private=True)


def _pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _write(path: Path, content: bytes, *, private: bool = False) -> None:
    """Write a file whole or not at all: a service may be reading it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600 if private else 0o644)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        unfinished.replace(path)
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
