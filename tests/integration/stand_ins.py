"""Services of the contract that do nothing: for tests of what lies around every call."""

from __future__ import annotations

import asyncio
import importlib
import pkgutil
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf import message_factory

import offshelf.v1
from offshelf.rpc.auth import current_caller
from offshelf.rpc.server import RunningServer, start

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
    from prometheus_client import CollectorRegistry

    from offshelf.access import Caller
    from offshelf.settings import Settings


def services() -> list[ServiceDescriptor]:
    """List the services of the contract."""
    names = sorted(found.name for found in pkgutil.iter_modules(offshelf.v1.__path__) if found.name.endswith("_pb2"))
    modules = [importlib.import_module(f"offshelf.v1.{name}") for name in names]
    return [service for module in modules for service in module.DESCRIPTOR.services_by_name.values()]


def methods() -> list[MethodDescriptor]:
    """List the methods of the contract."""
    return [method for service in services() for method in service.methods]


def service(name: str) -> ServiceDescriptor:
    """Find a service by its short name."""
    return next(found for found in services() if found.name == name)


class StandIn:
    """Serves some services of the contract; each method answers once, and notes who called it.

    Parameters
    ----------
    names
        Short names of services. The first is the one that the server is known as.
    """

    def __init__(self, *names: str) -> None:
        self._services = [service(name) for name in names]
        self.name = self._services[0].full_name
        self.callers: list[Caller] = []
        self.hold = asyncio.Event()
        self.hold.set()

    def register(self, server: grpc.aio.Server) -> None:
        """Add all methods, and one that is in no contract."""
        for each in self._services:
            handlers = {method.name: self._handler(method) for method in each.methods}
            handlers["NotInTheContract"] = grpc.unary_unary_rpc_method_handler(self._one(bytes))
            server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(each.full_name, handlers),))

    async def warm_up(self) -> None:
        """Nothing needs to be warm."""

    async def close(self) -> None:
        """Nothing is open."""

    def _handler(self, method: MethodDescriptor) -> Any:
        request = message_factory.GetMessageClass(method.input_type)
        answer = message_factory.GetMessageClass(method.output_type)
        make: Any = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[method.client_streaming, method.server_streaming]
        behaviour = self._stream(answer) if method.server_streaming else self._one(answer)
        return make(behaviour, request.FromString, answer.SerializeToString)

    def _one(self, answer: Any) -> Any:
        async def one(_request: Any, _context: Any) -> Any:
            self.callers.append(current_caller())
            return answer()

        return one

    def _stream(self, answer: Any) -> Any:
        async def stream(_request: Any, _context: Any) -> AsyncIterator[Any]:
            self.callers.append(current_caller())
            yield answer()
            await self.hold.wait()
            yield answer()

        return stream


async def call(channel: grpc.aio.Channel, method: MethodDescriptor, **options: Any) -> None:
    """Call a method with an empty request, and read its answers to the end."""
    request = message_factory.GetMessageClass(method.input_type)
    answer = message_factory.GetMessageClass(method.output_type)
    kind = f"{'stream' if method.client_streaming else 'unary'}_{'stream' if method.server_streaming else 'unary'}"
    assert method.containing_service is not None
    path = f"/{method.containing_service.full_name}/{method.name}"
    ask: Any = getattr(channel, kind)(path, request.SerializeToString, answer.FromString)
    asked = ask(iter([request()]) if method.client_streaming else request(), timeout=20, **options)
    if method.server_streaming:
        async for _ in asked:
            pass
    else:
        await asked


@asynccontextmanager
async def served(
    service: Any, settings: Settings, registry: CollectorRegistry | None = None
) -> AsyncIterator[RunningServer]:
    """Serve with everything that the product puts around a service."""
    server = await start(service, settings, registry)
    hurry = asyncio.Event()
    hurry.set()
    try:
        yield server
    finally:
        await server.drain(hurry)
