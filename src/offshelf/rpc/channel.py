"""Channels to our services: limits, deadlines, retries, the token, and our errors instead of gRPC's.

Plaintext is for loopback addresses, and for those between which something else encrypts; everything else is TLS.
"""

from __future__ import annotations

import importlib
import ipaddress
import json
import pkgutil
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc

from offshelf.errors import InvalidInput
from offshelf.rpc.auth import checked_token
from offshelf.rpc.limits import MAX_MESSAGE_BYTES
from offshelf.rpc.outgoing import CallPolicy, SyncInterceptor, aio_interceptors
from offshelf.rpc.rotation import RotatingAioChannel, RotatingChannel
from offshelf.rpc.unreachable import Security

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from offshelf.reloading import Reloaded

UNARY_SECONDS: Final = 30.0
"""Deadline of a unary call for which none is given, in seconds."""

_CONNECT_MILLISECONDS: Final = 4000
"""How long a connection may take to come about. By default gRPC waits 20 s for an address that swallows packets."""

_ADDRESS: Final = re.compile(r"(?:dns:///)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")
_MAX_PORT: Final = 65535

_NOT_REPEATED: Final = frozenset({"offshelf.v1.NetworkService.ImportNetwork"})
"""Unary methods that gRPC does not repeat: each call has the server ask a host of somebody else."""


def open_channel(
    address: str,
    *,
    token: str | None = None,
    ca: Path | None = None,
    tls: Path | None = None,
    server_name: str = "",
    plaintext: bool = False,
) -> grpc.aio.Channel:
    """Open a channel for asynchronous code, to be called in the running event loop.

    No connection is made yet. Calls raise `offshelf.errors`; one to a server that is not there raises `Unavailable`
    within a few seconds. Unary calls get a deadline of `UNARY_SECONDS` unless they have a `timeout`, and are repeated
    while the server is unavailable; streams get neither. Files of certificates may change: calls that begin later use
    the new ones.

    Parameters
    ----------
    address
        HOST:PORT.
    token
        The server's token.
    ca
        File of PEM certificates to trust instead of the system's. With it, loopback addresses get TLS too.
    tls
        Folder with tls.crt, tls.key and ca.crt, for connections between services: both sides show a certificate.
    server_name
        The name that the server's certificate must have, instead of the host of the address.
    plaintext
        Do without TLS though the address is not this machine's, since something else (a mesh) encrypts.

    Raises
    ------
    InvalidInput
        The address, the token or a file cannot be used.
    """
    plan = _prepare(address, token, ca=ca, tls=tls, server_name=server_name, plaintext=plaintext)
    interceptors = aio_interceptors(plan.policy)

    def secured(credentials: grpc.ChannelCredentials) -> grpc.aio.Channel:
        return grpc.aio.secure_channel(plan.target, credentials, options=plan.options, interceptors=interceptors)

    if plan.follows is not None:
        source, credentials_of = plan.follows
        return RotatingAioChannel(source, lambda value: secured(credentials_of(value)))
    if plan.policy.security is Security.NONE:
        return grpc.aio.insecure_channel(plan.target, options=plan.options, interceptors=interceptors)
    return secured(grpc.ssl_channel_credentials())


def open_sync_channel(
    address: str,
    *,
    token: str | None = None,
    ca: Path | None = None,
    tls: Path | None = None,
    server_name: str = "",
    plaintext: bool = False,
) -> grpc.Channel:
    """Open a channel for blocking code; in all else as `open_channel`."""
    plan = _prepare(address, token, ca=ca, tls=tls, server_name=server_name, plaintext=plaintext)
    return grpc.intercept_channel(_sync_channel(plan), SyncInterceptor(plan.policy))


def open_foreign_channel(address: str, *, ca: Path | None = None, plaintext: bool = False) -> grpc.Channel:
    """Open a channel for blocking code to a server that is not ours; parameters as for `open_channel`.

    It is told no token and no request id. Nothing gives its calls a deadline or repeats them, and their errors are
    gRPC's: whoever calls knows what they mean there.

    Raises
    ------
    InvalidInput
        The address or the file cannot be used.
    """
    return _sync_channel(_prepare(address, None, ca=ca, tls=None, server_name="", plaintext=plaintext))


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, so that what is sent to it is on no wire."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _sync_channel(plan: _Plan) -> grpc.Channel:
    def secured(credentials: grpc.ChannelCredentials) -> grpc.Channel:
        return grpc.secure_channel(plan.target, credentials, options=plan.options)

    if plan.follows is not None:
        source, credentials_of = plan.follows
        return RotatingChannel(source, lambda value: secured(credentials_of(value)))
    if plan.policy.security is Security.NONE:
        return grpc.insecure_channel(plan.target, options=plan.options)
    return secured(grpc.ssl_channel_credentials())


