"""Channels that follow their certificates.

gRPC gives a channel its certificates once. So where they may change there is a channel around the channel: a call that
begins after a change goes over a new one, and the old one is closed when the last call on it has ended.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

import grpc

if TYPE_CHECKING:
    from collections.abc import Callable

    from offshelf.reloading import Reloaded

T = TypeVar("T")

_SETTLE_SECONDS: Final = 5.0
"""An asynchronous call that has begun may need a moment until gRPC knows of it."""

_GRACE_SECONDS: Final = 3600.0
"""How long calls on an old channel may go on."""


class RotatingAioChannel(grpc.aio.Channel, Generic[T]):
    """A `grpc.aio` channel over the newest certificates.

    Parameters
    ----------
    source
        What the channel is made from.
    open_one
        Makes a channel.
    """

    def __init__(self, source: Reloaded[T], open_one: Callable[[T], grpc.aio.Channel]) -> None:
        self._source = source
        self._open_one = open_one
        self._made_from = source.value()
        self._newest = open_one(self._made_from)
        self._retiring: dict[asyncio.Task[None], grpc.aio.Channel] = {}
        self._closed = False

    def newest(self) -> grpc.aio.Channel:
        """Give the channel for a call that begins now."""
        latest = self._made_from if self._closed else self._source.value()
        if latest is not self._made_from:
            old, self._newest = self._newest, self._open_one(latest)
            self._made_from = latest
            task = asyncio.get_running_loop().create_task(_retire(old))
            self._retiring[task] = old
            task.add_done_callback(lambda done: self._retiring.pop(done, None))
        return self._newest

    async def close(self, grace: float | None = None) -> None:
        """Close all that is open; see `grpc.aio.Channel`."""
        self._closed = True
        retiring = dict(self._retiring)
        for task in retiring:
            task.cancel()
        await asyncio.gather(*retiring, return_exceptions=True)
        await asyncio.gather(*(channel.close(grace) for channel in (self._newest, *retiring.values())))

    async def __aenter__(self) -> RotatingAioChannel[T]:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close(None)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:  # noqa: FBT001, FBT002  gRPC's signature
        """See `grpc.aio.Channel`."""
        return self._newest.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """See `grpc.aio.Channel`."""
        await self._newest.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        """See `grpc.aio.Channel`."""
        await self._newest.channel_ready()

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._late(lambda channel: channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._late(lambda channel: channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._late(lambda channel: channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.aio.Channel`."""
        return self._late(lambda channel: channel.stream_stream(*args, **kwargs))

    def _late(self, on: Callable[[grpc.aio.Channel], Any]) -> Any:
        """Make a method that finds its channel when it is called; stubs are made only once."""

        def call(*args: Any, **kwargs: Any) -> Any:
            return on(self.newest())(*args, **kwargs)

        return call


async def _retire(channel: grpc.aio.Channel) -> None:
    await asyncio.sleep(_SETTLE_SECONDS)
    await channel.close(_GRACE_SECONDS)


@dataclass(eq=False)
class _Line:
    """A channel, and how many calls are on it."""

    channel: grpc.Channel
    calls: int = 0
    retired: bool = False


class RotatingChannel(grpc.Channel, Generic[T]):
    """A blocking channel over the newest certificates; see `RotatingAioChannel`."""

    def __init__(self, source: Reloaded[T], open_one: Callable[[T], grpc.Channel]) -> None:
        self._source = source
        self._open_one = open_one
        self._made_from = source.value()
        self._lock = threading.Lock()
        self._line = _Line(open_one(self._made_from))
        self._retired: set[_Line] = set()

    def begin(self) -> _Line:
        """Take the line for a call that begins now; `end` gives it back."""
        with self._lock:
            latest = self._source.value()
            idle = None
            if latest is not self._made_from:
                old, self._line = self._line, _Line(self._open_one(latest))
                self._made_from = latest
                old.retired = True
                self._retired.add(old)
                idle = old if not old.calls else None
            self._line.calls += 1
            line = self._line
        if idle is not None:
            self._close(idle)
        return line

    def end(self, line: _Line) -> None:
        """Give a line back when the call on it has ended."""
        with self._lock:
            line.calls -= 1
            idle = line.retired and not line.calls
        if idle:
            # gRPC calls back on the thread that closing waits for.
            threading.Thread(target=self._close, args=(line,), name="close-channel", daemon=True).start()

    def close(self) -> None:
        """Close all that is open; calls that are under way are broken off."""
        with self._lock:
            lines = [self._line, *self._retired]
        for line in lines:
            self._close(line)

    def _close(self, line: _Line) -> None:
        line.channel.close()
        with self._lock:
            self._retired.discard(line)

    def __enter__(self) -> RotatingChannel[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def subscribe(self, callback: Any, try_to_connect: bool = False) -> None:  # noqa: FBT001, FBT002  gRPC's signature
        """See `grpc.Channel`."""
        self._line.channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Any) -> None:
        """See `grpc.Channel`."""
        self._line.channel.unsubscribe(callback)

    def unary_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel`."""
        return _Callable(self, lambda channel: channel.unary_unary(*args, **kwargs))

    def unary_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel`."""
        return _Stream(self, lambda channel: channel.unary_stream(*args, **kwargs))

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel`."""
        return _Callable(self, lambda channel: channel.stream_unary(*args, **kwargs))

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        """See `grpc.Channel`."""
        return _Stream(self, lambda channel: channel.stream_stream(*args, **kwargs))


class _Method:
    def __init__(self, channel: RotatingChannel[Any], on: Callable[[grpc.Channel], Any]) -> None:
        self._channel = channel
        self._on = on

    def _start(self, start: Callable[[Any], Any]) -> Any:
        """Begin a call that goes on by itself."""
        line = self._channel.begin()
        try:
            call = start(self._on(line.channel))
        except BaseException:
            self._channel.end(line)
            raise
        if not call.add_callback(lambda: self._channel.end(line)):
            self._channel.end(line)
        return call


class _Stream(_Method):
    """A method whose answers are a stream."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._start(lambda method: method(*args, **kwargs))


class _Callable(_Method):
    """A method with one answer."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.with_call(*args, **kwargs)[0]

    def with_call(self, *args: Any, **kwargs: Any) -> Any:
        """Wait for the answer; see `grpc.UnaryUnaryMultiCallable`."""
        line = self._channel.begin()
        try:
            return self._on(line.channel).with_call(*args, **kwargs)
        finally:
            self._channel.end(line)

    def future(self, *args: Any, **kwargs: Any) -> Any:
        """Begin a call and return at once; see `grpc.UnaryUnaryMultiCallable`."""
        return self._start(lambda method: method.future(*args, **kwargs))
