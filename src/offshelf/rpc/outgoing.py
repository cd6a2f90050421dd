"""What happens around every call of a client: metadata, a deadline, and errors as `offshelf.errors`.

The same for `grpc.aio` and for plain `grpc`, whose interceptors have nothing in common but the names.
"""

from __future__ import annotations

import math
import re
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc

from offshelf import deadline
from offshelf.errors import Cancelled, Conflict, DeadlineExceeded, OffshelfError, ResourceExhausted
from offshelf.logs import request_id
from offshelf.rpc.auth import bearer
from offshelf.rpc.limits import MAX_MESSAGE_BYTES
from offshelf.rpc.status import ERROR_METADATA, REQUEST_ID_METADATA, error_from
from offshelf.rpc.unreachable import Security, Unreachable, why_unreachable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
    from pathlib import Path

_LOCALLY_CANCELLED: Final = "Locally cancelled"
_LIMIT: Final = re.compile(r"larger than max \(\d+ vs\. (\d+)\)")


@dataclass(frozen=True)
class CallPolicy:
    """What all calls of one channel have in common."""

    address: str
    """Where the server is, as the user wrote it."""

    token: str | None = field(repr=False)
    """Sent as metadata, since gRPC's call credentials refuse plaintext, loopback included."""

    unary_seconds: float
    """Deadline of a unary call for which none is given, in seconds; never later than that of the call it is part of."""

    security: Security = Security.NONE
    """How the connection is protected."""

    tls: Path | None = None
    """Folder with the certificate that is shown to the server, if one is."""

    server_name: str = ""
    """The name that the server's certificate must have, if it is not the host of the address."""

    def metadata(self, given: Any) -> list[tuple[str, str | bytes]]:
        """Add the token and the request id to what the caller gave; a call that serves no request begins one."""
        added: list[tuple[str, str | bytes]] = list(given or ())
        if self.token is not None:
            added.append(bearer(self.token))
        if not any(key == REQUEST_ID_METADATA for key, _ in added):
            added.append((REQUEST_ID_METADATA, request_id.get() or secrets.token_hex(8)))
        return added

    def seconds(self, given: float | None, *, unary: bool) -> float | None:
        """Choose a deadline in seconds: the one given, or the usual one, unless the call is part of one due before."""
        wanted = self.unary_seconds if unary and given is None else given
        within = deadline.at_most(math.inf if wanted is None else wanted)
        return None if math.isinf(within) else within

    def error(self, error: grpc.RpcError) -> OffshelfError:
        """Translate what a call failed with; see `offshelf.rpc.status`."""
        code, details = error.code(), error.details() or ""
        trailing: Any = error.trailing_metadata() or ()
        name = next((value for key, value in trailing if key == ERROR_METADATA), None)
        if name is not None:
            return error_from(code, details, name if isinstance(name, str) else name.decode(errors="replace"))
        return self._error_of_grpc(code, details)

    def _error_of_grpc(self, code: grpc.StatusCode, details: str) -> OffshelfError:
        """Say in plain words what gRPC itself, and not our server, has to say."""
        server = f"The server at {self.address}"
        match code:
            case grpc.StatusCode.UNAVAILABLE:
                error: OffshelfError = Unreachable(why_unreachable(details, self))
            case grpc.StatusCode.DEADLINE_EXCEEDED:
                error = DeadlineExceeded(f"{server} did not answer in time. Try again later.")
            case grpc.StatusCode.CANCELLED if _LOCALLY_CANCELLED in details:
                error = Cancelled("The call was cancelled.")
            case grpc.StatusCode.CANCELLED:
                # A server that stops cancels what has not ended in its grace.
                error = Unreachable(f"{server} ended the call; it may be stopping. Try again.")
            case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in details:
                said = _LIMIT.search(details)  # that of the side which refused it
                limit = (int(said[1]) if said else MAX_MESSAGE_BYTES) // 2**20
                error = ResourceExhausted(f"A message was larger than the limit of {limit} MiB. Send less at once.")
            case grpc.StatusCode.UNIMPLEMENTED:
                advice = "Check the address, and install the same version of Offshelf on both sides."
                error = Conflict(f"{server} does not know this request. {advice}")
            case _:
                error = error_from(code, f"{server} failed: {details}")
        return error


class _AioPart:
    def __init__(self, policy: CallPolicy) -> None:
        self._policy = policy

    def _details(self, given: grpc.aio.ClientCallDetails, *, unary: bool = False) -> grpc.aio.ClientCallDetails:
        return grpc.aio.ClientCallDetails(
            given.method,
            self._policy.seconds(given.timeout, unary=unary),
            grpc.aio.Metadata(*self._policy.metadata(given.metadata)),
            given.credentials,
            given.wait_for_ready,
        )

    async def _answers(self, call: Any) -> AsyncIterator[Any]:
        try:
            async for answer in call:
                yield answer
        except grpc.RpcError as error:
            raise self._policy.error(error) from error
        finally:
            # A reader that leaves early must not keep the server working. Does nothing to a call that has ended.
            call.cancel()


