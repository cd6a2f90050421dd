"""Connections to replicas: one each, kept while it is used."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

from offshelf.errors import DeadlineExceeded, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from offshelf.services.orchestrator.fleet.replicas import Replica

IDLE_SECONDS = 60.0
"""A connection that nobody uses for so long is closed."""


class Closable(Protocol):
    """As much of a connection as this module looks at."""

    async def close(self) -> None:
        """End it."""
        ...


C = TypeVar("C", bound=Closable)


@dataclass(slots=True, eq=False)
class _Line(Generic[C]):
    """A connection and who uses it."""

    channel: C
    users: int = 0
    retired: bool = False
    """Whether new calls get another one."""
    idle: asyncio.TimerHandle | None = None


class Channels(Generic[C]):
    """The connections to all replicas. Belongs to one event loop.

    Parameters
    ----------
    open_
        Opens the connection to a replica.
    """

    def __init__(self, open_: Callable[[Replica], C]) -> None:
        self._open = open_
        self._lines: dict[Replica, _Line[C]] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def to(self, replica: Replica) -> AsyncIterator[C]:
        """Use the connection to a replica. When something fails inside, the next call gets a new one."""
        line = self._line(replica)
        line.users += 1
        if line.idle:
            line.idle.cancel()
            line.idle = None
        try:
            yield line.channel
        except (Unavailable, DeadlineExceeded):
            # It may be the connection, and a new one comes about without the back-off of the old one.
            self._retire(replica, line)
            raise
        finally:
            line.users -= 1
            if not line.users:
                self._put_aside(replica, line)

    async def close(self) -> None:
        """Close all connections; calls that are under way are broken off."""
        for replica, line in list(self._lines.items()):
            if line.idle:
                line.idle.cancel()
            self._retire(replica, line)
            self._end(line)
        await asyncio.gather(*self._closing, return_exceptions=True)

    def _line(self, replica: Replica) -> _Line[C]:
        if replica not in self._lines:
            self._lines[replica] = _Line(self._open(replica))
        return self._lines[replica]

    def _put_aside(self, replica: Replica, line: _Line[C]) -> None:
        if line.retired:
            self._end(line)
        else:
            line.idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._expire, replica, line)

    def _expire(self, replica: Replica, line: _Line[C]) -> None:
        self._retire(replica, line)
        self._end(line)

    def _retire(self, replica: Replica, line: _Line[C]) -> None:
        line.retired = True
        if self._lines.get(replica) is line:
            del self._lines[replica]

    def _end(self, line: _Line[C]) -> None:
        if line.idle:
            line.idle.cancel()
        task = asyncio.get_running_loop().create_task(line.channel.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
