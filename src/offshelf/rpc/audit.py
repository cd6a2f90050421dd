"""Around every call of a door: what goes into the audit log."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

from offshelf.audit import Deed
from offshelf.rpc.auth import caller_of_call
from offshelf.rpc.metrics import status_name
from offshelf.store.patience import waits_end_with

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from offshelf.audit import AuditTrail
    from offshelf.rpc.interceptors import Call

_FLUSH_SECONDS: Final = 2.0
_CLOSE_SECONDS: Final = 2.0
_TARGETS: Final = ("run_id", "digest", "model", "request_id")
"""Fields of requests that name what a call is about, the first that is there; none of them holds content."""

_target_of_call: Final[ContextVar[str]] = ContextVar("target", default="")


def name_target(target: str) -> None:
    """Say what the call that is being served is about, where its request does not: what it has made, how much came."""
    _target_of_call.set(target)


class Auditor:
    """Records the calls of one server; `around` is the layer that does so.

    It lies around the layer that lets callers in, so that those who are refused are recorded too.

    Parameters
    ----------
    trail
        Where they are recorded.
    close_seconds
        For so long a store that is away is waited for at the end; what it does not take is in the log alone.
    """

    def __init__(self, trail: AuditTrail, *, close_seconds: float = _CLOSE_SECONDS) -> None:
        self._trail = trail
        self._close_seconds = close_seconds
        self._ending = threading.Event()
        self._writing = asyncio.ensure_future(self._write())

    @contextlib.asynccontextmanager
    async def around(self, call: Call) -> AsyncIterator[None]:
        """Record one call when it has ended."""
        outcome = "UNKNOWN"
        try:
            yield
            outcome = status_name(call)
        except asyncio.CancelledError:
            outcome = "CANCELLED"
            raise
        except BaseException:
            outcome = status_name(call)
            raise
        finally:
            caller = caller_of_call.get()
            method = call.method.rpartition("/")[2] if call.known else "unknown"
            target = _target_of_call.get() or _target(call.request)
            self._trail.record(Deed(caller.name if caller else "", method, target, outcome))

    async def close(self) -> None:
        """Write what is left."""
        self._writing.cancel()
        await asyncio.gather(self._writing, return_exceptions=True)
        hurry = asyncio.get_running_loop().call_later(self._close_seconds, self._ending.set)
        await asyncio.to_thread(self._flush)
        hurry.cancel()

    async def _write(self) -> None:
        while True:
            await asyncio.sleep(_FLUSH_SECONDS)
            await asyncio.to_thread(self._flush)

    def _flush(self) -> None:
        with waits_end_with(self._ending):
            self._trail.flush()


def _target(request: Any) -> str:
    """Name what a request is about; a stream of requests is about nothing by name, see `name_target`."""
    fields = getattr(getattr(request, "DESCRIPTOR", None), "fields_by_name", ())
    return next((str(getattr(request, name)) for name in _TARGETS if name in fields), "")
