"""Who calls, and whether they may: one authenticator for each way to show it, then the roles of the contract."""

from __future__ import annotations

import contextlib
import datetime as dt
import hmac
import logging
import math
from typing import TYPE_CHECKING, Any, Final, Protocol

from offshelf import tokens
from offshelf.access import OWNER, Caller, Role
from offshelf.errors import PermissionDenied, Unauthenticated
from offshelf.reloading import Reloaded
from offshelf.rpc.auth import AUTHORIZATION_METADATA, BEARER, caller_of_call
from offshelf.rpc.permissions import least_role
from offshelf.rpc.throttle import FailureLimit, TooManyFailures, address_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from offshelf.rpc.interceptors import Call, Layer, Metadata

_log: Final = logging.getLogger(__name__)

ORCHESTRATOR: Final = "orchestrator"
"""The name that a certificate must have for its holder to call internal services."""

_ALTERNATIVE_NAMES: Final = "x509_subject_alternative_name"
_SERVICES: Final = frozenset({Role.SERVICE})


class Authenticator(Protocol):
    """One way to show who one is."""

    def caller(self, call: Call) -> Caller:
        """Find out who calls; raises `Unauthenticated`, or another of our errors, if that is not known."""
        ...

    def hears(self, metadata: Metadata) -> bool:
        """Tell from the metadata of a call whether it may be somebody's whom `caller` lets in."""
        ...


class TokenHolders(Protocol):
    """Those who have a token."""

    def holder(self, token: str) -> Caller | None:
        """Find who has a token; raises `Unauthenticated` for one that was good once."""
        ...


class Owner:
    """The one token of an installation on one machine, or of services whose connections a mesh encrypts."""

    def __init__(self, token: str) -> None:
        self._expected = token.encode()

    def holder(self, token: str) -> Caller | None:
        """See `TokenHolders`."""
        # In constant time, so that a wrong token says nothing about the right one.
        return OWNER if hmac.compare_digest(token.encode(errors="surrogateescape"), self._expected) else None


class Users:
    """The users of a server, by its users file, which may change.

    Raises
    ------
    InvalidInput
        The file cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self._users = Reloaded(lambda: tokens.read_users(path), path)
        if not self._users.value():
            _log.warning("nobody can use this server: there are no users in its file", extra={"file": str(path)})

    def holder(self, token: str) -> Caller | None:
        """See `TokenHolders`."""
        user = tokens.find(self._users.value(), token)
        if user is None:
            return None
        if user.expires is not None and dt.datetime.now(dt.UTC) >= user.expires:
            raise Unauthenticated(
                f"the token of {user.name} expired on {user.expires:%Y-%m-%d}: "
                "ask whoever runs this server for a new one."
            )
        return Caller.user(user.name, user.role)


class BearerTokens:
    """Tokens in the metadata of each call.

    Parameters
    ----------
    holders
        Asked one after the other.
    limit
        On failures of one address.
    """

    def __init__(self, holders: Sequence[TokenHolders], limit: FailureLimit | None = None) -> None:
        self._holders = tuple(holders)
        self._limit = FailureLimit() if limit is None else limit

    def caller(self, call: Call) -> Caller:
        """See `Authenticator`."""
        try:
            return self._holder(call.metadata(AUTHORIZATION_METADATA))
        except Unauthenticated:
            address = address_of(call.context.peer())
            if wait := self._limit.failed(address):
                raise TooManyFailures(
                    "too many wrong tokens from this address: check --token or OFFSHELF_TOKEN, and try again in "
                    f"{math.ceil(wait)} s."
                ) from None
            _log.warning("a caller was not let in", extra={"method": call.method, "address": address})
            raise

    def hears(self, metadata: Metadata) -> bool:
        """See `Authenticator`."""
        try:
            self._holder([str(value) for key, value in metadata if key == AUTHORIZATION_METADATA])
        except Unauthenticated:
            return False
        return True

    def _holder(self, sent: list[str]) -> Caller:
        if not sent:
            raise Unauthenticated("no token: give the server's token with --token or OFFSHELF_TOKEN.")
        if len(sent) == 1 and sent[0].lower().startswith(BEARER.lower()):
            token = sent[0][len(BEARER) :].strip()
            for holders in self._holders:
                if caller := holders.holder(token):
                    return caller
        raise Unauthenticated("wrong token: check --token or OFFSHELF_TOKEN against the token of this server.")


class OrchestratorCertificate:
    """The client certificate of the orchestrator. gRPC has verified it; what is left to ask is whose it is."""

    def caller(self, call: Call) -> Caller:
        """See `Authenticator`."""
        shown: Any = call.context.auth_context()
        names = {name.decode(errors="replace") for name in shown.get(_ALTERNATIVE_NAMES, ())}
        if ORCHESTRATOR in names:
            return Caller(ORCHESTRATOR, _SERVICES)
        raise PermissionDenied(
            f"this service is for the orchestrator alone, and the certificate shown is for {_listed(names)}. "
            "Check which folder OFFSHELF_TLS names there."
        )

    def hears(self, metadata: Metadata) -> bool:
        """See `Authenticator`; whoever has got so far has shown a certificate of this installation."""
        del metadata
        return True


def access_layer(authenticator: Authenticator) -> Layer:
    """Make the layer that lets nobody in who is not known or may not call the method; no method is exempt."""

    @contextlib.asynccontextmanager
    async def admit(call: Call) -> AsyncIterator[None]:
        caller = authenticator.caller(call)
        caller_of_call.set(caller)
        # For a method that does not exist, the answer is that; it opens nothing.
        if call.known:
            _authorize(caller, call.method)
        yield

    return admit


def _authorize(caller: Caller, method: str) -> None:
    least, name = least_role(method), method.rpartition("/")[2]
    if least is None:
        raise PermissionDenied(f"{name} is open to nobody.")
    if caller.may(least):
        return
    if least is Role.SERVICE or Role.SERVICE in caller.roles:
        raise PermissionDenied(f"{name} is not for {caller.name}.")
    raise PermissionDenied(
        f"{caller.name} is {max(caller.roles).name.lower()} here, and {name} is for the role "
        f"{least.name.lower()}: ask whoever runs this server."
    )


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nobody by name"
