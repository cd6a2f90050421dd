"""What happens around every call of a server, for all four kinds of call at once.

A *layer* is an asynchronous context manager around one call: it sees the call before the servicer does, and how it
ended. `ServerShell` puts a list of layers around every method, also around those that do not exist, so that nothing is
reachable without them. Streams of answers are written by the shell itself: a servicer's generator is then closed at
once when its client leaves, not when the garbage collector finds it.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import logging
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc

from offshelf import deadline
from offshelf.errors import EngineUnavailable, Internal, OffshelfError, StoreUnavailable, Unavailable
from offshelf.logs import request_id
from offshelf.rpc.status import ERROR_METADATA, REQUEST_ID_METADATA, public_name, status_of, wire_detail
from offshelf.rpc.throttle import TooManyFailures

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
    from typing import TypeAlias

    Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]

_LOG: Final = logging.getLogger(__name__)
_SANE_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{4,64}")


@dataclass(frozen=True)
class Call:
    """One call, as the layers see it."""

    method: str
    """Full name, for example "/offshelf.v1.ExtractorService/Describe"."""

    known: bool
    """Whether the server has this method."""

    context: grpc.aio.ServicerContext[Any, Any]
    """gRPC's handle of the call."""

    request: Any = None
    """What was sent; of a stream of requests, the stream."""

    def metadata(self, key: str) -> list[str]:
        """All values the client sent under a key."""
        sent = self.context.invocation_metadata() or ()
        return [str(value) for name, value in sent if name == key]


class Layer(Protocol):
    """Something that happens around every call."""

    def __call__(self, call: Call) -> contextlib.AbstractAsyncContextManager[None]:
        """Enter before the servicer runs, leave when it has ended."""
        ...


class ServerShell(grpc.aio.ServerInterceptor):
    """Puts layers around every call.

    Parameters
    ----------
    layers
        From the outermost to the innermost.
    hears
        Tells from the metadata of a call whether to read what it sends at all. gRPC reads and parses the one request of
        a call before any layer sees it; without this, strangers could fill the memory with requests that are refused.
    """

    def __init__(self, layers: Sequence[Layer], hears: Callable[[Metadata], bool] = lambda _: True) -> None:
        self._layers = tuple(layers)
        self._hears = hears
        self._running: set[asyncio.Task[Any]] = set()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any]:
        """Wrap the method's handler; see `grpc.aio.ServerInterceptor`."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        # As a stream of requests, of which nothing is read until somebody asks for the first.
        if handler is None:
            return grpc.stream_stream_rpc_method_handler(self._wrap(method, _unknown_method, streams=True, known=False))
        if not self._hears(handler_call_details.invocation_metadata or ()):
            return grpc.stream_stream_rpc_method_handler(self._wrap(method, _unheard, streams=True, known=True))
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[handler.request_streaming, handler.response_streaming]
        behaviours = (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream)
        behaviour = next(candidate for candidate in behaviours if candidate is not None)
        return make(
            self._wrap(method, behaviour, streams=handler.response_streaming, known=True),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )

    async def settled(self, seconds: float) -> None:
        """Wait, at most so long, until no servicer runs any more.

        gRPC counts a cancelled call as ended while its servicer may still be waiting for a thread to stop.
        """
        if self._running:
            await asyncio.wait(self._running, timeout=seconds)

    def _wrap(
        self, method: str, behaviour: Callable[..., Any], *, streams: bool, known: bool
    ) -> Callable[..., Awaitable[Any]]:
        async def wrapped(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
            task = asyncio.current_task()
            if task is not None:
                self._running.add(task)
                task.add_done_callback(self._running.discard)
            call = Call(method, known, context, request)
            async with contextlib.AsyncExitStack() as stack:
                for layer in self._layers:
                    await stack.enter_async_context(layer(call))
                answer = behaviour(request, context)
                if streams and inspect.isasyncgen(answer):
                    async with contextlib.aclosing(answer):
                        async for message in answer:
                            await context.write(message)
                    return None
                return await answer

        return wrapped


async def _unheard(_request: object, _context: grpc.aio.ServicerContext[Any, Any]) -> None:
    # The layers have refused the call, unless its token has become good in between.
    raise Unavailable("The users of this server have just changed. Try again.")


async def _unknown_method(_request: object, context: grpc.aio.ServicerContext[Any, Any]) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, "This server does not have that method.")


@contextlib.asynccontextmanager
async def request_id_layer(call: Call) -> AsyncIterator[None]:
    """Give the call its id: the client's if it looks like one, otherwise a new one.

    It is sent back with the trailing metadata alone. Initial metadata would commit the call, and a client's retries
    then no longer happen.
    """
    sent = call.metadata(REQUEST_ID_METADATA)
    sane = len(sent) == 1 and _SANE_REQUEST_ID.fullmatch(sent[0])
    request_id.set(sent[0] if sane else secrets.token_hex(8))
    call.context.set_trailing_metadata(((REQUEST_ID_METADATA, request_id.get()),))
    yield


@contextlib.asynccontextmanager
async def deadline_layer(call: Call) -> AsyncIterator[None]:
    """Let the work of the call know for how long its client waits; see `offshelf.deadline`."""
    deadline.call_is_due_in(call.context.time_remaining())
    yield


@contextlib.asynccontextmanager
async def errors_layer(call: Call) -> AsyncIterator[None]:
    """Turn what a servicer raises into a status.

    Our own errors carry a message for the client. Anything else is a defect: it is logged, and the client learns the
    request id only. `context.abort` and cancellation pass through.
    """
    try:
        yield
    except grpc.aio.AbortError:
        raise
    except OffshelfError as error:
        # Whoever floods us with wrong tokens does not get to flood the logs too.
        level = logging.DEBUG if isinstance(error, TooManyFailures) else logging.INFO
        reason = wire_detail(error.message)
        _LOG.log(level, "call failed", extra={"method": call.method, "error": public_name(error), "reason": reason})
        await _abort(call, error)
    except Exception:  # noqa: BLE001  # whatever it is, its text is not for clients
        _LOG.exception("call failed by a defect", extra={"method": call.method})
        text = f"internal error, request id {request_id.get()}. The logs of the service say more under this id."
        await _abort(call, Internal(text))


async def _abort(call: Call, error: OffshelfError) -> None:
    trailing: tuple[tuple[str, str], ...] = (
        (ERROR_METADATA, public_name(error)),
        (REQUEST_ID_METADATA, request_id.get()),
    )
    if isinstance(error, StoreUnavailable | EngineUnavailable):
        # It was waited for here already: gRPC's own attempts would only keep the reason from the caller.
        trailing = (*trailing, ("grpc-retry-pushback-ms", "-1"))
    await call.context.abort(status_of(error), wire_detail(error.message), trailing)
