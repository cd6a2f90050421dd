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
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from offshelf.certificate_authority import Authority, address_of, names_in
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

_OF_THIS_MACHINE: Final = ("localhost", "127.0.0.1", "::1")
"""At which a door is reached through `kubectl port-forward`."""

_LABEL: Final = "[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_HOST: Final = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*")
_IN_CLUSTER: Final = re.compile(rf"({'|'.join(SERVICES)})\.(?P<namespace>{_LABEL})\.svc(\.cluster\.local)?")


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
        Names and addresses at which users reach the doors; by default those that the present certificates have,
        without names in a cluster.
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
        before = None if first else _aged(Authority.read(folder / "ca"), now)
        if before and before.ends <= now:
            before = None  # nobody believes anything by it any more
        if before and before.previous:
            raise Conflict(
                "The authority was exchanged a moment ago, and some services may not know the present one yet. "
                f"Try again {HANDOVER.total_seconds() / 60:.0f} minutes after that."
            )
        authority = Authority.make(now, before)
        authority.write(folder / "ca")
    else:
        authority = _aged(Authority.read(folder / "ca"), now)
        if authority.previous is None:
            for name in ("previous.crt", "cross.crt"):
                (folder / "ca" / name).unlink(missing_ok=True)
    ends = min(now + dt.timedelta(days=days), authority.ends)
    if ends <= now:
        raise Conflict(f"The authority in {folder / 'ca'} has expired. Make another: --new-authority.")
    for service in services:
        known = hosts if hosts or service not in DOORS else _of_users(names_in(folder / service / "tls.crt"))
        authority.certify(service, _names(service, namespace, known), folder / service, now, ends)
    return Issued(tuple(services), ends, first or new_authority, authority.previous is not None)


def _names(service: str, namespace: str, hosts: Iterable[str]) -> list[str]:
    outside = [*_OF_THIS_MACHINE, *hosts] if service in DOORS else []
    return list(dict.fromkeys([*_in_cluster(service, namespace), *outside]))


def _in_cluster(service: str, namespace: str) -> list[str]:
    within = f"{service}.{namespace}"
    return [service, within, f"{within}.svc", f"{within}.svc.cluster.local"]


def _of_users(names: Sequence[str]) -> list[str]:
    """Leave out all names in a cluster, which in another namespace than ours are those of another installation."""
    namespaces = {found["namespace"] for found in map(_IN_CLUSTER.fullmatch, names) if found}
    # By those alone: one may live in the namespace "lan", and users come to another's orchestrator.lan.
    within = {name for service in SERVICES for namespace in namespaces for name in _in_cluster(service, namespace)}
    return [name for name in names if name not in within]


def _check_hosts(hosts: Iterable[str]) -> None:
    for host in hosts:
        if host.lower() in SERVICES:
            raise InvalidInput(f"{host} is the name of a service: whoever has it in a certificate is that service.")
        if address_of(host) is None and not _HOST.fullmatch(host):
            raise InvalidInput(f"{host!r} is no name or address of a host: give it without a port, as users reach it.")


def _aged(authority: Authority, now: dt.datetime) -> Authority:
    """Give up the authority before this one, once all have had the time to learn of this one."""
    return authority if now < authority.made + HANDOVER else Authority(authority.certificate, authority.key)