@dataclass(frozen=True)
class _Plan:
    """How a channel is to be made."""

    target: str
    options: list[tuple[str, Any]]
    policy: CallPolicy
    follows: tuple[Reloaded[Any], Callable[[Any], grpc.ChannelCredentials]] | None
    """The files that the channel's certificates are from, and what to make of them."""


def _prepare(
    address: str, token: str | None, *, ca: Path | None, tls: Path | None, server_name: str, plaintext: bool
) -> _Plan:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) <= _MAX_PORT:
        raise InvalidInput(f"{address!r} is not the address of a server: expected HOST:PORT, as in 127.0.0.1:8080.")
    local = is_loopback(match["host"])
    follows: tuple[Reloaded[Any], Callable[[Any], grpc.ChannelCredentials]] | None = None
    # Imported where they are needed: most connections of the SDK lead to this machine.
    if tls is not None:
        from offshelf.rpc.credentials import channel_credentials
        from offshelf.rpc.identity import identity_in

        security, follows = Security.MUTUAL, (identity_in(tls), channel_credentials)
        if not identity_in(tls).value().authority:
            raise InvalidInput(f"{tls / 'ca.crt'} is missing: it says which servers to believe.")
    elif ca is not None:
        from offshelf.rpc.identity import authority_in

        security, follows = Security.SERVER, (authority_in(ca), grpc.ssl_channel_credentials)
    else:
        security = Security.NONE if local or plaintext else Security.SERVER
    policy = CallPolicy(
        address,
        None if token is None else checked_token(token),
        UNARY_SECONDS,
        security=security,
        tls=tls,
        server_name=server_name,
    )
    return _Plan(address, _options(local=local, server_name=server_name), policy, follows)


def _options(*, local: bool, server_name: str) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.service_config", json.dumps(_service_config(local=local))),
        ("grpc.enable_retries", 1),
        # This one also bounds how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MILLISECONDS),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.dns_ares_query_timeout", _CONNECT_MILLISECONDS),
        # By default 30 s: so long a pod that was replaced would stay unknown to who names it by a headless Service.
        ("grpc.dns_min_time_between_resolutions_ms", 2000),
        # Otherwise channels to one address share a connection, and its back-off after a failure.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if local:
        # A proxy has no business between a machine and itself.
        options.append(("grpc.enable_http_proxy", 0))
    if server_name:
        options.append(("grpc.ssl_target_name_override", server_name))
    return options


def _service_config(*, local: bool) -> dict[str, Any]:
    """Say which calls gRPC repeats: our unary ones but for `_NOT_REPEATED`, while the server is unavailable.

    Streams are left out by name. gRPC would repeat one that has had no answer yet, and a unit of work that ends its
    process would be sent again without the scheduler knowing.
    """
    # A name of several addresses is that of several replicas.
    balancing: dict[str, Any] = {} if local else {"loadBalancingConfig": [{"round_robin": {}}]}
    return balancing | {
        "methodConfig": [
            {
                "name": _repeated_methods(),
                "retryPolicy": {
                    "maxAttempts": 4,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": [grpc.StatusCode.UNAVAILABLE.name],
                },
            }
        ]
    }


def _repeated_methods() -> list[dict[str, str]]:
    """Name the unary methods of all our services, from the generated code, so that none can be forgotten."""
    import offshelf.v1

    modules = sorted(found.name for found in pkgutil.iter_modules(offshelf.v1.__path__) if found.name.endswith("_pb2"))
    return [
        {"service": service.full_name, "method": method.name}
        for module in modules
        for service in importlib.import_module(f"offshelf.v1.{module}").DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not (method.client_streaming or method.server_streaming or method.full_name in _NOT_REPEATED)
    ]
