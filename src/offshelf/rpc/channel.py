"""Channels to our services: limits, deadlines, retries, the token, and our errors instead of gRPC's.

Plaintext is for loopback addresses alone; everything else is TLS.
"""

from __future__ import annotations

import importlib
import ipaddress
import json
import pkgutil
import re
from typing import TYPE_CHECKING, Any, Final

import grpc

from offshelf.errors import InvalidInput
from offshelf.rpc.auth import checked_token
from offshelf.rpc.limits import MAX_MESSAGE_BYTES
from offshelf.rpc.outgoing import CallPolicy, SyncInterceptor, aio_interceptors

if TYPE_CHECKING:
    from pathlib import Path

UNARY_SECONDS: Final = 30.0
"""Deadline of a unary call for which none is given, in seconds."""

_CONNECT_MILLISECONDS: Final = 4000
"""How long a connection may take to come about. By default gRPC waits 20 s for an address that swallows packets."""

_ADDRESS: Final = re.compile(r"(?:dns:///)?(?P<host>\[[0-9A-Fa-f:.%]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})")
_MAX_PORT: Final = 65535


def open_channel(address: str, *, token: str | None, ca: Path | None = None) -> grpc.aio.Channel:
    """Open a channel for asynchronous code, to be called in the running event loop.

    No connection is made yet. Calls raise `offshelf.errors`; one to a server that is not there raises `Unavailable`
    within a few seconds. Unary calls get a deadline of `UNARY_SECONDS` unless they have a `timeout`, and are repeated
    while the server is unavailable; streams get neither.

    Parameters
    ----------
    address
        HOST:PORT.
    token
        The server's token.
    ca
        File of PEM certificates to trust instead of the system's. With it, loopback addresses get TLS too.

    Raises
    ------
    InvalidInput
        The address, the token or the file cannot be used.
    """
    target, credentials, options, policy = _prepare(address, token, ca)
    interceptors = aio_interceptors(policy)
    if credentials is None:
        return grpc.aio.insecure_channel(target, options=options, interceptors=interceptors)
    return grpc.aio.secure_channel(target, credentials, options=options, interceptors=interceptors)


def open_sync_channel(address: str, *, token: str | None, ca: Path | None = None) -> grpc.Channel:
    """Open a channel for blocking code; in all else as `open_channel`."""
    target, credentials, options, policy = _prepare(address, token, ca)
    if credentials is None:
        channel = grpc.insecure_channel(target, options=options)
    else:
        channel = grpc.secure_channel(target, credentials, options=options)
    return grpc.intercept_channel(channel, SyncInterceptor(policy))


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine, so that what is sent to it is on no wire."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _prepare(
    address: str, token: str | None, ca: Path | None
) -> tuple[str, grpc.ChannelCredentials | None, list[tuple[str, Any]], CallPolicy]:
    match = _ADDRESS.fullmatch(address)
    if match is None or not 0 < int(match["port"]) <= _MAX_PORT:
        raise InvalidInput(f"{address!r} is not the address of a server: expected HOST:PORT, as in 127.0.0.1:8080.")
    local = is_loopback(match["host"])
    policy = CallPolicy(address, None if token is None else checked_token(token), UNARY_SECONDS)
    return address, _credentials(ca, local=local), _options(local=local), policy


def _credentials(ca: Path | None, *, local: bool) -> grpc.ChannelCredentials | None:
    if ca is None:
        return None if local else grpc.ssl_channel_credentials()
    try:
        pem = ca.read_bytes()
    except OSError as error:
        raise InvalidInput(f"The certificates in {ca} cannot be read: {error.strerror}.") from None
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise InvalidInput(f"{ca} holds no PEM certificate. Give the file of the authority that signed the server's.")
    return grpc.ssl_channel_credentials(pem)


def _options(*, local: bool) -> list[tuple[str, Any]]:
    options: list[tuple[str, Any]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
        ("grpc.service_config", json.dumps(_service_config())),
        ("grpc.enable_retries", 1),
        # This one also bounds how long one attempt to connect may take.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MILLISECONDS),
        ("grpc.initial_reconnect_backoff_ms", 200),
        ("grpc.max_reconnect_backoff_ms", 2000),
        ("grpc.dns_ares_query_timeout", _CONNECT_MILLISECONDS),
        # Otherwise channels to one address share a connection, and its back-off after a failure.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if local:
        # A proxy has no business between a machine and itself.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def _service_config() -> dict[str, Any]:
    """Say which calls gRPC repeats: our unary ones, while the server is unavailable.

    Streams are left out by name. gRPC would repeat one that has had no answer yet, and a unit of work that ends its
    process would be sent again without the scheduler knowing.
    """
    return {
        "methodConfig": [
            {
                "name": _unary_methods(),
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


def _unary_methods() -> list[dict[str, str]]:
    """Name all unary methods of all our services, from the generated code, so that none can be forgotten."""
    import offshelf.v1

    modules = sorted(found.name for found in pkgutil.iter_modules(offshelf.v1.__path__) if found.name.endswith("_pb2"))
    return [
        {"service": service.full_name, "method": method.name}
        for module in modules
        for service in importlib.import_module(f"offshelf.v1.{module}").DESCRIPTOR.services_by_name.values()
        for method in service.methods
        if not (method.client_streaming or method.server_streaming)
    ]
