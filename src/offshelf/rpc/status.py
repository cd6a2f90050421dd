"""One table between our errors and gRPC's statuses, used in both directions.

A status alone cannot tell an `UnknownName` from an `InvalidInput`, so the name of the class travels beside it, in the
trailing metadata `offshelf-error`. Its absence says that the status was not set by us but by gRPC itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

import grpc

from offshelf import errors
from offshelf.errors import OffshelfError

if TYPE_CHECKING:
    from collections.abc import Mapping

ERROR_METADATA: Final = "offshelf-error"
"""Key of the trailing metadata that names the class of the error."""

REQUEST_ID_METADATA: Final = "x-request-id"
"""Key of the metadata that names the request, in both directions."""

MAX_DETAIL_BYTES: Final = 4096
"""Longest message sent with a status, in bytes as encoded on the wire. All metadata of an answer share 8 KiB."""

STATUS_OF: Final[Mapping[type[OffshelfError], grpc.StatusCode]] = {
    errors.InvalidInput: grpc.StatusCode.INVALID_ARGUMENT,
    errors.NotFound: grpc.StatusCode.NOT_FOUND,
    errors.Conflict: grpc.StatusCode.FAILED_PRECONDITION,
    errors.Unauthenticated: grpc.StatusCode.UNAUTHENTICATED,
    errors.PermissionDenied: grpc.StatusCode.PERMISSION_DENIED,
    errors.ResourceExhausted: grpc.StatusCode.RESOURCE_EXHAUSTED,
    errors.DataLoss: grpc.StatusCode.DATA_LOSS,
    errors.Unavailable: grpc.StatusCode.UNAVAILABLE,
    errors.DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.Cancelled: grpc.StatusCode.CANCELLED,
    errors.RunFailed: grpc.StatusCode.ABORTED,
    errors.Internal: grpc.StatusCode.INTERNAL,
}
"""The table. A subclass has the status of its nearest parent here; no status appears twice."""


def status_of(error: OffshelfError) -> grpc.StatusCode:
    """The status an error is sent as."""
    return next((STATUS_OF[kind] for kind in type(error).__mro__ if kind in STATUS_OF), grpc.StatusCode.INTERNAL)


def public_name(error: OffshelfError) -> str:
    """The class name an error is sent under: its own, or that of its nearest parent in `offshelf.errors`."""
    names = (kind.__name__ for kind in type(error).__mro__ if vars(errors).get(kind.__name__) is kind)
    return next(names, OffshelfError.__name__)


def wire_detail(message: str) -> str:
    """Bring a message to one line that fits into the metadata of an answer."""
    # Cut first: a message may name what somebody sent, which may be megabytes.
    line = " ".join(message[:MAX_DETAIL_BYTES].split())
    if len(message) <= MAX_DETAIL_BYTES and len(quote(line)) <= MAX_DETAIL_BYTES:
        return line
    while len(quote(line)) > MAX_DETAIL_BYTES:
        line = line[: len(line) * 7 // 8]
    return f"{line} ..."


def error_from(code: grpc.StatusCode, message: str, name: str | None = None) -> OffshelfError:
    """Make the error that a status stands for.

    Parameters
    ----------
    code
        The status received.
    message
        Its text, kept as it is.
    name
        The class name that came with it. A name that does not fit the status is not believed.
    """
    named = vars(errors).get(name or "")
    if isinstance(named, type) and issubclass(named, OffshelfError):
        error: OffshelfError = named(message)
        if status_of(error) is code:
            return error
    by_status = {status: kind for kind, status in STATUS_OF.items()}
    return by_status.get(code, errors.Internal)(message)
