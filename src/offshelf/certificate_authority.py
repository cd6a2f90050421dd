"""The authority that signs the certificates of one installation: what it makes, and the files that hold it.

Its files and those of the certificates are private where they hold a key, and written whole or not at all. Needs the
package cryptography, as `offshelf.certificates` does, which alone imports this.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

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

from offshelf.errors import InvalidInput

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

_DAYS: Final = 3650

_BACKDATED: Final = dt.timedelta(hours=1)
"""Certificates are valid from before they were made on, for clocks that are behind."""


@dataclass(frozen=True, slots=True)
class Authority:
    """An authority, and how it is tied to the one before it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    cross: x509.Certificate | None = None
    """The same authority, signed by the one before."""
    previous: x509.Certificate | None = None
    """The one before, while it is believed."""

    @classmethod
    def make(cls, now: dt.datetime, before: Authority | None) -> Self:
        """Make another authority, which those who know the one before believe too."""
        key = ec.generate_private_key(ec.SECP256R1())
        # Each has a name of its own: authorities of one name are easily mistaken for each other.
        name = _name(f"Offshelf authority {now:%Y-%m-%d %H:%M:%S} {secrets.token_hex(4)}")
        valid = (now - _BACKDATED, now + dt.timedelta(days=_DAYS))
        own = _authority_certificate(name, key, name, key, valid, others_below=1)
        if before is None:
            return cls(own, key)
        until = (valid[0], before.certificate.not_valid_after_utc)
        cross = _authority_certificate(name, key, before.certificate.subject, before.key, until, others_below=0)
        return cls(own, key, cross, before.certificate)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what `write` wrote.

        Raises
        ------
        InvalidInput
            A file is missing or cannot be used.
        """
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
        return cls(certificate, key, cross, previous)

    def write(self, folder: Path) -> None:
        """Put it into a folder."""
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for name, certificate in (("previous.crt", self.previous), ("cross.crt", self.cross)):
            if certificate:
                _write(folder / name, _pem(certificate))
            else:
                (folder / name).unlink(missing_ok=True)
        _write(folder / "ca.crt", _pem(self.certificate))
        _write_key(folder / "ca.key", self.key)

    @property
    def made(self) -> dt.datetime:
        """When it was made."""
        return self.certificate.not_valid_before_utc + _BACKDATED

    @property
    def ends(self) -> dt.datetime:
        """When nobody believes it any more."""
        return self.certificate.not_valid_after_utc

    def certify(self, service: str, names: Iterable[str], folder: Path, now: dt.datetime, ends: dt.datetime) -> None:
        """Make a key and a certificate for a service, good for both ends of a connection, and put them into a folder.

        Parameters
        ----------
        service
            Whom it names.
        names
            Names and addresses at which the service is reached.
        folder
            Gets tls.crt, tls.key, and the authorities to believe in ca.crt.
        now, ends
            From when and until when it is valid.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            _builder(_name(service), self.certificate.subject, key, self.key, (now - _BACKDATED, ends))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(both), critical=False)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
            .sign(self.key, hashes.SHA256())
        )
        _write_key(folder / "tls.key", key)
        _write(folder / "tls.crt", _pem(certificate, self.cross))
        _write(folder / "ca.crt", _pem(self.certificate, self.previous))


def names_in(path: Path) -> list[str]:
    """List the names and addresses that a certificate is for; none where there is no certificate."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        alternatives = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (OSError, ValueError, x509.ExtensionNotFound):
        return []
    return [str(name.value) for name in alternatives if isinstance(name, x509.DNSName | x509.IPAddress)]


def address_of(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read a host as an address; None if it is a name."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


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


def _alternative(host: str) -> x509.GeneralName:
    found = address_of(host)
    return x509.IPAddress(found) if found else x509.DNSName(host)


def _pem(*certificates: x509.Certificate | None) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates if certificate)


def _write_key(path: Path, key: ec.EllipticCurvePrivateKey) -> None:
    _write(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), private=True)


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