class _AioUnaryUnary(_AioPart, grpc.aio.UnaryUnaryClientInterceptor):
    async def intercept_unary_unary(
        self,
        continuation: Callable[..., Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        call = await continuation(self._details(client_call_details, unary=True), request)
        try:
            return await call
        except grpc.RpcError as error:
            raise self._policy.error(error) from error


class _AioUnaryStream(_AioPart, grpc.aio.UnaryStreamClientInterceptor):
    async def intercept_unary_stream(
        self,
        continuation: Callable[..., Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request: Any,
    ) -> Any:
        return self._answers(await continuation(self._details(client_call_details), request))


class _AioStreamUnary(_AioPart, grpc.aio.StreamUnaryClientInterceptor):
    async def intercept_stream_unary(
        self,
        continuation: Callable[..., Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        # Not awaited here: whoever writes to the call needs it before it has an answer.
        return _TranslatedCall(await continuation(self._details(client_call_details), request_iterator), self._policy)


class _AioStreamStream(_AioPart, grpc.aio.StreamStreamClientInterceptor):
    async def intercept_stream_stream(
        self,
        continuation: Callable[..., Awaitable[Any]],
        client_call_details: grpc.aio.ClientCallDetails,
        request_iterator: Any,
    ) -> Any:
        return self._answers(await continuation(self._details(client_call_details), request_iterator))


def aio_interceptors(policy: CallPolicy) -> list[grpc.aio.ClientInterceptor]:
    """Make the interceptors of a `grpc.aio` channel; it sorts them by type, so one object cannot be all four."""
    return [_AioUnaryUnary(policy), _AioUnaryStream(policy), _AioStreamUnary(policy), _AioStreamStream(policy)]


class _TranslatedCall:
    """A call in progress, of either kind of channel, that raises our errors; all else is the call's own."""

    def __init__(self, call: Any, policy: CallPolicy) -> None:
        self._call = call
        self._policy = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)

    def __await__(self) -> Any:
        try:
            return (yield from self._call.__await__())
        except grpc.RpcError as error:
            raise self._policy.error(error) from error

    def result(self, timeout: float | None = None) -> Any:
        try:
            return self._call.result(timeout)
        except grpc.RpcError as error:
            raise self._policy.error(error) from error

    def exception(self, timeout: float | None = None) -> BaseException | None:
        failure: BaseException | None = self._call.exception(timeout)
        return self._policy.error(failure) if isinstance(failure, grpc.RpcError) else failure

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self._call)
        except grpc.RpcError as error:
            raise self._policy.error(error) from error


@dataclass
class _SyncDetails(grpc.ClientCallDetails):
    method: str
    timeout: float | None
    metadata: Any
    credentials: grpc.CallCredentials | None
    wait_for_ready: bool | None
    compression: grpc.Compression | None


class SyncInterceptor(
    grpc.UnaryUnaryClientInterceptor,
    grpc.UnaryStreamClientInterceptor,
    grpc.StreamUnaryClientInterceptor,
    grpc.StreamStreamClientInterceptor,
):
    """The interceptor of a plain `grpc` channel, for all four kinds of call."""

    def __init__(self, policy: CallPolicy) -> None:
        self._policy = policy

    def intercept_unary_unary(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See `grpc.UnaryUnaryClientInterceptor`."""
        return self._call(continuation, client_call_details, request, unary=True)

    def intercept_unary_stream(self, continuation: Any, client_call_details: Any, request: Any) -> Any:
        """See `grpc.UnaryStreamClientInterceptor`."""
        return self._call(continuation, client_call_details, request)

    def intercept_stream_unary(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """See `grpc.StreamUnaryClientInterceptor`."""
        return self._call(continuation, client_call_details, request_iterator)

    def intercept_stream_stream(self, continuation: Any, client_call_details: Any, request_iterator: Any) -> Any:
        """See `grpc.StreamStreamClientInterceptor`."""
        return self._call(continuation, client_call_details, request_iterator)

    def _call(self, continuation: Any, given: Any, request: Any, *, unary: bool = False) -> Any:
        details = _SyncDetails(
            given.method,
            self._policy.seconds(given.timeout, unary=unary),
            tuple(self._policy.metadata(given.metadata)),
            given.credentials,
            given.wait_for_ready,
            given.compression,
        )
        return _TranslatedCall(continuation(details, request), self._policy)
