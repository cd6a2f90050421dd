"""What a service has to be, and may be, for `offshelf.rpc.server` to serve it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import grpc.aio
    from prometheus_client import CollectorRegistry

    from offshelf.audit import AuditTrail


class Service(Protocol):
    """What a service gives to be served."""

    name: str
    """Full name, for example "offshelf.v1.ExtractorService"."""

    def register(self, server: grpc.aio.Server) -> None:
        """Add the servicer to the server."""
        ...

    async def warm_up(self) -> None:
        """Do once what every call needs; the service is ready when this returns. Blocking work belongs in a thread."""
        ...

    async def close(self) -> None:
        """Give everything back; called when no call runs any more, also after a failed or interrupted warm-up."""
        ...


@runtime_checkable
class Drains(Protocol):
    """A service that has to be told when it should come to an end, for example to end its watch streams."""

    async def drain(self) -> None:
        """Bring long calls to an end; called before gRPC stops taking calls."""
        ...


@runtime_checkable
class KnowsWhetherLive(Protocol):
    """A service that can tell that it is stuck."""

    def is_live(self) -> bool:
        """Tell, at once and without blocking, whether this process is worth keeping."""
        ...


@runtime_checkable
class WantsAddress(Protocol):
    """A service that has to know where it is reached, for example to tell others."""

    async def serving(self, address: str) -> None:
        """Take note of the service's own address; called when it is ready, before that is announced."""
        ...


@runtime_checkable
class BringsToken(Protocol):
    """A service whose token is made anew at each start, instead of being configured."""

    @property
    def token_file(self) -> Path | None:
        """File that holds the token which every call must bring; None for what the settings say."""
        ...


@runtime_checkable
class Audited(Protocol):
    """A service whose calls are to be on record."""

    @property
    def audit(self) -> AuditTrail:
        """Where they are recorded."""
        ...


@runtime_checkable
class LimitsRequests(Protocol):
    """A service that needs no requests as large as a message may be, and takes none."""

    largest_request: int
    """In bytes."""


@runtime_checkable
class ServesMore(Protocol):
    """A service that registers servicers of several contracts."""

    other_names: tuple[str, ...]
    """Full names of all but `name`."""


@runtime_checkable
class Measured(Protocol):
    """A service that has figures of its own."""

    def measure(self, registry: CollectorRegistry) -> None:
        """Let Prometheus read them; called once, before the service is ready."""
        ...
